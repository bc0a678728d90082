/* conversation: from a parsed chat request to the prompt, for every endpoint that takes
 * conversations: through the model's template, or by Mistral's own encoding (chat_native). A prep
 * worker's. */
#ifndef SIROCCO_CONVERSATION_H
#define SIROCCO_CONVERSATION_H

#include "engine/template/chat.h"
#include "server/app.h"
#include "server/request.h"

/* The prompt's tokens, appended to ids. *added_bos: a BOS stands in front that is not the
 * request's own; *thinks: the prompt ends inside of reasoning. Errors: the template's, or what
 * Mistral's rules have against the conversation, with param "messages" or "tools";
 * ERR_UNSUPPORTED_PARAM where the template takes no tools, or nobody could tell the calls in the
 * answer. */
int conversation_encode(const struct app *app, const struct request *r, struct token_list *ids,
                        bool *added_bos, bool *thinks, struct err *err);

/* The prompt's text, appended to out; of Mistral's own encoding, what its tokens stand for. */
int conversation_render(const struct app *app, const struct request *r, struct buf *out,
                        struct err *err);

#endif
