/* call_json: incremental reading of the JSON in which models write tool calls, byte by byte: the
 * extent of a value, and the characters of a string. Fixed memory; no allocation but in the
 * caller's buffers. Loop thread. */
#ifndef SIROCCO_CALL_JSON_H
#define SIROCCO_CALL_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"

enum { CALL_JSON_DEPTH_MAX = 64 };

/* The extent of an object or array: strings, escapes and brackets are followed, scalars are not
 * checked. Zeroed: before its first bracket. */
struct json_extent {
    uint64_t arrays; /* bit d: the bracket at depth d + 1 is [ */
    int depth;
    bool in_string, escaped;
};
/* 1: the value ends with c; 0: it goes on; -1: c can not stand here, or it is too deep. */
int call_json_extent(struct json_extent *e, char c);

/* The characters of a string behind its opening quote. Zeroed: at its beginning. */
struct json_string {
    uint8_t escape;      /* 0: none; 1: behind a backslash; 2..5: hex digits awaited + 1 */
    uint32_t code, high; /* of a \u escape; a high surrogate that waits for its other half */
};
/* Append what c completes to out (UTF-8; a lone surrogate becomes U+FFFD). 1: c was the closing
 * quote; 0: it goes on; -1: c is no JSON. */
int call_json_string(struct json_string *s, char c, struct buf *out);

#endif
