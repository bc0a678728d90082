/* http_watch: one epoll set of our own over all connections, beside libmicrohttpd's. It tells when
 * a client hung up (a suspended connection notices nothing itself) and lingers on sockets whose
 * client was still sending when it was answered. Loop thread. */
#ifndef SIROCCO_HTTP_WATCH_H
#define SIROCCO_HTTP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct http_watch;

struct http_watch *http_watch_open(void); /* NULL with errno */
void http_watch_close(struct http_watch *w); /* NULL allowed */
int http_watch_fd(const struct http_watch *w); /* readable when http_watch_run has work */

/* Tell once when fd's peer closes or half-closes. http_watch_remove before fd is closed. */
bool http_watch_add(struct http_watch *w, int fd, void *user);
void http_watch_remove(struct http_watch *w, int fd);

/* Take a copy of fd, read and drop what still comes for a short while, then close the copy: the
 * answer that was sent is not lost to a reset. */
void http_watch_linger(struct http_watch *w, int fd, uint64_t now_ms);

void http_watch_run(struct http_watch *w, void (*hung_up)(void *user));
/* Close what has lingered long enough; returns how many still linger. */
int http_watch_sweep(struct http_watch *w, uint64_t now_ms);

#endif
