/* chat: from a conversation to the model's prompt: picks the model's template (chat_template.jinja,
 * tokenizer_config.json as string or named list, GGUF's tokenizer.chat_template, or one given by
 * option) and renders it. Immutable after open; any thread renders. */
#ifndef SIROCCO_CHAT_H
#define SIROCCO_CHAT_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/template/template.h"

struct chat;

/* override: template source, or NULL for the model's own. A model without a template gives a chat
 * whose render fails with ERR_UNSUPPORTED_PARAM ("messages"). A broken template: ERR_FORMAT. */
int chat_open(const struct source *source, const struct gguf *gguf, const struct tokenizer *tok,
              const char *override, struct chat **out, struct err *err);
void chat_close(struct chat *c); /* NULL allowed */
bool chat_has_template(const struct chat *c);

struct chat_request {
    const json_t *messages;  /* array; content strings or null (parts already joined) */
    const json_t *tools;     /* array or NULL */
    const json_t *kwargs;    /* object or NULL: chat_template_kwargs */
    bool add_generation_prompt;
    bool continue_final_message; /* the last message is left open: its end is cut off */
};
int chat_render(const struct chat *c, const struct chat_request *request,
                struct template_text *out, struct err *err);

#endif
