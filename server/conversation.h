/* conversation: from a parsed chat request to the prompt's text, for every endpoint that renders
 * conversations. A prep worker's. */
#ifndef SIROCCO_CONVERSATION_H
#define SIROCCO_CONVERSATION_H

#include "engine/template/chat.h"
#include "server/app.h"
#include "server/request.h"

/* Render the request's messages and tools. Errors: the template's own with param "messages";
 * ERR_UNSUPPORTED_PARAM where the template takes no tools, or nobody could tell the calls in the
 * answer. out needs template_text_free after success. */
int conversation_render(const struct app *app, const struct request *r, struct template_text *out,
                        struct err *err);

#endif
