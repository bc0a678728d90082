/* Fuzz entry: any bytes as text for the demo model's tokenizer in its two forms and for the
 * sentencepiece library: they agree, the bytes come back, and no special token comes out of
 * untrusted text. */
#include "config/demo.h"
#include "engine/tokenizer/spm_model.h"
#include "engine/tokenizer/vocab.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *open_files(const struct source_file *files, size_t n, const char *prefer)
{
    struct source *source = NULL;
    struct tokenizer *t = NULL;
    struct err err;
    check(!source_open_memory("demo", files, n, &source, &err), "the demo model");
    check(!tokenizer_open(source, NULL, 0, prefer, &t, &err), "its tokenizer");
    source_close(source);
    return t;
}

/* Its last piece, one character that no other is made of, is called unused: such models are left to
 * the library. The ids are the same. */
static struct tokenizer *open_library(const struct source_file *file)
{
    struct spm_model model;
    struct buf proto;
    struct err err;
    buf_init(&proto, 0);
    check(!spm_model_open(&model, file->data, file->size, file->name, &err), "its model");
    model.pieces[model.n_pieces - 1].type = VOCAB_UNUSED;
    check(!spm_model_write(&model, model.dummy_prefix, &proto), "a proto");
    struct source_file changed = {file->name, (const uint8_t *)proto.data, proto.size};
    struct tokenizer *t = open_files(&changed, 1, "spm");
    spm_model_close(&model);
    buf_free(&proto);
    return t;
}

static void open_forms(struct tokenizer *forms[3])
{
    struct source_file files[32];
    check(demo_n_files <= 32, "the demo model's files");
    for (size_t i = 0; i < demo_n_files; i++) {
        files[i] = (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
        if (!strcmp(files[i].name, "tokenizer.model"))
            forms[2] = open_library(&files[i]);
    }
    forms[0] = open_files(files, demo_n_files, "json");
    forms[1] = open_files(files, demo_n_files, "spm");
    check(forms[2] != NULL, "the demo model's tokenizer.model");
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
    enum { N = 3 };
    static struct tokenizer *forms[N]; /* as long as the process */
    const char *text = (const char *)data;
    struct token_list ids[N] = {{0}}, trusted = {0};
    struct text_span span = {size / 3, size};
    struct err err;
    if (!forms[0])
        open_forms(forms);
    for (int k = 0; k < N; k++) {
        struct buf back;
        buf_init(&back, 0);
        check(!tokenizer_encode(forms[k], text, size, false, NULL, 0, &ids[k], &err), "encode");
        check(!tokenizer_decode(forms[k], ids[k].ids, ids[k].n, false, true, &back), "decode");
        for (size_t i = 0; i < ids[k].n; i++)
            check(!tokenizer_is_special(forms[k], ids[k].ids[i]), "a special token");
        expect_text(&back, text, size);
        buf_free(&back);
        trusted.n = 0;
        check(!tokenizer_encode(forms[k], text, size, true, &span, 1, &trusted, &err), "trusted");
        check(ids[0].n == ids[k].n &&
                  (!ids[0].n || !memcmp(ids[0].ids, ids[k].ids, ids[0].n * sizeof(int32_t))),
              "the forms differ");
    }
    for (int k = 0; k < N; k++)
        token_list_free(&ids[k]);
    token_list_free(&trusted);
    return 0;
}
