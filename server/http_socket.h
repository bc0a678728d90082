/* http_socket: what http.c asks of TCP sockets: a listening one, options of a connection, how far
 * the peer has read. Plain system calls without state; loop thread. */
#ifndef SIROCCO_HTTP_SOCKET_H
#define SIROCCO_HTTP_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* Listen on host (a numeric IPv4 or IPv6 address, bracketed or not, or "localhost") and port (0: a
 * free one). Sets the descriptor, the port taken, and "http://HOST:PORT" in url. ERR_USAGE,
 * ERR_IO. */
int http_socket_listen(const char *host, int port, int *fd, int *port_out, char *url,
                       size_t url_bytes, struct err *err);

/* Is such a host an address that only programs on this machine reach, however it is written? */
bool http_socket_loopback(const char *host);

/* No delay for small writes; probes that find dead peers. */
void http_socket_tune(int fd);

struct http_socket_progress {
    uint64_t received, acked; /* bytes in all: from the peer; of ours, confirmed by the peer */
    int unsent;               /* bytes not yet confirmed */
};
void http_socket_progress(int fd, struct http_socket_progress *out); /* zeroed on failure */

/* Raise the limit on open files to its hard limit; returns how many of `wanted` connections fit. */
int64_t http_socket_connections(int64_t wanted);

#endif
