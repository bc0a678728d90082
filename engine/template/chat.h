/* chat: from a conversation to the model's prompt: picks the model's template (chat_template.jinja,
 * tokenizer_config.json as string or named list, GGUF's tokenizer.chat_template, or one given by
 * option) and renders it. Immutable after open; any thread renders. */
#ifndef SIROCCO_CHAT_H
#define SIROCCO_CHAT_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/template/template.h"

struct chat;

/* override: template source, or NULL for the model's own; name: NULL, or which of the model's named
 * templates serves every request (ERR_USAGE when there is none). A model without a template gives a
 * chat whose render fails with ERR_UNSUPPORTED_PARAM ("messages"). A broken template: ERR_FORMAT.
 */
int chat_open(const struct source *source, const struct gguf *gguf, const struct tokenizer *tok,
              const char *override, const char *name, struct chat **out, struct err *err);
/* The template alone, without a model: path is a template's source, a JSON file with chat_template,
 * a GGUF or a model folder. ERR_IO, ERR_FORMAT (also without any template), ERR_USAGE. */
int chat_open_path(const char *path, const char *name, struct chat **out, struct err *err);
void chat_close(struct chat *c); /* NULL allowed */
bool chat_has_template(const struct chat *c);
/* Let Mistral's own encoding (mistral.h) serve this chat: when it is wanted, or when there is no
 * template and the tokenizer is one that Mistral ships (tekken.json, tokenizer.model, or a GGUF's
 * vocabulary) with [INST] among its control tokens. ERR_USAGE when it is wanted and can not be. */
int chat_choose_native(struct chat *c, const struct tokenizer *tok, bool wanted, struct err *err);
int chat_native(const struct chat *c); /* the version it encodes by; 0: the template serves */
/* The template that serves requests with or without tools; NULL: the model has none. */
const struct template *chat_template(const struct chat *c, bool tools);
bool chat_takes_tools(const struct chat *c); /* the template for tools reads the variable `tools` */
bool chat_holds(const struct chat *c, const char *text); /* in the source of one of its templates */

struct chat_request {
    const json_t *messages;  /* array; content strings or null (parts already joined) */
    const json_t *tools;     /* array or NULL */
    const json_t *kwargs;    /* object or NULL: chat_template_kwargs */
    bool add_generation_prompt;
    bool continue_final_message; /* the last message is left open: its end is cut off */
};
int chat_render(const struct chat *c, const struct chat_request *request,
                struct template_text *out, struct err *err);

/* transformers' continue_final_message, in two steps: messages with a mark at the end of the last
 * one's text (a new reference; NULL: ERR_VALUE "continue_final_message" or ERR_NOMEM), and, of what
 * the template made of these, what stands before the mark: with the text's trailing white space if
 * the template keeps it. messages: without the mark. ERR_VALUE ("continue_final_message") when the
 * template dropped or changed the text. */
json_t *chat_mark_open(const json_t *messages, struct err *err);
int chat_leave_open(const json_t *messages, struct template_text *out, struct err *err);

#endif
