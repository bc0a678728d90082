/* exchange: one HTTP request and its answer: arena, body in, bytes out, suspend and resume.
 *
 * http.c makes and drives it; api_*.c fill it in; nobody else holds one. Loop thread only, but for
 * the time a prep worker owns it (state PREPARING: then the loop touches nothing of it but
 * `gone`). R2: the engine never sees an exchange; it is the `user` of its channels.
 *
 * States (function that moves it):
 *   READING    --exchange_begin (handler called, body complete)--> PREPARING | ANSWERED
 *   PREPARING  --prep worker done, on the loop--> RUNNING (channels submitted) | ANSWERED
 *   RUNNING    --all channels terminal--> ANSWERED (last byte queued)
 *   any        --client gone (http.c's UV_DISCONNECT, deadline, MHD's completion)--> GONE:
 *                channels are cancelled; freed when the worker is back and all channels are
 *                released, and MHD has let go of the connection
 *   ANSWERED   --MHD completion callback--> freed */
#ifndef SIROCCO_EXCHANGE_H
#define SIROCCO_EXCHANGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/engine.h"

struct app;   /* app.h: what one server process shares: config, engine, metrics, auth */
struct route; /* route.h */
struct exchange;

enum exchange_state {
    EXCHANGE_READING,
    EXCHANGE_PREPARING,
    EXCHANGE_RUNNING,
    EXCHANGE_ANSWERED,
    EXCHANGE_GONE
};

enum { EXCHANGE_CHANNELS_MAX = 128 };

struct exchange_header {
    const char *name, *value; /* in the arena */
};

struct exchange {
    struct app *app;
    const struct route *route;
    enum exchange_state state;
    struct arena arena;

    /* request */
    char method[16];
    const char *path;       /* raw target without its query, in the arena */
    const char *path_tail;  /* after the route's prefix, for /v1/models/{id} */
    char request_id[72];
    struct buf body;
    bool gone;              /* the client left, or a deadline passed */

    /* answer */
    int status;             /* 0 until exchange_answer or exchange_stream_begin */
    const char *content_type;
    struct exchange_header headers[8]; /* extra ones */
    int n_headers;
    struct buf out;         /* bytes not yet taken by MHD */
    bool streaming;         /* chunked SSE: more may come until `complete` */
    bool complete;          /* all of the answer is in out */
    bool close;             /* Connection: close after it */

    /* work */
    int (*prepare)(struct exchange *x, struct err *err); /* worker: parse, render, tokenize */
    void (*prepared)(struct exchange *x, int code, const struct err *err); /* loop */
    void (*on_event)(struct exchange *x, int channel, const struct event *event); /* loop */
    void (*on_ping)(struct exchange *x); /* loop, each ping interval while streaming silently */
    void *api;              /* the handler's own struct, in the arena */
    void (*api_free)(struct exchange *x); /* what the arena does not hold; or NULL */
    struct channel *channels[EXCHANGE_CHANNELS_MAX]; /* NULL: released */
    int n_channels, n_live;

    /* for the log line and metrics; exchange.c keeps usage and finish from the terminal events,
     * before on_event sees them: handlers only read them */
    struct engine_usage usage; /* tokens: summed over the channels; times: the first channel's
                                * queue_ms and first_token_ms, the last one's total_ms */
    enum finish_reason finish;
    const char *model;
    int error_code;         /* ERR_* of an error answer */

    void *http;             /* http.c's own */
};

/* ---- what api_*.c call; all on the loop thread */

/* Answer whole: status, content type, bytes (copied). Once per exchange, before any stream. */
void exchange_answer(struct exchange *x, int status, const char *content_type, const char *bytes,
                     size_t n);
void exchange_answer_json(struct exchange *x, int status, const json_t *value); /* borrows value */
/* Answer with the error object of openai.c's table; in a started stream: one `data: {"error":..}`
 * event, then the end, without [DONE]. */
void exchange_fail(struct exchange *x, const struct err *err);
void exchange_header(struct exchange *x, const char *name, const char *value); /* copied */

/* Run x->prepare on a worker, then x->prepared on the loop. */
void exchange_prepare(struct exchange *x);

/* Submit one sequence; events come to x->on_event with the channel's index. */
int exchange_submit(struct exchange *x, const struct engine_request *request, struct err *err);

/* Streaming: begin (status 200, text/event-stream), append to x->out with sse.c, flush, end. */
void exchange_stream_begin(struct exchange *x);
void exchange_flush(struct exchange *x); /* out has new bytes: resume the connection */
void exchange_end(struct exchange *x);   /* out is complete */

/* ---- what http.c, prep.c and serve.c call; all on the loop thread */

/* A new exchange, READING; NULL when out of memory. http is http.c's own. */
struct exchange *exchange_open(struct app *app, void *http);
void exchange_begin(struct exchange *x); /* the body is complete: run the route's handler */
/* Copy up to max of the bytes MHD has not taken; 0: none now. */
size_t exchange_take(struct exchange *x, char *bytes, size_t max);
bool exchange_drained(const struct exchange *x); /* complete, and all of it taken */
void exchange_gone(struct exchange *x); /* the client left: cancel everything, send nothing more */
/* MHD let go: sent says whether the whole answer went out. x may be freed here. */
void exchange_close(struct exchange *x, bool sent);
/* prep.c: the worker is back with prepare's result. */
void exchange_prepared(struct exchange *x, int code, const struct err *err);

/* All exchanges of a process. */
struct exchange_set;
struct exchange_set *exchange_set_open(struct app *app); /* NULL: out of memory */
void exchange_set_close(struct exchange_set *set);       /* must be empty; NULL allowed */
int exchange_set_count(const struct exchange_set *set);
/* After a wake: hand every waiting event on. Returns how many events there were. */
int exchange_set_wake(struct exchange_set *set);
/* Channels that were left unread because the client read too slowly, and have room again. */
int exchange_set_refill(struct exchange_set *set);
void exchange_set_sweep(struct exchange_set *set); /* several times a second: pings, queue limit */
void exchange_set_fail(struct exchange_set *set, int code); /* end everything with this error */

#endif
