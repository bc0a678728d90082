/* exchange: the state machine of exchange.h, and the set of all exchanges of a process. Loop thread
 * only (a prep worker owns an exchange's request, arena and api while it is PREPARING; then nothing
 * here touches them).
 *
 * Invariants: an exchange is freed once, by exchange_try_free, when MHD has let go of it, no worker
 * has it and every channel is released. A channel is released after its terminal event and never
 * before (R1). A muted exchange (gone, or its answer is complete) drains its channels unseen. Bytes
 * queued for one slow reader are bounded: over OUT_HIGH its channels are left unread, their rings
 * fill, and the engine pauses those sequences alone (R3). */
#include "server/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/log.h"
#include "server/app.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/openai.h"
#include "server/prep.h"
#include "server/route.h"

enum {
    OUT_HIGH = 256 << 10,        /* unread bytes that stop the reading of channels */
    OUT_LOW = 64 << 10,          /* ... and that let it go on */
    OUT_MAX = 256 << 20,         /* of one answer; over it the exchange is cut */
    ARENA_MAX = 512 << 20,
    COMPACT_BYTES = 64 << 10
};

struct slot { /* one exchange with what only this file knows of it */
    struct exchange x;
    struct slot *prev, *next;
    struct exchange_set *set;
    size_t taken;             /* bytes of x.out that MHD has */
    uint64_t start_ns, submit_ns, out_ns; /* begun; first submit; last bytes for the client */
    uint64_t token_ns[EXCHANGE_CHANNELS_MAX]; /* last token of each channel; 0: none yet */
    int max_tokens;           /* of each sequence */
    int longest;              /* generated tokens of the longest sequence that finished */
    bool first_event;         /* the engine has begun it */
    bool preparing;           /* a worker has it */
    bool let_go;              /* MHD is done with it */
    bool sent;                /* ... and the whole answer went out */
    bool thirsty;             /* channels left unread: the client is slow */
    int fail_code;            /* ERR_* to end with once the worker is back */
};

struct exchange_set {
    struct app *app;
    struct slot *first;
    int n;
    int n_thirsty;
};

static struct slot *slot_of(struct exchange *x)
{
    return (struct slot *)x;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool exchange_muted(const struct exchange *x)
{
    return x->gone || x->complete;
}

/* ---- the end of an exchange */

static void exchange_log(struct slot *s)
{
    struct exchange *x = &s->x;
    const char *label = x->route != NULL ? x->route->label : "other";
    int status = x->status != 0 ? x->status : 499; /* the client left before any answer */
    bool quiet = x->route != NULL && x->route->quiet && status < 400;
    const struct engine_usage *u = &x->usage;
    struct log_line line;
    metrics_http(x->app->metrics, label, status);
    log_begin(&line, quiet ? LOG_DEBUG : LOG_INFO, "request");
    log_str(&line, "id", x->request_id);
    log_str(&line, "route", label);
    log_int(&line, "status", status);
    if (x->n_channels > 0) {
        static const char *const names[] = {"none", "stop", "length", "cancelled", "error"};
        log_str(&line, "finish", names[x->finish]);
        log_int(&line, "prompt_tokens", u->prompt_tokens);
        log_int(&line, "cached_tokens", u->cached_tokens);
        log_int(&line, "output_tokens", u->output_tokens);
        log_ms(&line, "queue_ms", u->queue_ms);
        if (u->first_token_ms >= 0)
            log_ms(&line, "ttft_ms", u->first_token_ms);
        if (u->first_token_ms >= 0 && u->output_tokens > x->n_channels)
            log_ms(&line, "tpot_ms", (u->total_ms - u->first_token_ms) * x->n_channels /
                                         (u->output_tokens - x->n_channels));
    }
    if (x->error_code != 0)
        log_str(&line, "error", err_name(x->error_code));
    if (!s->sent)
        log_str(&line, "client", "gone");
    log_ms(&line, "total_ms", (double)(now_ns() - s->start_ns) / 1e6);
    log_end(&line);
}

static void exchange_try_free(struct slot *s)
{
    struct exchange *x = &s->x;
    struct exchange_set *set = s->set;
    if (!s->let_go || s->preparing || x->n_live > 0)
        return;
    exchange_log(s);
    if (x->api_free != NULL)
        x->api_free(x);
    if (s->thirsty)
        set->n_thirsty--;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        set->first = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    set->n--;
    buf_free(&x->body);
    buf_free(&x->out);
    arena_free(&x->arena);
    free(s);
}

static void exchange_cancel(struct exchange *x)
{
    for (int i = 0; i < x->n_channels; i++)
        if (x->channels[i] != NULL)
            engine_cancel(x->channels[i]);
}

static void exchange_complete(struct exchange *x)
{
    x->complete = true;
    if (x->state != EXCHANGE_GONE)
        x->state = EXCHANGE_ANSWERED;
    exchange_cancel(x); /* whatever still runs has no reader: its events are drained unseen */
    exchange_flush(x);
}

/* ---- what handlers call */

void exchange_header(struct exchange *x, const char *name, const char *value)
{
    char *n = arena_copy(&x->arena, name, strlen(name));
    char *v = arena_copy(&x->arena, value, strlen(value));
    if (n == NULL || v == NULL || x->n_headers == (int)(sizeof x->headers / sizeof x->headers[0]))
        return;
    x->headers[x->n_headers++] = (struct exchange_header){n, v};
}

void exchange_answer(struct exchange *x, int status, const char *content_type, const char *bytes,
                     size_t n)
{
    if (x->status != 0)
        return;
    x->status = status;
    x->content_type = content_type;
    buf_clear(&x->out);
    buf_add(&x->out, bytes, n);
    exchange_complete(x);
}

void exchange_answer_json(struct exchange *x, int status, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);
    if (text == NULL) {
        exchange_fail(x, &(struct err){.code = ERR_NOMEM, .text = "out of memory"});
        return;
    }
    exchange_answer(x, status, "application/json", text, strlen(text));
    free(text);
}

/* The headers that tell a client whether trying again makes sense. */
static void exchange_error_headers(struct exchange *x, const struct openai_error *error)
{
    if (error->retry)
        exchange_header(x, "Retry-After", "1");
    else if (error->status >= 400 && error->status < 500 && error->status != 408)
        exchange_header(x, "x-should-retry", "false");
    if (error->status == 401)
        exchange_header(x, "WWW-Authenticate", "Bearer");
    x->close = x->close || error->close;
}

void exchange_fail(struct exchange *x, const struct err *err)
{
    const struct openai_error *error = openai_error_for(err->code);
    if (exchange_muted(x))
        return;
    x->error_code = err->code;
    if (error->status == 500) /* ours to explain; a 503 is told by the request's own line */
        log_event(LOG_WARN, "request %s failed: %s: %s", x->request_id, err_name(err->code),
                  err->text);
    if (x->streaming) {
        buf_text(&x->out, "data: ");
        openai_write_error(&x->out, err);
        buf_text(&x->out, "\n\n");
        x->finish = FINISH_ERROR;
        exchange_complete(x);
        return;
    }
    if (x->status != 0)
        return;
    x->status = error->status;
    x->content_type = "application/json";
    exchange_error_headers(x, error);
    buf_clear(&x->out);
    openai_write_error(&x->out, err);
    exchange_complete(x);
}

void exchange_prepare(struct exchange *x)
{
    struct slot *s = slot_of(x);
    struct err err = {0};
    x->state = EXCHANGE_PREPARING;
    s->preparing = true;
    if (prep_run(x->app->prep, x, &err) == 0) {
        metrics_prepare_bytes(x->app->metrics, (int64_t)prep_bytes(x->app->prep));
        return;
    }
    s->preparing = false;
    exchange_fail(x, &err);
}

void exchange_prepared(struct exchange *x, int code, const struct err *err)
{
    struct slot *s = slot_of(x);
    struct app *app = x->app;
    s->preparing = false;
    metrics_prepare_bytes(app->metrics, (int64_t)prep_bytes(app->prep));
    if (x->gone) {
        x->state = EXCHANGE_GONE;
    } else if (s->fail_code != 0) {
        exchange_fail(x, &(struct err){.code = s->fail_code});
    } else {
        struct err not_ready = {0};
        if (app_ready(app, &not_ready) != 0 && app->phase != APP_DRAINING)
            exchange_fail(x, &not_ready);
        else
            x->prepared(x, code, err);
    }
    exchange_try_free(s); /* x may be gone from here on */
    http_pump(app->http);
}

int exchange_submit(struct exchange *x, const struct engine_request *request, struct err *err)
{
    struct slot *s = slot_of(x);
    if (x->n_channels == EXCHANGE_CHANNELS_MAX)
        return err_set(err, ERR_INTERNAL, "more than %d sequences", EXCHANGE_CHANNELS_MAX);
    struct channel *channel;
    int rc = engine_submit(x->app->engine, request, x, &channel, err);
    if (rc != 0)
        return rc;
    if (x->n_channels == 0)
        s->submit_ns = now_ns();
    s->max_tokens = request->max_tokens;
    x->channels[x->n_channels++] = channel;
    x->n_live++;
    x->state = EXCHANGE_RUNNING;
    return 0;
}

void exchange_stream_begin(struct exchange *x)
{
    if (x->status != 0 || exchange_muted(x))
        return;
    x->status = 200;
    x->content_type = "text/event-stream";
    x->streaming = true;
    exchange_header(x, "Cache-Control", "no-cache");
    exchange_header(x, "X-Accel-Buffering", "no"); /* nginx would hold events back */
    exchange_flush(x);
}

void exchange_flush(struct exchange *x)
{
    slot_of(x)->out_ns = now_ns();
    http_wake(x);
}

void exchange_end(struct exchange *x)
{
    if (!exchange_muted(x))
        exchange_complete(x);
}

/* ---- events */

static void exchange_token(struct slot *s, int i)
{
    struct metrics *m = s->x.app->metrics;
    uint64_t now = now_ns();
    if (s->token_ns[i] == 0)
        metrics_observe(m, METRICS_TTFT, (double)(now - s->submit_ns) / 1e9);
    else
        metrics_observe(m, METRICS_ITL, (double)(now - s->token_ns[i]) / 1e9);
    s->token_ns[i] = now;
}

/* A terminal event: the exchange's sums, and the metrics of one finished sequence. */
static void exchange_finished(struct slot *s, const struct event *event)
{
    struct exchange *x = &s->x;
    struct metrics *m = x->app->metrics;
    const struct engine_usage *u = &event->usage;
    enum finish_reason reason = event->kind == EVENT_FAILED ? FINISH_ERROR : event->finish;
    metrics_finish(m, reason);
    x->usage.prompt_tokens += u->prompt_tokens;
    x->usage.cached_tokens += u->cached_tokens;
    x->usage.output_tokens += u->output_tokens;
    if (x->finish == FINISH_NONE) {
        x->usage.queue_ms = u->queue_ms;
        x->usage.first_token_ms = u->first_token_ms;
    }
    if (u->total_ms > x->usage.total_ms)
        x->usage.total_ms = u->total_ms;
    if (x->finish != FINISH_ERROR)
        x->finish = reason;
    if (reason != FINISH_STOP && reason != FINISH_LENGTH)
        return;
    metrics_observe(m, METRICS_E2E, u->total_ms / 1e3);
    metrics_observe(m, METRICS_QUEUE, u->queue_ms / 1e3);
    metrics_observe(m, METRICS_INFERENCE, (u->total_ms - u->queue_ms) / 1e3);
    if (u->first_token_ms >= 0) {
        metrics_observe(m, METRICS_PREFILL, (u->first_token_ms - u->queue_ms) / 1e3);
        metrics_observe(m, METRICS_DECODE, (u->total_ms - u->first_token_ms) / 1e3);
    }
    metrics_observe(m, METRICS_PROMPT_TOKENS, u->prompt_tokens);
    metrics_observe(m, METRICS_GENERATION_TOKENS, u->output_tokens);
    metrics_observe(m, METRICS_MAX_TOKENS, s->max_tokens);
    s->longest = u->output_tokens > s->longest ? u->output_tokens : s->longest;
    if (x->n_live == 1) /* the last of them */
        metrics_observe(m, METRICS_LONGEST_TOKENS, s->longest);
    if (u->output_tokens > 1 && u->first_token_ms >= 0)
        metrics_observe(m, METRICS_TPOT,
                        (u->total_ms - u->first_token_ms) / 1e3 / (u->output_tokens - 1));
}

/* Hand on what channel i has, as long as there is room. Returns the number of events. */
static int exchange_read(struct slot *s, int i)
{
    struct exchange *x = &s->x;
    struct event event;
    int n = 0;
    while (x->channels[i] != NULL) {
        if (!exchange_muted(x) && x->out.size - s->taken > OUT_HIGH) {
            if (!s->thirsty)
                s->set->n_thirsty++;
            s->thirsty = true;
            break;
        }
        if (engine_next(x->channels[i], &event) == 0)
            break;
        n++;
        s->first_event = true;
        bool terminal = event.kind == EVENT_DONE || event.kind == EVENT_FAILED;
        if (event.kind == EVENT_TOKEN)
            exchange_token(s, i);
        if (terminal)
            exchange_finished(s, &event);
        if (!exchange_muted(x))
            x->on_event(x, i, &event);
        if (terminal) {
            engine_release(x->channels[i]);
            x->channels[i] = NULL;
            x->n_live--;
        }
    }
    return n;
}

static int channel_index(const struct exchange *x, const struct channel *channel)
{
    for (int i = 0; i < x->n_channels; i++)
        if (x->channels[i] == channel)
            return i;
    return -1;
}

int exchange_set_wake(struct exchange_set *set)
{
    int n = 0;
    struct channel *channel;
    void *user;
    if (set->app->engine == NULL)
        return 0;
    while ((channel = engine_poll(set->app->engine, &user)) != NULL) {
        struct slot *s = slot_of(user);
        int i = channel_index(&s->x, channel);
        CHECK(i >= 0);
        n += exchange_read(s, i);
        exchange_try_free(s);
    }
    return n;
}

int exchange_set_refill(struct exchange_set *set)
{
    int n = 0;
    struct slot *next;
    for (struct slot *s = set->n_thirsty > 0 ? set->first : NULL; s != NULL; s = next) {
        next = s->next;
        if (!s->thirsty || (!exchange_muted(&s->x) && s->x.out.size - s->taken > OUT_LOW))
            continue;
        s->thirsty = false;
        set->n_thirsty--;
        for (int i = 0; i < s->x.n_channels; i++)
            n += exchange_read(s, i);
        exchange_try_free(s);
    }
    return n;
}

/* ---- what http.c calls */

struct exchange *exchange_open(struct app *app, void *http)
{
    struct exchange_set *set = app->exchanges;
    struct slot *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->x.app = app;
    s->x.http = http;
    s->x.path = s->x.path_tail = "";
    s->x.usage.first_token_ms = -1;
    s->set = set;
    s->start_ns = s->out_ns = now_ns();
    arena_init(&s->x.arena, ARENA_MAX);
    buf_init(&s->x.body, (size_t)app->config->max_body_bytes);
    buf_init(&s->x.out, OUT_MAX);
    s->next = set->first;
    if (set->first != NULL)
        set->first->prev = s;
    set->first = s;
    set->n++;
    return &s->x;
}

void exchange_begin(struct exchange *x)
{
    x->route->handle(x);
}

size_t exchange_take(struct exchange *x, char *bytes, size_t max)
{
    struct slot *s = slot_of(x);
    size_t n = x->out.size - s->taken;
    if (n > max)
        n = max;
    if (n == 0)
        return 0;
    memcpy(bytes, x->out.data + s->taken, n);
    s->taken += n;
    if (s->taken == x->out.size) {
        x->out.size = s->taken = 0;
    } else if (s->taken >= COMPACT_BYTES && s->taken > x->out.size / 2) {
        x->out.size -= s->taken;
        memmove(x->out.data, x->out.data + s->taken, x->out.size);
        s->taken = 0;
    }
    return n;
}

bool exchange_drained(const struct exchange *x)
{
    return x->complete && ((const struct slot *)x)->taken == x->out.size;
}

void exchange_gone(struct exchange *x)
{
    if (x->gone)
        return;
    x->gone = true;
    if (!slot_of(x)->preparing)
        x->state = EXCHANGE_GONE;
    exchange_cancel(x);
    http_wake(x);
}

void exchange_close(struct exchange *x, bool sent)
{
    struct slot *s = slot_of(x);
    s->let_go = true;
    s->sent = sent;
    x->http = NULL;
    if (!sent)
        exchange_gone(x);
    if (s->thirsty) { /* nobody will take bytes any more: drain what was left unread */
        x->gone = true;
        s->thirsty = false;
        s->set->n_thirsty--;
        for (int i = 0; i < x->n_channels; i++)
            exchange_read(s, i);
    }
    exchange_try_free(s);
}

/* ---- the set */

struct exchange_set *exchange_set_open(struct app *app)
{
    struct exchange_set *set = calloc(1, sizeof *set);
    if (set != NULL)
        set->app = app;
    return set;
}

void exchange_set_close(struct exchange_set *set)
{
    CHECK(set == NULL || set->n == 0);
    free(set);
}

int exchange_set_count(const struct exchange_set *set)
{
    return set->n;
}

void exchange_set_sweep(struct exchange_set *set)
{
    const struct config *c = set->app->config;
    struct engine_stats stats = {0};
    uint64_t now = now_ns();
    struct slot *next;
    if (set->app->engine != NULL)
        engine_stats(set->app->engine, &stats);
    for (struct slot *s = set->first; s != NULL; s = next) {
        struct exchange *x = &s->x;
        next = s->next;
        if (x->state != EXCHANGE_RUNNING || exchange_muted(x))
            continue;
        /* no event yet and somebody waits in the queue: it may be this one; a long prompt that is
         * being read while nobody waits is not a full queue */
        if (!s->first_event && stats.waiting > 0 && c->queue_timeout_ms > 0 &&
            now - s->submit_ns > (uint64_t)c->queue_timeout_ms * 1000000u) {
            struct err err = {0};
            err_set(&err, ERR_FULL, "The request waited %lld ms in the queue without being begun.",
                    (long long)c->queue_timeout_ms);
            exchange_fail(x, &err);
        } else if (x->streaming && x->on_ping != NULL && c->sse_ping_interval_ms > 0 &&
                   now - s->out_ns >= (uint64_t)c->sse_ping_interval_ms * 1000000u) {
            x->on_ping(x);
            exchange_flush(x);
        }
    }
}

void exchange_set_fail(struct exchange_set *set, int code)
{
    for (struct slot *s = set->first; s != NULL; s = s->next) {
        if (s->preparing)
            s->fail_code = code;
        else if (s->x.state == EXCHANGE_RUNNING)
            exchange_fail(&s->x, &(struct err){.code = code});
    }
}
