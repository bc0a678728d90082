/* What every tokenizer that a file opened must bear: any text is encoded or refused with a reason,
 * ids are of the vocabulary, no special token comes out of plain text, and pieces put one after the
 * other are the decoded text. */
#ifndef SIROCCO_TOKENIZER_USE_H
#define SIROCCO_TOKENIZER_USE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"

static inline void check(int held, const char *what)
{
    if (!held) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

static inline void check_decoding(const struct tokenizer *t, const struct token_list *ids)
{
    struct buf whole, pieces;
    buf_init(&whole, 0);
    buf_init(&pieces, 0);
    check(!tokenizer_decode(t, ids->ids, ids->n, true, false, &whole), "decode");
    for (size_t i = 0; i < ids->n; i++) {
        size_t size;
        check(ids->ids[i] >= 0 && ids->ids[i] < tokenizer_n_tokens(t),
              "an id beyond the vocabulary");
        const char *piece = tokenizer_piece(t, ids->ids[i], true, &size);
        check(size <= tokenizer_piece_max(t), "a piece beyond the longest");
        buf_add(&pieces, piece, size);
    }
    check(pieces.size == whole.size &&
              (!whole.size || !memcmp(pieces.data, whole.data, whole.size)),
          "pieces and the decoded text differ");
    buf_free(&whole);
    buf_free(&pieces);
}

/* Only the unknown token, one id, may be special. */
static inline void check_plain(const struct tokenizer *t, const struct token_list *ids)
{
    int32_t unknown = -1;
    for (size_t i = 0; i < ids->n; i++) {
        if (!tokenizer_is_special(t, ids->ids[i]))
            continue;
        check(unknown < 0 || unknown == ids->ids[i], "a special token out of plain text");
        unknown = ids->ids[i];
    }
}

static inline void use_tokenizer(const struct tokenizer *t, const char *text, size_t n)
{
    struct text_span span = {0, n / 2};
    struct token_list plain = {0}, trusted = {0};
    struct err err = {0};
    if (tokenizer_encode(t, text, n, false, NULL, 0, &plain, &err))
        check(err.text[0] != 0, "refused without a reason"); /* a pattern gave up */
    check_plain(t, &plain);
    check_decoding(t, &plain);
    if (!tokenizer_encode(t, text, n, true, &span, 1, &trusted, &err))
        check_decoding(t, &trusted);
    token_list_free(&plain);
    token_list_free(&trusted);
}

/* The tokenizer of files in memory, used on a text with a little of everything and on the bytes of
 * the first file. */
static inline void use_files(const struct source_file *files, size_t n_files, int vocab_size)
{
    enum { FILE_MAX = 1 << 16, TEXT_MAX = 2000 };
    static const char text[] = "ab <s>\xE2\x96\x81 \xF0\x9F\x98\x80\xFF\n\nI'll 1234 \xE6\x97\xA5"
                               "e\xCC\x81 \xEF\xAC\x81";
    struct source *source = NULL;
    struct gguf *gguf = NULL;
    struct tokenizer *t = NULL;
    struct err err;
    if (files[0].size > FILE_MAX || source_open_memory("f", files, n_files, &source, &err))
        return;
    bool is_gguf = strstr(files[0].name, ".gguf") != NULL;
    if ((!is_gguf || !gguf_open(&files[0], &gguf, &err)) &&
        !tokenizer_open(source, gguf, vocab_size, NULL, &t, &err)) {
        use_tokenizer(t, text, sizeof text - 1);
        use_tokenizer(t, (const char *)files[0].data,
                      files[0].size < TEXT_MAX ? files[0].size : TEXT_MAX);
        check(tokenizer_mistral_version(t) > 0, "no version");
    }
    tokenizer_close(t);
    gguf_close(gguf);
    source_close(source);
}

#endif
