/* http: libmicrohttpd under the libuv loop. Loop thread only (R5).
 *
 * The daemon's epoll descriptor is under one uv_poll and its timeout under one uv_timer; a pump is
 * MHD_run until nothing is due plus one run more (it takes up its listening socket again only in
 * the run after the one that closed a connection). Its own timeout is inactivity only, so the
 * deadlines are ours: one sweep over all connections, several times a second while there are any.
 * Our own epoll set (http_watch.c) tells when a client hung up; half-closed counts as gone.
 *
 * A connection's phases (function that moves it):
 *   HEAD  --access handler, first call (http_first)--> BODY | WORK
 *   BODY  --last byte (http_handle)--> WORK           deadline: body_timeout + 1 s per 256 KiB
 *   WORK  --answer there (http_respond)--> WRITE      suspended while nothing is there to send
 *   WRITE --request completed (http_completed)--> IDLE  deadline: write_timeout without progress
 *   IDLE  --request line (http_target)--> HEAD        deadlines: idle_timeout, header_timeout
 *   any   --deadline, hang-up, MHD's error--> closed (http_connection)
 *
 * Invariants: MHD_suspend_connection is called only where the handler or reader then returns, and a
 * suspended connection's `suspended` is set; every other file resumes through http_wake. Freed
 * connections are freed in MHD's own closing callback, hence only inside a pump. */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "engine/base/log.h"
#include "server/admit.h"
#include "server/app.h"
#include "server/exchange.h"
#include "server/http_gate.h"
#include "server/http_socket.h"
#include "server/http_watch.h"
#include "server/metrics.h"
#include "server/openai.h"
#include "server/route.h"

enum {
    SWEEP_MS = 250,
    PUMP_ROUNDS_MAX = 64,
    POOL_BYTES_MIN = 32 << 10,  /* of one connection's memory inside libmicrohttpd */
    SWALLOW_BYTES = 64 << 10,   /* bodies of refused requests up to this are read and dropped */
    BODY_BYTES_PER_SECOND = 256 << 10,
    SPARE_CONNECTIONS = 128     /* accepted over the limit, to be told so */
};

enum http_phase { HTTP_HEAD, HTTP_BODY, HTTP_WORK, HTTP_WRITE, HTTP_IDLE };

struct http_conn {
    struct http_conn *prev, *next;
    struct http *http;
    struct MHD_Connection *mhd;
    struct exchange *x; /* NULL between requests */
    int fd;
    enum http_phase phase;
    bool suspended;
    bool hung_up;      /* the client closed, or half-closed */
    bool hung_up_seen; /* ... and a sweep has seen it */
    bool refused;      /* ended by us: nothing of it is handled any more */
    bool linger;       /* answered while the client was still sending */
    bool begun;        /* the handler was called */
    bool target_plain; /* visible ASCII only */
    size_t target_size;
    uint64_t since_ms; /* the phase began */
    uint64_t progress_ms, acked; /* WRITE: the client last took bytes; how many in all */
};

struct http {
    struct app *app;
    struct MHD_Daemon *daemon;
    struct http_watch *watch;
    uv_poll_t poll, watch_poll;
    uv_timer_t due, sweep;
    uv_loop_t *loop;
    struct http_conn *conns;
    int n_conns, n_conns_max, n_spare;
    int n_open_handles;
    bool pumping, wanted;
    int port;
    char url[96];
};

static void http_on_sweep(uv_timer_t *timer);

/* ---- connections */

static struct http_conn *http_conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info == NULL ? NULL : info->socket_context;
}

static void http_phase(struct http_conn *c, enum http_phase phase)
{
    c->phase = phase;
    c->since_ms = c->progress_ms = uv_now(c->http->loop);
}

/* Answer past libmicrohttpd, where it takes no answer from us any more (a request half read) or not
 * yet; the connection must end after it. */
static void http_send_raw(struct http_conn *c, const struct err *err)
{
    const struct openai_error *error = openai_error_for(err->code);
    struct buf body, text;
    buf_init(&body, 4096);
    buf_init(&text, 8192);
    openai_write_error(&body, err);
    buf_format(&text,
               "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
               "Connection: close\r\n%s",
               error->status, MHD_get_reason_phrase_for((unsigned)error->status), body.size,
               error->retry ? "Retry-After: 1\r\n" : "");
    if (c->x != NULL)
        buf_format(&text, "x-request-id: %s\r\n", c->x->request_id);
    buf_text(&text, "\r\n");
    buf_add(&text, body.data, body.size);
    if (text.failed == 0 && body.failed == 0 &&
        send(c->fd, text.data, text.size, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        metrics_http(c->http->app->metrics, "other", error->status);
    buf_free(&body);
    buf_free(&text);
}

/* End a connection: its exchange is cancelled, and libmicrohttpd finds the socket closed. */
static void http_hang_up_one(struct http_conn *c)
{
    c->refused = true;
    if (c->x != NULL)
        exchange_gone(c->x);
    shutdown(c->fd, SHUT_RDWR);
}

static void http_conn_open(struct http *h, struct MHD_Connection *mhd, void **context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct http_conn *c = calloc(1, sizeof *c);
    *context = c;
    if (info == NULL || c == NULL) {
        if (info != NULL)
            shutdown(info->connect_fd, SHUT_RDWR);
        free(c);
        *context = NULL;
        return;
    }
    c->http = h;
    c->mhd = mhd;
    c->fd = info->connect_fd;
    http_socket_tune(c->fd);
    uv_update_time(h->loop);
    http_phase(c, HTTP_HEAD);
    c->next = h->conns;
    if (h->conns != NULL)
        h->conns->prev = c;
    h->conns = c;
    h->n_conns++;
    metrics_connections(h->app->metrics, h->n_conns);
    if (!uv_is_active((uv_handle_t *)&h->sweep))
        uv_timer_start(&h->sweep, http_on_sweep, SWEEP_MS, SWEEP_MS);
    if (!http_watch_add(h->watch, c->fd, c) || h->n_conns > h->n_conns_max) {
        struct err err = {0};
        err_set(&err, ERR_FULL, "Too many connections.");
        http_send_raw(c, &err);
        http_hang_up_one(c);
    }
}

static void http_conn_close(struct http *h, struct http_conn *c)
{
    http_watch_remove(h->watch, c->fd);
    if (c->linger)
        http_watch_linger(h->watch, c->fd, uv_now(h->loop));
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    h->n_conns--;
    metrics_connections(h->app->metrics, h->n_conns);
    free(c);
}

static void http_connection(void *cls, struct MHD_Connection *mhd, void **context,
                            enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        http_conn_open(cls, mhd, context);
    else if (*context != NULL)
        http_conn_close(cls, *context);
}

static void http_hung_up(void *user)
{
    struct http_conn *c = user;
    c->hung_up = true;
    if (c->x != NULL && (c->suspended || c->phase == HTTP_WORK)) /* else see http_check_deadline */
        exchange_gone(c->x);
}

/* ---- answers */

/* MHD's content reader of a stream: bytes, the end, or sleep until http_wake. */
static ssize_t http_read(void *cls, uint64_t pos, char *bytes, size_t max)
{
    struct http_conn *c = cls;
    struct exchange *x = c->x;
    (void)pos;
    if (x != NULL && c->hung_up)
        exchange_gone(x);
    if (x == NULL || x->gone || x->out.failed != 0)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = exchange_take(x, bytes, max);
    if (n > 0)
        return (ssize_t)n;
    if (x->complete)
        return MHD_CONTENT_READER_END_OF_STREAM;
    MHD_suspend_connection(c->mhd);
    c->suspended = true;
    return 0;
}

static enum MHD_Result http_respond(struct http_conn *c)
{
    struct exchange *x = c->x;
    struct MHD_Response *r;
    if (x->out.failed != 0)
        return MHD_NO;
    if (x->streaming)
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, http_read, c, NULL);
    else
        r = MHD_create_response_from_buffer(x->out.size, x->out.size > 0 ? x->out.data : "",
                                            MHD_RESPMEM_PERSISTENT);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, "x-request-id", x->request_id);
    if (x->content_type != NULL)
        MHD_add_response_header(r, "Content-Type", x->content_type);
    for (int i = 0; i < x->n_headers; i++)
        MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
    if (x->close || c->http->app->phase == APP_DRAINING)
        MHD_add_response_header(r, "Connection", "close");
    enum MHD_Result rc = MHD_queue_response(c->mhd, (unsigned)x->status, r);
    MHD_destroy_response(r);
    http_phase(c, HTTP_WRITE);
    return rc;
}

/* ---- requests */

/* Called with the request line: the target with its query. */
static void *http_target(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http_conn *c = http_conn_of(mhd);
    (void)cls;
    if (c == NULL)
        return NULL;
    c->target_size = strlen(uri);
    c->target_plain = true;
    for (size_t i = 0; i < c->target_size; i++)
        c->target_plain = c->target_plain && uri[i] > ' ' && uri[i] < 0x7f;
    if (c->phase == HTTP_IDLE)
        http_phase(c, HTTP_HEAD);
    return NULL;
}

static enum MHD_Result http_collect(void *cls, enum MHD_ValueKind kind, const char *name,
                                    size_t name_size, const char *value, size_t value_size)
{
    struct http_gate_request *r = cls;
    (void)kind;
    if (r->n_headers++ < HTTP_GATE_HEADERS_MAX)
        r->headers[r->n_headers - 1] = (struct http_gate_header){
            name, value != NULL ? value : "", name_size, value != NULL ? value_size : 0};
    return MHD_YES;
}

/* The head is complete: gate, admission, and whether its body is worth reading. */
static enum MHD_Result http_first(struct http_conn *c, const char *path, const char *method,
                                  const char *version)
{
    struct http *h = c->http;
    struct exchange *x = c->x = exchange_open(h->app, c);
    if (x == NULL)
        return MHD_NO;
    c->begun = false;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    struct http_gate_request request = {
        .method = method, .path = path, .version = version,
        .target_size = c->target_size, .target_plain = c->target_plain,
        .head_size = info != NULL ? info->header_size : 0,
        .head_size_max = (size_t)h->app->config->max_header_bytes};
    struct http_gate_head head;
    struct err err = {0};
    MHD_get_connection_values_n(c->mhd, MHD_HEADER_KIND, http_collect, &request);
    admit_request_id(x, MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, "x-request-id"));
    snprintf(x->method, sizeof x->method, "%s", method);
    int rc = http_gate_check(&request, &head, &err);
    bool framed = rc == 0; /* else nothing after the head can be trusted */
    if (framed) {
        x->path = arena_copy(&x->arena, path, strlen(path));
        if (x->path == NULL)
            return MHD_NO;
        rc = admit_check(x, &head, &err);
    }
    if (rc != 0)
        exchange_fail(x, &err);
    if (!framed || (x->status != 0 && head.body &&
                    (x->close || head.chunked || head.expect_continue ||
                     head.content_length > SWALLOW_BYTES))) {
        x->close = c->linger = true;
        return http_respond(c);
    }
    http_phase(c, head.body ? HTTP_BODY : HTTP_WORK);
    return MHD_YES;
}

static enum MHD_Result http_body(struct http_conn *c, const char *bytes, size_t n)
{
    struct exchange *x = c->x;
    struct err err = {0};
    if (x->status != 0) /* refused already: read and dropped */
        return MHD_YES;
    int rc = buf_add(&x->body, bytes, n);
    if (rc == 0)
        return MHD_YES;
    if (rc == ERR_TOO_LARGE)
        err_set(&err, rc, "The request body is larger than this server's limit of %lld bytes.",
                (long long)c->http->app->config->max_body_bytes);
    else
        err_set(&err, ERR_NOMEM, "out of memory");
    http_send_raw(c, &err);
    exchange_fail(x, &err);
    c->linger = true;
    return MHD_NO;
}

static enum MHD_Result http_handle(void *cls, struct MHD_Connection *mhd, const char *path,
                                   const char *method, const char *version, const char *upload,
                                   size_t *upload_size, void **context)
{
    struct http_conn *c = http_conn_of(mhd);
    (void)cls;
    if (c == NULL || c->refused)
        return MHD_NO;
    if (*context == NULL) {
        *context = c;
        return http_first(c, path, method, version);
    }
    struct exchange *x = c->x;
    if (x == NULL || x->gone)
        return MHD_NO;
    if (*upload_size > 0) {
        enum MHD_Result rc = http_body(c, upload, *upload_size);
        *upload_size = 0;
        return rc;
    }
    if (x->status == 0 && !c->begun) {
        c->begun = true;
        http_phase(c, HTTP_WORK);
        exchange_begin(x);
    }
    if (x->status != 0)
        return http_respond(c);
    if (c->hung_up)
        exchange_gone(x);
    if (x->gone)
        return MHD_NO;
    MHD_suspend_connection(mhd);
    c->suspended = true;
    return MHD_YES;
}

static void http_completed(void *cls, struct MHD_Connection *mhd, void **context,
                           enum MHD_RequestTerminationCode how)
{
    struct http_conn *c = http_conn_of(mhd);
    (void)cls;
    *context = NULL;
    if (c == NULL)
        return;
    struct exchange *x = c->x;
    c->x = NULL;
    if (x != NULL)
        exchange_close(x, how == MHD_REQUEST_TERMINATED_COMPLETED_OK && !x->gone);
    http_phase(c, HTTP_IDLE);
}

/* ---- the pump */

void http_wake(struct exchange *x)
{
    struct http_conn *c = x->http;
    if (c == NULL || !c->suspended)
        return;
    c->suspended = false;
    c->http->wanted = true;
    MHD_resume_connection(c->mhd);
}

static void http_on_due(uv_timer_t *timer)
{
    http_pump(timer->data);
}

/* One run and what it makes possible; true: there is more to do at once. */
static bool http_run(struct http *h, MHD_UNSIGNED_LONG_LONG *timeout, bool *has_timeout)
{
    h->wanted = false;
    MHD_run(h->daemon);
    exchange_set_refill(h->app->exchanges);
    *has_timeout = MHD_get_timeout(h->daemon, timeout) == MHD_YES;
    return h->wanted || (*has_timeout && *timeout == 0);
}

void http_pump(struct http *h)
{
    MHD_UNSIGNED_LONG_LONG timeout = 0;
    bool has_timeout = false, more;
    if (h->daemon == NULL)
        return;
    if (h->pumping) {
        h->wanted = true;
        return;
    }
    h->pumping = true;
    int rounds = 0;
    while (http_run(h, &timeout, &has_timeout) && ++rounds < PUMP_ROUNDS_MAX) {
    }
    more = http_run(h, &timeout, &has_timeout);
    h->pumping = false;
    if (more)
        timeout = 0;
    if (more || has_timeout)
        uv_timer_start(&h->due, http_on_due, timeout, 0);
    else
        uv_timer_stop(&h->due);
}

static void http_on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    http_pump(poll->data);
}

static void http_on_watch(uv_poll_t *poll, int status, int events)
{
    struct http *h = poll->data;
    (void)status;
    (void)events;
    http_watch_run(h->watch, http_hung_up);
    http_pump(h);
}

/* ---- deadlines */

/* Has the client stopped taking what is sent? Bytes acknowledged count as progress, and so does an
 * empty send queue: then it waits for us. */
static bool http_stalled(struct http_conn *c, uint64_t now)
{
    struct http_socket_progress p;
    http_socket_progress(c->fd, &p);
    if (p.unsent == 0 || p.acked != c->acked) {
        c->acked = p.acked;
        c->progress_ms = now;
        return false;
    }
    return now - c->progress_ms >= (uint64_t)c->http->app->config->write_timeout_ms;
}

static void http_expire(struct http_conn *c, bool answer)
{
    if (answer) {
        struct err err = {0};
        err_set(&err, ERR_SLOW, "The request did not arrive in time.");
        http_send_raw(c, &err);
    }
    http_hang_up_one(c);
}

static void http_check_deadline(struct http_conn *c, uint64_t now)
{
    const struct config *config = c->http->app->config;
    uint64_t age = now - c->since_ms;
    struct http_socket_progress p;
    if (c->hung_up && c->phase != HTTP_WORK && c->phase != HTTP_WRITE) {
        if (c->hung_up_seen) /* what it sent has been read by now, and no more will come */
            http_expire(c, false);
        c->hung_up_seen = true;
        return;
    }
    switch (c->phase) {
    case HTTP_HEAD:
        if (age < (uint64_t)config->header_timeout_ms)
            return;
        http_socket_progress(c->fd, &p);
        http_expire(c, p.received > 0);
        return;
    case HTTP_BODY:
        if (age >= (uint64_t)config->body_timeout_ms +
                       (c->x != NULL ? c->x->body.size / (BODY_BYTES_PER_SECOND / 1000) : 0))
            http_expire(c, c->x != NULL && c->x->status == 0);
        return;
    case HTTP_WRITE:
        if (http_stalled(c, now))
            http_expire(c, false);
        return;
    case HTTP_IDLE:
        if (age >= (uint64_t)config->idle_timeout_ms)
            http_expire(c, false);
        return;
    case HTTP_WORK:
        return;
    }
}

static void http_on_sweep(uv_timer_t *timer)
{
    struct http *h = timer->data;
    uint64_t now = uv_now(h->loop);
    for (struct http_conn *c = h->conns; c != NULL; c = c->next)
        if (!c->refused)
            http_check_deadline(c, now);
    exchange_set_sweep(h->app->exchanges);
    int lingering = http_watch_sweep(h->watch, now);
    http_pump(h);
    if (h->n_conns == 0 && lingering == 0 && exchange_set_count(h->app->exchanges) == 0)
        uv_timer_stop(timer);
}

/* ---- life */

static void http_log(void *cls, const char *format, va_list args)
{
    char text[256];
    (void)cls;
    int n = vsnprintf(text, sizeof text, format, args);
    while (n > 0 && n < (int)sizeof text && text[n - 1] == '\n')
        text[--n] = '\0';
    log_event(LOG_DEBUG, "libmicrohttpd: %s", text);
}

static size_t http_no_unescape(void *cls, struct MHD_Connection *mhd, char *text)
{
    (void)cls;
    (void)mhd;
    return strlen(text);
}

static int http_start(struct http *h, int listen_fd, struct err *err)
{
    int64_t pool = h->app->config->max_header_bytes * 2;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    h->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_handle, h, MHD_OPTION_EXTERNAL_LOGGER, http_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)(h->n_conns_max + h->n_spare + 1),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(pool > POOL_BYTES_MIN ? pool : POOL_BYTES_MIN),
        MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT, -1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_UNESCAPE_CALLBACK, http_no_unescape, NULL,
        MHD_OPTION_URI_LOG_CALLBACK, http_target, NULL, MHD_OPTION_NOTIFY_COMPLETED, http_completed,
        NULL, MHD_OPTION_NOTIFY_CONNECTION, http_connection, h, MHD_OPTION_END);
    if (h->daemon == NULL) {
        close(listen_fd);
        return err_set(err, ERR_IO, "the HTTP daemon did not start: %s", strerror(errno));
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL || uv_poll_init(h->loop, &h->poll, info->epoll_fd) != 0 ||
        uv_poll_init(h->loop, &h->watch_poll, http_watch_fd(h->watch)) != 0) {
        MHD_stop_daemon(h->daemon);
        h->daemon = NULL;
        return err_set(err, ERR_IO, "the HTTP daemon's descriptors cannot be watched");
    }
    uv_timer_init(h->loop, &h->due);
    uv_timer_init(h->loop, &h->sweep);
    h->poll.data = h->watch_poll.data = h->due.data = h->sweep.data = h;
    uv_poll_start(&h->poll, UV_READABLE, http_on_readable);
    uv_poll_start(&h->watch_poll, UV_READABLE, http_on_watch);
    uv_timer_start(&h->sweep, http_on_sweep, SWEEP_MS, SWEEP_MS);
    http_pump(h);
    return 0;
}

int http_open(struct app *app, struct uv_loop_s *loop, struct http **out, struct err *err)
{
    struct http *h = calloc(1, sizeof *h);
    if (h == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    h->app = app;
    h->loop = loop;
    int64_t room = http_socket_connections(app->config->max_connections + SPARE_CONNECTIONS);
    h->n_spare = room > 4 * SPARE_CONNECTIONS ? SPARE_CONNECTIONS : (int)(room / 4);
    h->n_conns_max = (int)room - h->n_spare;
    if (h->n_conns_max > app->config->max_connections)
        h->n_conns_max = (int)app->config->max_connections;
    h->watch = http_watch_open();
    int fd = -1, rc = h->watch != NULL ? 0 : err_set(err, ERR_IO, "epoll: %s", strerror(errno));
    if (rc == 0)
        rc = http_socket_listen(app->config->host, (int)app->config->port, &fd, &h->port, h->url,
                                sizeof h->url, err);
    if (rc == 0)
        rc = http_start(h, fd, err);
    if (rc != 0) {
        http_free(h);
        return rc;
    }
    *out = app->http = h;
    return 0;
}

int http_port(const struct http *h)
{
    return h->port;
}

const char *http_url(const struct http *h)
{
    return h->url;
}

void http_quiesce(struct http *h)
{
    MHD_socket fd = MHD_quiesce_daemon(h->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    http_pump(h);
}

bool http_busy(const struct http *h)
{
    for (const struct http_conn *c = h->conns; c != NULL; c = c->next)
        if (c->x != NULL)
            return true;
    return false;
}

void http_hang_up(struct http *h)
{
    for (struct http_conn *c = h->conns; c != NULL; c = c->next)
        http_hang_up_one(c);
    http_pump(h);
}

static void http_on_closed(uv_handle_t *handle)
{
    ((struct http *)handle->data)->n_open_handles--;
}

void http_close(struct http *h)
{
    http_hang_up(h);
    uv_handle_t *handles[] = {(uv_handle_t *)&h->poll, (uv_handle_t *)&h->watch_poll,
                              (uv_handle_t *)&h->due, (uv_handle_t *)&h->sweep};
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++) {
        h->n_open_handles++;
        uv_close(handles[i], http_on_closed);
    }
    MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
}

void http_free(struct http *h)
{
    if (h == NULL)
        return;
    CHECK(h->n_open_handles == 0);
    http_watch_close(h->watch);
    free(h);
}
