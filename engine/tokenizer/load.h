/* load: what the readers of tokenizer files fill in; private to engine/tokenizer. */
#ifndef SIROCCO_TOKENIZER_LOAD_H
#define SIROCCO_TOKENIZER_LOAD_H

#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/spm.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

enum { STEPS_MAX = 8, STEP_TEXT_MAX = 32, AROUND_MAX = 8 };

/* What is done to a segment (the text between two added tokens) before merging, in order. */
struct step {
    enum step_kind {
        STEP_PREPEND, /* `to` in front of every segment that is not empty */
        STEP_REPLACE, /* each `from` becomes `to` */
        /* `to` in front of the text's first segment; with `later` also of the other segments that
         * do not begin with it */
        STEP_PREPEND_SPACE
    } kind;
    bool later;
    char from[STEP_TEXT_MAX], to[STEP_TEXT_MAX];
};

struct tokenizer {
    char kind[48];
    struct vocab vocab;
    /* BPE kinds */
    struct bpe bpe;
    struct step steps[STEPS_MAX];
    int n_steps;
    /* sentencepiece: one processor puts the model's dummy prefix in front, one does not */
    struct spm *spm_prefix, *spm_plain;
    bool spm_legacy; /* every segment gets the prefix, not only the text's first */

    int32_t bos, eos;                             /* -1: none */
    int32_t before[AROUND_MAX], after[AROUND_MAX]; /* added around a text by add_special */
    int n_before, n_after;
    int mistral_version; /* 0 until open.c has found it, unless the file says it */
    bool byte_level;     /* merges bytes, and no text gets a space in front */
    bool strips_space; /* encoding puts a space in front, so decoding takes one off */
};

/* Each fills a zeroed tokenizer (bos and eos -1) as far as its file says, the vocabulary sealed.
 * What it took stays in t on failure, too: tokenizer_close frees it. */
int tokenizer_load_json(struct tokenizer *t, const struct source_file *file, int vocab_size,
                        struct err *err);
int tokenizer_load_spm(struct tokenizer *t, const struct source *source,
                       const struct source_file *file, int vocab_size, struct err *err);
int tokenizer_load_gguf(struct tokenizer *t, const struct gguf *gguf, int vocab_size,
                        struct err *err);

/* Add what tokenizer_config.json and special_tokens_map.json say: bos, eos, add_bos_token,
 * add_eos_token. Absent files and keys change nothing. */
int tokenizer_load_config(struct tokenizer *t, const struct source *source, struct err *err);

/* Parse a JSON object file; ERR_FORMAT with line and column. Caller: json_decref. */
struct json_t;
struct json_t *tokenizer_parse(const struct source_file *file, struct err *err);

#endif
