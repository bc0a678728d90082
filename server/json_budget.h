/* json_budget: jansson behind bounds. A JSON text costs jansson up to 77 bytes of memory per byte
 * and one stack frame per level, so every text a client sent passes a scan for depth and nodes, and
 * every allocation made for it is drawn from a budget of its thread.
 *
 * Any thread; each has its own budget, and at most one open at a time. Since only the few prep
 * workers parse, workers x JSON_BUDGET_BYTES also bounds all parses together. */
#ifndef SIROCCO_JSON_BUDGET_H
#define SIROCCO_JSON_BUDGET_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/err.h"

enum { JSON_BUDGET_BYTES = 64 << 20, JSON_BUDGET_DEPTH = 64, JSON_BUDGET_NODES = 200000 };

/* From begin to end this thread's jansson allocations count; one that would pass `bytes` fails.
 * What is freed in between counts back. end may come before the values are freed. */
void json_budget_begin(size_t bytes);
void json_budget_end(void);
int json_budget_spent(void); /* 1: an allocation was refused since begin */

/* Parse one JSON text of any kind (RFC 8259; duplicate keys, invalid UTF-8, lone surrogates and
 * numbers beyond int64 or double are errors; \u0000 is fine in strings, not in keys). *out is a new
 * reference, set on success alone. ERR_JSON with the byte offset, ERR_TOO_LARGE over the thread's
 * budget, ERR_NOMEM. */
int json_budget_parse(const char *text, size_t n, json_t **out, struct err *err);

/* The same for a request's body, which must be an object. */
int json_budget_parse_object(const char *text, size_t n, json_t **out, struct err *err);

#endif
