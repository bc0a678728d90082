/* What the tokenizer tests share: tokenizers from repository, test-data and in-memory files, and
 * comparisons that say what differs. */
#ifndef SIROCCO_TOKENIZER_RIG_H
#define SIROCCO_TOKENIZER_RIG_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/spm_model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"
#include "tests/test.h"

#define UNUSED __attribute__((unused))

/* The bytes of a file; of what gzip packed when its name ends in .gz. malloced, NUL-terminated. */
UNUSED static char *rig_read(const char *path, size_t *size)
{
    size_t n = strlen(path);
    if (n < 3 || strcmp(path + n - 3, ".gz") != 0)
        return test_read(path, size);
    char command[4200];
    snprintf(command, sizeof command, "gzip -dc '%s'", path);
    FILE *pipe = popen(command, "r");
    struct buf out;
    buf_init(&out, 0);
    static char block[1 << 16];
    for (size_t got; pipe && (got = fread(block, 1, sizeof block, pipe)) > 0;)
        buf_add(&out, block, got);
    if (!pipe || pclose(pipe) || out.failed || !out.size) {
        buf_free(&out);
        return NULL;
    }
    *size = out.size;
    return out.data;
}

/* A tokenizer of files that lie in memory. NULL, and the reason in err, when refused. */
UNUSED static struct tokenizer *rig_open_memory(const struct source_file *files, size_t n,
                                                int vocab_size, struct err *err)
{
    struct source *source = NULL;
    struct tokenizer *t = NULL;
    struct gguf *gguf = NULL;
    EXPECT_INT(source_open_memory("rig", files, n, &source, err), 0);
    if (!source_gguf(source) || !gguf_open(source_gguf(source), &gguf, err))
        (void)tokenizer_open(source, gguf, vocab_size, NULL, &t, err);
    gguf_close(gguf);
    source_close(source);
    return t;
}

/* A tokenizer of one file, seen under the name `as`. */
UNUSED static struct tokenizer *rig_open_as(const char *path, const char *as)
{
    struct source_file file = {.name = as};
    struct err err = {0};
    char *bytes = rig_read(path, &file.size);
    EXPECT(bytes != NULL);
    file.data = (const uint8_t *)bytes;
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s: %s\n", path, err.text);
    EXPECT(t != NULL);
    free(bytes);
    return t;
}

/* A tokenizer.model whose merging is left to the sentencepiece library: its last piece, one character
 * that no other piece is made of, is called unused. The ids are the same. */
UNUSED static struct tokenizer *rig_open_library(const char *path)
{
    struct spm_model model;
    struct err err = {0};
    struct buf proto;
    size_t n;
    char *bytes = rig_read(path, &n);
    EXPECT(bytes != NULL);
    EXPECT_INT(spm_model_open(&model, (const uint8_t *)bytes, n, "tokenizer.model", &err), 0);
    buf_init(&proto, 0);
    model.pieces[model.n_pieces - 1].type = VOCAB_UNUSED;
    EXPECT_INT(spm_model_write(&model, model.dummy_prefix, &proto), 0);
    struct source_file file = {"tokenizer.model", (const uint8_t *)proto.data, proto.size};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s: %s\n", path, err.text);
    EXPECT(t != NULL);
    spm_model_close(&model);
    buf_free(&proto);
    free(bytes);
    return t;
}

/* The same from the test data; NULL when it is not there. */
UNUSED static struct tokenizer *rig_open_data(const char *relative, const char *as)
{
    const char *path = test_data(relative);
    return path ? rig_open_as(path, as) : NULL;
}

UNUSED static struct token_list rig_encode(const struct tokenizer *t, const char *text, size_t n,
                                           bool add_special, bool trusted)
{
    struct token_list ids = {0};
    struct err err = {0};
    struct text_span all = {0, n};
    int code = tokenizer_encode(t, text, n, add_special, &all, trusted, &ids, &err);
    if (code)
        fprintf(stderr, "%s\n", err.text);
    EXPECT_INT(code, 0);
    return ids;
}

UNUSED static void rig_print(const char *name, const struct token_list *ids)
{
    fprintf(stderr, "  %s:", name);
    for (size_t i = 0; i < ids->n && i < 60; i++)
        fprintf(stderr, " %d", ids->ids[i]);
    fprintf(stderr, "%s\n", ids->n > 60 ? " ..." : "");
}

UNUSED static bool rig_same(const struct token_list *a, const struct token_list *b)
{
    return a->n == b->n && (a->n == 0 || !memcmp(a->ids, b->ids, a->n * sizeof *a->ids));
}

UNUSED static struct token_list rig_ids(const json_t *array)
{
    struct token_list ids = {0};
    EXPECT(json_is_array(array));
    for (size_t i = 0; i < json_array_size(array); i++)
        EXPECT_INT(token_list_add(&ids, (int32_t)json_integer_value(json_array_get(array, i))), 0);
    return ids;
}

/* 1 when text gives the ids of a JSON array; else says how it differs. */
UNUSED static int rig_gives(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                            bool trusted, const json_t *expected)
{
    struct token_list got = rig_encode(t, text, n, add_special, trusted), want = rig_ids(expected);
    int same = rig_same(&got, &want);
    if (!same) {
        fprintf(stderr, "%.200s\n", text);
        rig_print("got ", &got);
        rig_print("want", &want);
    }
    token_list_free(&got);
    token_list_free(&want);
    return same;
}

UNUSED static struct buf rig_decode(const struct tokenizer *t, const struct token_list *ids,
                                    bool with_special, bool strip_first)
{
    struct buf out;
    buf_init(&out, 0);
    EXPECT_INT(tokenizer_decode(t, ids->ids, ids->n, with_special, strip_first, &out), 0);
    return out;
}

/* 1 when decoding the encoding gives the text back. */
UNUSED static int rig_round_trip(const struct tokenizer *t, const char *text, size_t n)
{
    struct token_list ids = rig_encode(t, text, n, false, false);
    struct buf back = rig_decode(t, &ids, false, true);
    int same = back.size == n && (n == 0 || !memcmp(back.data, text, n));
    if (!same) {
        fprintf(stderr, "%zu bytes became %zu: %.100s\n", n, back.size, text);
        rig_print("ids", &ids);
    }
    token_list_free(&ids);
    buf_free(&back);
    return same;
}

/* Byte i of a repeatable sequence. */
UNUSED static uint32_t rig_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

UNUSED static double rig_cpu_seconds(const struct tokenizer *t, const char *text, size_t n)
{
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        clock_t start = clock();
        struct token_list ids = rig_encode(t, text, n, false, false);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        token_list_free(&ids);
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* Encoding eight times as much of one letter takes eight times as long, give or take. Quadratic
 * time would take 64 times as long, and minutes: two seconds are for a busy machine and sanitizers.
 */
UNUSED static void rig_expect_linear(const struct tokenizer *t, const char *unit)
{
    enum { SMALL = 1 << 17, LARGE = 1 << 20 };
    size_t n = strlen(unit);
    char *text = malloc(LARGE);
    EXPECT(text != NULL);
    for (size_t i = 0; i < LARGE; i++)
        text[i] = unit[i % n];
    double small = rig_cpu_seconds(t, text, SMALL), large = rig_cpu_seconds(t, text, LARGE);
    if (large > 24 * small + 2)
        fprintf(stderr, "'%s': %.4f s for 128 KiB, %.4f s for 1 MiB\n", unit, small, large);
    EXPECT(large <= 24 * small + 2);
    free(text);
}

/* Two forms give the same on random texts of n units, every other one of the first n / 2 alone. */
UNUSED static void rig_expect_same(const struct tokenizer *a, const struct tokenizer *b,
                                   const char *const *units, uint32_t n, size_t size)
{
    uint64_t seed = 3;
    for (int i = 0; i < 400; i++) {
        struct buf text;
        buf_init(&text, 0);
        while (text.size < size)
            buf_text(&text, units[rig_random(&seed) % (i % 2 ? n : n / 2)]);
        struct token_list left = rig_encode(a, text.data, text.size, false, false);
        struct token_list right = rig_encode(b, text.data, text.size, false, false);
        EXPECT(rig_same(&left, &right));
        token_list_free(&left);
        token_list_free(&right);
        buf_free(&text);
    }
}

/* Texts long enough that tokenizer.model hands them to the library in parts: they give what another
 * form gives. The character that stands for a space in the vocabulary may itself stand by one. */
UNUSED static void rig_expect_same_cuts(const struct tokenizer *a, const struct tokenizer *b)
{
    static const char *const units[] = {" ",  "a", "the", "\xE2\x96\x81",
                                        "  ", ".", "\n",  "\xC3\xA9"};
    rig_expect_same(a, b, units, 8, 1500);
}

/* Files that a reader must refuse: `text` with the first `from` replaced by `to`; the message must
 * hold `reason`. A NULL from: the whole text is `to`. */
struct broken {
    const char *from, *to, *reason;
};

UNUSED static void rig_expect_refused(const char *name, const char *text, const struct broken *rows,
                                      int n)
{
    int wrong = 0;
    for (int i = 0; i < n; i++) {
        struct err err = {0};
        struct buf bytes;
        buf_init(&bytes, 0);
        const char *at = rows[i].from ? strstr(text, rows[i].from) : text;
        if (!at)
            fprintf(stderr, "row %d: '%s' is not in the file\n", i, rows[i].from);
        EXPECT(at != NULL);
        buf_add(&bytes, text, (size_t)(at - text));
        buf_text(&bytes, rows[i].to);
        if (rows[i].from)
            buf_text(&bytes, at + strlen(rows[i].from));
        struct source_file file = {name, (const uint8_t *)bytes.data, bytes.size};
        struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
        if (t || !strstr(err.text, rows[i].reason)) {
            fprintf(stderr, "row %d (%s): %s\n", i, rows[i].reason, t ? "accepted" : err.text);
            wrong++;
        }
        tokenizer_close(t);
        buf_free(&bytes);
    }
    EXPECT_INT(wrong, 0);
}

#endif
