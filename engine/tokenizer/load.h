/* load: what the readers of tokenizer files fill in; private to engine/tokenizer. */
#ifndef SIROCCO_TOKENIZER_LOAD_H
#define SIROCCO_TOKENIZER_LOAD_H

#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/normal.h"
#include "engine/tokenizer/pretok.h"
#include "engine/tokenizer/spm.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/unigram.h"
#include "engine/tokenizer/vocab.h"

enum { AROUND_MAX = 8 };

struct tokenizer {
    char kind[48];
    struct vocab vocab;
    /* BPE kinds */
    struct bpe bpe;
    struct unigram unigram; /* with scores: used instead */
    struct normalizer normal;
    struct pretok pretok; /* without stages a segment is one word */
    /* sentencepiece: one processor puts the model's dummy prefix in front, one does not */
    struct spm *spm_prefix, *spm_plain;
    bool spm_cuts;   /* a text may be cut in front of a space that follows another character */
    bool spm_legacy; /* every segment gets the prefix, not only the text's first */

    int32_t bos, eos;                             /* -1: none */
    int32_t before[AROUND_MAX], after[AROUND_MAX]; /* added around a text by add_special */
    int n_before, n_after;
    int mistral_version; /* 0 until open.c has found it, unless the file says it */
    struct tokenizer_efforts efforts;
    bool byte_level;     /* merges bytes, and no text gets a space in front */
    bool strips_space; /* encoding puts a space in front, so decoding takes one off */
};

/* Which pipeline part of a file is read, and what the parts found (json_parts.c). */
struct json_t;
struct pipeline {
    struct tokenizer *t;
    struct err *err;
    bool split_spaces;         /* a merge never crosses the front of U+2581 */
    bool unigram;              /* the model's kind: the pre-tokenizer cuts at U+2581 itself */
    bool cut_at_spaces;        /* WhitespaceSplit came before */
    bool byte_level;           /* the pre-tokenizer writes bytes in GPT-2's alphabet */
    bool has_decoder, decodes_bytes;
    char space[STEP_TEXT_MAX]; /* what the decoder turns into ' ' */
};
/* normalizer, pre_tokenizer and decoder of a tokenizer.json. ERR_FORMAT names the part. */
int tokenizer_read_parts(struct pipeline *p, const struct json_t *root);
/* post_processor: what is added around a text; after the vocabulary. */
int tokenizer_read_post(struct tokenizer *t, const struct json_t *root, struct err *err);

/* Each fills a zeroed tokenizer (bos and eos -1) as far as its file says, the vocabulary sealed.
 * What it took stays in t on failure, too: tokenizer_close frees it. */
int tokenizer_load_json(struct tokenizer *t, const struct source_file *file, int vocab_size,
                        struct err *err);
int tokenizer_load_tekken(struct tokenizer *t, const struct source_file *file, int vocab_size,
                          struct err *err);
int tokenizer_load_spm(struct tokenizer *t, const struct source *source,
                       const struct source_file *file, int vocab_size, struct err *err);
int tokenizer_load_gguf(struct tokenizer *t, const struct gguf *gguf, int vocab_size,
                        struct err *err);

/* Add what tokenizer_config.json and special_tokens_map.json say: bos, eos, add_bos_token,
 * add_eos_token. Absent files and keys change nothing. */
int tokenizer_load_config(struct tokenizer *t, const struct source *source, struct err *err);

/* Parse a JSON object file; ERR_FORMAT with line and column. Caller: json_decref. */
struct json_t *tokenizer_parse(const struct source_file *file, struct err *err);

#endif
