/* messages: the conversation of a chat request, checked and put into the form templates know.
 * Pure function of the JSON; a prep worker's. */
#ifndef SIROCCO_MESSAGES_H
#define SIROCCO_MESSAGES_H

#include <jansson.h>

#include "engine/base/err.h"

enum {
    MESSAGES_MAX = 2048,
    MESSAGES_PARTS_MAX = 1024,
    MESSAGES_TEXT_BYTES_MAX = 4 << 20,
    MESSAGES_NAME_BYTES_MAX = 64,
    MESSAGES_CALLS_MAX = 128, /* tool calls of one message */
    MESSAGES_ID_BYTES_MAX = 256
};

/* messages: the request's member, NULL when absent or null. *out: a new array of new objects with
 *   role       "system" (also for developer), "user", "assistant", "tool" (also for function)
 *   content    a string (text parts are joined with a line break between two), or null for an
 *              assistant that only called tools
 *   prefix     true, if so sent, of the final message, which must be an assistant's
 *   name, tool_call_id, reasoning_content   as sent, when sent (Mistral's parts of type thinking
 *              are reasoning_content, too)
 *   tool_calls (also for function_call, whose function message gets its tool_call_id)
 *              [{id, type: "function", function: {name, arguments}}]; arguments, a JSON text, are
 *              parsed when they are a JSON object (templates print them), else kept as text
 * Errors carry the path: "messages[3].content[0].type". ERR_MISSING, ERR_TYPE, ERR_VALUE,
 * ERR_UNSUPPORTED_VALUE, ERR_ARRAY_LONG, ERR_ARRAY_EMPTY, ERR_STRING_LONG, ERR_NOMEM. */
int messages_build(const json_t *messages, json_t **out, struct err *err);

#endif
