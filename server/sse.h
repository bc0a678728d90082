/* sse: server-sent event frames (WHATWG HTML, "Server-sent events") as OpenAI's clients read them:
 * `data:` lines and comments alone. There is no `id:` line, ever: after one, the official Python
 * client takes the blank line behind a comment for an event. Loop thread; no state. */
#ifndef SIROCCO_SSE_H
#define SIROCCO_SSE_H

#include "engine/base/buf.h"

/* A frame is sse_begin, one line of JSON written straight into out, sse_end. The JSON must hold no
 * raw line break; every JSON string written by buf_json_string escapes them. */
int sse_begin(struct buf *out); /* "data: " */
int sse_end(struct buf *out);   /* the blank line */

/* A whole frame. A line break in data starts a new `data:` line, so that no data breaks a frame. */
int sse_data(struct buf *out, const char *data, size_t n);

int sse_done(struct buf *out);       /* "data: [DONE]" */
int sse_keep_alive(struct buf *out); /* a comment: clients ignore it, proxies see life */

#endif
