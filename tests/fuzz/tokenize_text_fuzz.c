/* Fuzz entry: any bytes as text for the demo model's tokenizer in both its forms: they agree, the
 * bytes come back, and no special token comes out of untrusted text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/demo.h"
#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int held, const char *what)
{
    if (!held) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

static struct tokenizer *demo(const char *prefer)
{
    struct source_file files[32];
    struct source *source = NULL;
    struct tokenizer *t = NULL;
    struct err err;
    check(demo_n_files <= 32, "the demo model's files");
    for (size_t i = 0; i < demo_n_files; i++)
        files[i] = (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    check(!source_open_memory("demo", files, demo_n_files, &source, &err), "the demo model");
    check(!tokenizer_open(source, NULL, 0, prefer, &t, &err), "its tokenizer");
    source_close(source);
    return t;
}

/* U+2581 is how the vocabulary writes a space: it comes back as one. */
static void expect_text(const struct buf *back, const char *text, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; at++) {
        int space = n - i >= 3 && !memcmp(text + i, "\xE2\x96\x81", 3);
        check(at < back->size && back->data[at] == (space ? ' ' : text[i]), "round trip");
        i += space ? 3 : 1;
    }
    check(at == back->size, "round trip: length");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *both[2]; /* as long as the process */
    const char *text = (const char *)data;
    struct token_list ids[2] = {{0}, {0}}, trusted = {0};
    struct text_span span = {size / 3, size};
    struct err err;
    for (int k = 0; k < 2; k++) {
        struct buf back;
        if (!both[k])
            both[k] = demo(k ? "spm" : "json");
        buf_init(&back, 0);
        check(!tokenizer_encode(both[k], text, size, false, NULL, 0, &ids[k], &err), "encode");
        check(!tokenizer_decode(both[k], ids[k].ids, ids[k].n, false, true, &back), "decode");
        for (size_t i = 0; i < ids[k].n; i++)
            check(!tokenizer_is_special(both[k], ids[k].ids[i]), "a special token");
        expect_text(&back, text, size);
        buf_free(&back);
        trusted.n = 0;
        check(!tokenizer_encode(both[k], text, size, true, &span, 1, &trusted, &err), "trusted");
    }
    check(ids[0].n == ids[1].n &&
              (!ids[0].n || !memcmp(ids[0].ids, ids[1].ids, ids[0].n * sizeof(int32_t))),
          "tokenizer.json and tokenizer.model differ");
    token_list_free(&ids[0]);
    token_list_free(&ids[1]);
    token_list_free(&trusted);
    return 0;
}
