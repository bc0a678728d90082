/* json_budget: the bounds around jansson: a scan of the text before it, an allocation budget below
 * it. Any thread.
 *
 * Invariants: memory is plain malloc's (sizes come from malloc_usable_size), so values made inside
 * a budget may be freed outside it, by another thread, and the other way round. The hooks are set
 * before main, when there is one thread: jansson keeps them in plain variables. */
#include "server/json_budget.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
    bool on, refused;
    size_t left;
} budget;

static void *budget_malloc(size_t n)
{
    if (!budget.on)
        return malloc(n);
    if (n > budget.left) {
        budget.refused = true;
        return NULL;
    }
    void *p = malloc(n);
    if (p) {
        size_t bytes = malloc_usable_size(p);
        budget.left -= bytes < budget.left ? bytes : budget.left;
    }
    return p;
}

static void budget_free(void *p)
{
    if (p && budget.on)
        budget.left += malloc_usable_size(p);
    free(p);
}

__attribute__((constructor)) static void budget_install(void)
{
    json_set_alloc_funcs(budget_malloc, budget_free);
}

void json_budget_begin(size_t bytes)
{
    budget.on = true;
    budget.refused = false;
    budget.left = bytes;
}

void json_budget_end(void)
{
    budget.on = false;
}

int json_budget_spent(void)
{
    return budget.refused;
}

/* Upper bounds of depth and nodes without a parser: brackets, commas and colons outside strings.
 * On malformed text the counts mean nothing and jansson refuses it. */
static int scan(const char *text, size_t n, struct err *err)
{
    size_t depth = 0, nodes = 1;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (!c) /* jansson would overlook one that follows a number */
            return err_set(err, ERR_JSON,
                           "We could not parse the JSON body of your request: a NUL at byte %zu.",
                           i);
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
            continue;
        }
        if (c == '"')
            quoted = true;
        else if (c == '[' || c == '{') {
            nodes++;
            if (++depth > JSON_BUDGET_DEPTH)
                return err_set(err, ERR_JSON,
                               "We could not parse the JSON body of your request: more than %d "
                               "levels deep at byte %zu.",
                               JSON_BUDGET_DEPTH, i);
        } else if (c == ']' || c == '}')
            depth -= depth > 0;
        else if (c == ',' || c == ':')
            nodes++;
        if (nodes > JSON_BUDGET_NODES)
            return err_set(err, ERR_JSON,
                           "We could not parse the JSON body of your request: more than %d values "
                           "at byte %zu.",
                           JSON_BUDGET_NODES, i);
    }
    return 0;
}

/* In our own words: jansson's text quotes raw bytes of the body. */
static const char *reason(enum json_error_code code)
{
    switch (code) {
    case json_error_invalid_utf8:
        return "invalid UTF-8";
    case json_error_premature_end_of_input:
        return "unexpected end";
    case json_error_end_of_input_expected:
        return "something follows its end";
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return "a NUL where none may be";
    case json_error_duplicate_key:
        return "a key appears twice in one object";
    case json_error_numeric_overflow:
        return "a number is out of range";
    default:
        return "invalid syntax";
    }
}

int json_budget_parse(const char *text, size_t n, json_t **out, struct err *err)
{
    json_error_t error;
    int code = scan(text, n, err);
    if (code)
        return code;
    memset(&error, 0, sizeof error);
    json_t *value =
        json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (value) {
        *out = value;
        return 0;
    }
    if (budget.on && budget.refused)
        return err_set(err, ERR_TOO_LARGE,
                       "The JSON body of your request needs more memory than the server gives one "
                       "request.");
    /* jansson 2.14 leaves the text empty when an allocation failed */
    if (!error.text[0] || json_error_code(&error) == json_error_out_of_memory)
        return err_set(err, ERR_NOMEM, "out of memory while parsing a JSON body");
    return err_set(err, ERR_JSON,
                   "We could not parse the JSON body of your request: %s at byte %d.",
                   reason(json_error_code(&error)), error.position > 0 ? error.position : 0);
}

int json_budget_parse_object(const char *text, size_t n, json_t **out, struct err *err)
{
    json_t *value;
    int code = json_budget_parse(text, n, &value, err);
    if (code)
        return code;
    if (!json_is_object(value)) {
        json_decref(value);
        return err_set(err, ERR_JSON,
                       "We could not parse the JSON body of your request: it must be an object "
                       "(at byte 0).");
    }
    *out = value;
    return 0;
}
