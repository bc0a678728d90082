/* tools: the functions a chat request offers to the model: `tools`, `tool_choice`,
 * `parallel_tool_calls`, and the older `functions` and `function_call`, checked and put into the
 * one form that templates know. Pure functions of the JSON; a prep worker's. */
#ifndef SIROCCO_TOOLS_H
#define SIROCCO_TOOLS_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/base/arena.h"
#include "engine/base/err.h"

enum { TOOLS_MAX = 128, TOOLS_NAME_BYTES_MAX = 64, TOOLS_DESCRIPTION_BYTES_MAX = 16 << 10 };

struct tools {
    json_t *offered;          /* array for the template, new reference; NULL: no tool is offered */
    const char *const *names; /* of the offered functions; in the arena */
    int n_names;
    bool parallel; /* several calls in one turn are allowed */
    bool legacy;   /* asked for as `functions`: answered as `function_call` */
};

/* From the body of a chat request. Offered are: none where tool_choice is "none", those it lists
 * where it is allowed_tools, else all; each as {"type": "function", "function": {..}} with the
 * members the client sent, `strict` left out, and an empty object schema where `parameters` is
 * missing. What could only be kept by constraining the output (tool_choice "required", a named
 * function, `strict`) is ERR_UNSUPPORTED_VALUE. Other errors: ERR_TYPE, ERR_VALUE, ERR_MISSING,
 * ERR_ARRAY_LONG, ERR_STRING_LONG, ERR_UNSUPPORTED_PARAM, ERR_NOMEM, each with its path. */
int tools_parse(const json_t *root, struct tools *out, struct arena *arena, struct err *err);
void tools_free(struct tools *t); /* the JSON; the names stay. NULL and zeroed allowed */

#endif
