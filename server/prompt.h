/* prompt: from text or ids to the tokens of one sequence. Pure functions of their arguments; a prep
 * worker's. */
#ifndef SIROCCO_PROMPT_H
#define SIROCCO_PROMPT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/template/fim.h"
#include "engine/tokenizer/tokenizer.h"

enum { PROMPT_TEXT_BYTES_MAX = 4 << 20 };

struct prompt {
    struct token_list tokens; /* prompt_free */
    const char *text;         /* as the client wrote it, in an arena; NULL: it sent ids */
    size_t text_size;
    bool added_bos; /* tokens[0] is a BOS that the client did not write */
};

/* The `prompt` member of a completions request: string | [string..] | [id..] | [[id..]..]. Returns
 * how many prompts it holds, or ERR_TYPE, ERR_VALUE, ERR_ARRAY_EMPTY, ERR_ARRAY_LONG,
 * ERR_STRING_LONG with the path ("prompt[1]"). */
int prompt_check(const json_t *prompt, int vocab_size, struct err *err);

/* Prompt i of a checked member. A client's raw prompt is all its own: special tokens written out
 * in it are special tokens. add_special: -1 or 1: exactly one BOS where the tokenizer wants one; 0:
 * none is added. An empty prompt becomes BOS (or, without one, EOS) alone. */
int prompt_take(const json_t *member, int i, const struct tokenizer *tok, int add_special,
                struct arena *arena, struct prompt *out, struct err *err);

/* Text to tokens with exactly one BOS, wherever it comes from: the text itself (a rendered
 * template that begins with it) or the tokenizer's own policy. No EOS is ever added: a prompt that
 * ends the text it is to be continued from would be no prompt. *added: a BOS was put in front. */
int prompt_encode(const struct tokenizer *tok, const char *text, size_t n,
                  const struct text_span *spans, size_t n_spans, bool add_bos,
                  struct token_list *out, bool *added, struct err *err);

/* The model's way of filling in; ERR_UNSUPPORTED_PARAM with param when it has none. */
int prompt_find_fim(const struct tokenizer *tok, const char *param, struct fim *out,
                    struct err *err);

/* The prompt that asks for what stands between prefix (kept as out->text, borrowed) and suffix. */
int prompt_fill(const struct tokenizer *tok, const struct fim *fim, const char *prefix,
                size_t n_prefix, const char *suffix, size_t n_suffix, struct prompt *out,
                struct err *err);

void prompt_free(struct prompt *p);

#endif
