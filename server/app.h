/* app: what one server process shares: configuration, engine, metrics, auth, and where the process
 * stands in its life. Filled by serve.c; loop thread only (prep workers read engine and the names,
 * which do not change while a request is in preparation).
 *
 *   LOADING --model loaded--> READY --signal--> DRAINING
 *   LOADING, READY --engine died--> DEAD --every exchange ended--> the process exits, non-zero */
#ifndef SIROCCO_APP_H
#define SIROCCO_APP_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "engine/base/err.h"
#include "engine/engine.h"
#include "server/toolcall.h"

#ifndef SIROCCO_VERSION
#define SIROCCO_VERSION "0.1.0"
#endif

struct http;
struct auth;
struct metrics;
struct prep;
struct exchange_set;

enum app_phase { APP_LOADING, APP_READY, APP_DRAINING, APP_DEAD };

struct app {
    const struct config *config;
    enum app_phase phase;
    struct engine *engine;   /* NULL until the model is loaded; then until the process ends */
    const char *names[CONFIG_LIST_MAX]; /* the names the model is served under; [0] is answered */
    int n_names;
    struct toolcall_format format; /* how the model writes tool calls and reasoning */
    bool whole_calls;        /* streams carry tool calls whole: the option tool_call_stream */
    int64_t created;         /* Unix seconds: when the model was loaded */
    struct http *http;
    struct auth *auth;
    struct metrics *metrics;
    struct prep *prep;
    struct exchange_set *exchanges;
};

/* 0 when requests can be served, else why not: ERR_LOADING, ERR_DRAIN, ERR_DEAD. */
int app_ready(const struct app *app, struct err *err);

/* 0 while the process is worth keeping: the engine is alive, and if it has work it moved within
 * stall_timeout_ms; ERR_DEAD otherwise. Load and drain are not ill health. */
int app_health(const struct app *app, struct err *err);

/* Does name stand for the served model? "" and "default" do. */
bool app_serves(const struct app *app, const char *name);

#endif
