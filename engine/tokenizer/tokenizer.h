/* tokenizer: text <-> token ids, one door over all kinds.
 *
 * Kinds, by our own merges: bpe.c (sentencepiece's BPE: tokenizer.model, tokenizer.json of that
 * kind, GGUF's `llama`), bpe_bytes.c (byte-level: tekken.json, tokenizer.json with ByteLevel,
 * GGUF's `gpt2`) and unigram.c (tokenizer.json of that kind); through the sentencepiece library,
 * spm.cc: every other tokenizer.model (Unigram, or with a character map or unused pieces).
 * Immutable after open; every function may be called from any thread at once. */
#ifndef SIROCCO_TOKENIZER_H
#define SIROCCO_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/source.h"
#include "engine/weights.h"

struct tokenizer; /* opaque */

struct token_list { /* caller-owned; token_list_free */
    int32_t *ids;
    size_t n, capacity;
};
void token_list_free(struct token_list *list); /* zeroed and NULL allowed */
int token_list_add(struct token_list *list, int32_t id); /* 0 or ERR_NOMEM */

/* A span [start, end) of a text in which special tokens written out ("[INST]") may be taken as
 * such; everywhere else they are plain text. Spans are ascending and disjoint. */
struct text_span {
    size_t start, end;
};

/* Picks tokenizer.json, else tekken.json, else tokenizer.model (or a name ending in .model.vN),
 * else the GGUF's vocabulary (gguf may be NULL). prefer: NULL, or "json", "tekken" or "spm" to take
 * that one when it is there. vocab_size is the model's: ids beyond it are refused, but added
 * tokens beyond it are left out (their texts are plain text); 0: no model, as many ids as the file
 * has. ERR_FORMAT names file and field; unsupported kinds are named. */
int tokenizer_open(const struct source *source, const struct gguf *gguf, int vocab_size,
                   const char *prefer, struct tokenizer **out, struct err *err);
/* Whether there is a file to pick at all. */
bool tokenizer_exists(const struct source *source, const struct gguf *gguf);
/* The same without a model: path is a folder with such files, or one of them under any name, or a
 * GGUF. Nothing of the path is held open afterwards. ERR_IO, ERR_FORMAT. */
int tokenizer_open_path(const char *path, int vocab_size, const char *prefer,
                        struct tokenizer **out, struct err *err);
void tokenizer_close(struct tokenizer *t); /* NULL allowed */

/* Append text's ids to out. add_special: add BOS (and EOS) as the tokenizer's own settings say.
 * spans: where special tokens may be recognised; n_spans 0 means nowhere. Never fails on any bytes:
 * ill-formed UTF-8 is encoded by byte fallback. Linear time in n. ERR_NOMEM. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                     const struct text_span *spans, size_t n_spans, struct token_list *out,
                     struct err *err);

/* The bytes one token stands for in the middle of a text ("▁the" -> " the", <0x0A> -> "\n"); size 0
 * for special (control) tokens unless with_special, and for ids without text. Borrowed; valid as
 * long as t. id must be in [0, vocab_size). */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool with_special, size_t *size);

/* Whole decode: pieces joined; the first piece's leading space that encoding added is taken off
 * when strip_first. */
struct buf;
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool with_special,
                     bool strip_first, struct buf *out);

/* Append the vocabulary as GGUF metadata (tokenizer.ggml.*), padded to vocab_size tokens, so that
 * whoever reads the file gets the same ids. ERR_FORMAT for what GGUF has no words for: Unigram
 * models, normalizers and pre-tokenizers without a name there. */
struct gguf_write;
int tokenizer_save_gguf(const struct tokenizer *t, int vocab_size, struct gguf_write *w,
                        struct err *err);

bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
int32_t tokenizer_find(const struct tokenizer *t, const char *text,
                       size_t n);                 /* exact token or -1 */
int32_t tokenizer_bos(const struct tokenizer *t); /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
int tokenizer_vocab_size(const struct tokenizer *t); /* the model's vocab_size */
int tokenizer_n_tokens(const struct tokenizer *t);   /* ids that have a text: 0.. this - 1 */
size_t tokenizer_piece_max(const struct tokenizer *t); /* longest piece in bytes */
const char *tokenizer_kind(const struct tokenizer *t);   /* "tokenizer.json (BPE)" */
/* Of Mistral's tokenizer versions (1, 2, 3, 7, 11, 13, 15) the one this is: what tekken.json's
 * config.version or a file name ending in .model.vN says, else what the control tokens show. 1 for
 * every tokenizer without such tokens: whether a model is Mistral's is not asked here. */
int tokenizer_mistral_version(const struct tokenizer *t);
/* The reasoning efforts that a tekken.json of version 15 lets a request choose from (its
 * model_settings_builder); n 0: none. */
enum { TOKENIZER_EFFORTS_MAX = 8, TOKENIZER_EFFORT_BYTES = 16 };
struct tokenizer_efforts {
    int n, standard; /* standard: -1: a request without one has none */
    char values[TOKENIZER_EFFORTS_MAX][TOKENIZER_EFFORT_BYTES];
};
const struct tokenizer_efforts *tokenizer_efforts(const struct tokenizer *t);
/* Merges over bytes (tekken.json and the like), as against sentencepiece's characters. */
bool tokenizer_is_byte_level(const struct tokenizer *t);
/* Text of bos/eos/unk for templates: "<s>"; "" when none. */
const char *tokenizer_token_text(const struct tokenizer *t, int32_t id);

#endif
