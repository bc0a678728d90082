/* http_watch: disconnects and lingering closes over one epoll set. Loop thread.
 *
 * A connection is in the set once, edge-triggered for EPOLLRDHUP alone, from accept to close: no
 * system call per request. A lingering socket is a duplicate, so that libmicrohttpd's own close
 * neither resets the connection nor frees its number under us. Invariant: users handed to hung_up
 * are alive, because nothing is closed between epoll_wait and the end of http_watch_run. */
#include "server/http_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINGER_MAX = 256, LINGER_MS = 2000, LINGER_BYTES = 64 << 20, EVENTS = 64 };

struct lingerer {
    int fd; /* -1: free */
    uint64_t until_ms;
    int64_t bytes_left;
};

struct http_watch {
    int epoll;
    int n_linger;
    struct lingerer linger[LINGER_MAX];
};

struct http_watch *http_watch_open(void)
{
    struct http_watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    for (int i = 0; i < LINGER_MAX; i++)
        w->linger[i].fd = -1;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll < 0) {
        free(w);
        return NULL;
    }
    return w;
}

static void linger_end(struct http_watch *w, struct lingerer *l)
{
    close(l->fd);
    l->fd = -1;
    w->n_linger--;
}

void http_watch_close(struct http_watch *w)
{
    if (w == NULL)
        return;
    for (int i = 0; i < LINGER_MAX; i++)
        if (w->linger[i].fd >= 0)
            linger_end(w, &w->linger[i]);
    close(w->epoll);
    free(w);
}

int http_watch_fd(const struct http_watch *w)
{
    return w->epoll;
}

bool http_watch_add(struct http_watch *w, int fd, void *user)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = user};
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

void http_watch_remove(struct http_watch *w, int fd)
{
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, fd, &(struct epoll_event){0});
}

void http_watch_linger(struct http_watch *w, int fd, uint64_t now_ms)
{
    struct lingerer *l = NULL;
    for (int i = 0; i < LINGER_MAX && l == NULL; i++)
        if (w->linger[i].fd < 0)
            l = &w->linger[i];
    int copy = l == NULL ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return;
    shutdown(copy, SHUT_WR);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = l};
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, copy, &event) != 0) {
        close(copy);
        return;
    }
    *l = (struct lingerer){.fd = copy, .until_ms = now_ms + LINGER_MS, .bytes_left = LINGER_BYTES};
    w->n_linger++;
}

static void linger_read(struct http_watch *w, struct lingerer *l)
{
    char bytes[16384];
    ssize_t n = recv(l->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n > 0)
        l->bytes_left -= n;
    if (n == 0 || l->bytes_left <= 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        linger_end(w, l);
}

void http_watch_run(struct http_watch *w, void (*hung_up)(void *user))
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(w->epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        struct lingerer *l = events[i].data.ptr;
        if (l >= w->linger && l < w->linger + LINGER_MAX)
            linger_read(w, l);
        else
            hung_up(events[i].data.ptr);
    }
}

int http_watch_sweep(struct http_watch *w, uint64_t now_ms)
{
    for (int i = 0; i < LINGER_MAX && w->n_linger > 0; i++)
        if (w->linger[i].fd >= 0 && now_ms >= w->linger[i].until_ms)
            linger_end(w, &w->linger[i]);
    return w->n_linger;
}
