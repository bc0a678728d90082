/* http: the listening socket, libmicrohttpd's daemon under the libuv loop, connections and their
 * deadlines. Loop thread only (R5). The only user of microhttpd.h. */
#ifndef SIROCCO_HTTP_H
#define SIROCCO_HTTP_H

#include <stdbool.h>

#include "engine/base/err.h"

struct app;
struct exchange;
struct http;
struct uv_loop_s;

/* Bind and listen on config's host and port (numeric address; port 0: any free one) and serve from
 * the loop. ERR_USAGE for an address that is none, ERR_IO for what the system refuses. */
int http_open(struct app *app, struct uv_loop_s *loop, struct http **out, struct err *err);
int http_port(const struct http *h);
const char *http_url(const struct http *h); /* "http://127.0.0.1:8000" */

/* x has bytes, or its end, for its client, or is gone: resume its connection. The bytes move in the
 * next pump. */
void http_wake(struct exchange *x);
/* Let libmicrohttpd work until it has nothing more to do. May be called from anywhere on the loop;
 * inside a pump it only asks for another round. */
void http_pump(struct http *h);

void http_quiesce(struct http *h); /* stop accepting; what is connected stays */
bool http_busy(const struct http *h); /* an answer is being made or sent, or a request read */
void http_hang_up(struct http *h); /* end every connection now */
/* Stop the daemon and close what is under the loop; every exchange must have ended. The loop must
 * run once more before http_free. */
void http_close(struct http *h);
void http_free(struct http *h); /* NULL allowed */

#endif
