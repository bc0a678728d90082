/* mistral: Mistral's own chat encoding, straight to token ids, as mistral-common defines it
 * (tokenizer versions v1, v2, v3, v7, v11, v13 and v15; text only). For checkpoints that ship a
 * tokenizer without a template.
 *
 * Stages: mistral_read.c (JSON -> messages), mistral_check.c and mistral_schema.c (validation),
 * mistral_normal.c (merged turns), mistral.c (tokens). Pure functions of their arguments; any
 * thread. Nothing a conversation says can become a control token. */
#ifndef SIROCCO_MISTRAL_H
#define SIROCCO_MISTRAL_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/base/err.h"
#include "engine/tokenizer/tokenizer.h"

enum mistral_mode {
    MISTRAL_SERVING,    /* ids of tool calls are required and answered, the last word is not ours */
    MISTRAL_FINETUNING, /* the conversation ends with the assistant */
    MISTRAL_TEST        /* as serving, but `model`, ids and answers to calls may be missing */
};

bool mistral_is_version(int version); /* one of those above */

/* Append a chat request's tokens to out. request: OpenAI's form: messages (content as text, or
 * parts of type text and thinking; `prefix` on the last), tools, model, reasoning_effort,
 * continue_final_message. Errors: ERR_VALUE with *kind set to the name of mistral-common's
 * exception
 * ("InvalidMessageStructureException") and its message; ERR_NOMEM. */
int mistral_encode_chat(const struct tokenizer *tok, int version, enum mistral_mode mode,
                        const json_t *request, struct token_list *out, const char **kind,
                        struct err *err);

/* Whether the vocabulary has [SUFFIX] and [PREFIX]: no model without them was trained to fill in.
 */
bool mistral_has_fim(const struct tokenizer *tok);
/* Append the tokens of filling in the middle: [SUFFIX] suffix [PREFIX] prompt; suffix may be NULL.
 * Errors as above. A sentencepiece model without these tokens gives <unk> in their place. */
int mistral_encode_fim(const struct tokenizer *tok, int version, const char *prompt,
                       size_t n_prompt, const char *suffix, size_t n_suffix, struct token_list *out,
                       const char **kind, struct err *err);

#endif
