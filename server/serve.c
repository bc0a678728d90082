/* serve: the composition root of the server. Owns the loop, the app and everything in it; loop
 * (main) thread, but for serve_load, which runs on the loader's thread and hands its result over
 * by joining.
 *
 * States (function that moves it):
 *   opening (serve_open) --> LOADING | end (UNABLE)
 *   LOADING  --serve_on_loaded--> READY | end (ERROR)
 *   LOADING  --signal (serve_on_signal)--> end (QUIT)
 *   READY    --signal--> DRAINING: listener closed, /ready 503, new work refused
 *   READY    --engine died (serve_check_engine)--> DEAD: the same, channels fail by themselves
 *   DRAINING, DEAD --all exchanges ended (serve_on_tick)--> end (DRAINED, DEAD)
 *   DRAINING --shutdown_timeout--> every exchange ends with shutting_down, then as above
 *   DRAINING --second signal--> the same and at once end (FORCED)
 *
 * Order of the end (libmicrohttpd aborts when it is stopped with suspended connections): exchanges
 * first, then connections, daemon, loop, engine. */
#include "server/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "config/demo.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/exchange.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/prep.h"

enum {
    TICK_MS = 1000,
    TICK_END_MS = 10,       /* while the end is near */
    LAST_WORDS_MS = 1000,   /* for terminal events to reach the clients */
    LAST_CANCEL_MS = 2000,  /* for cancelled sequences and workers to come back */
    DEAD_MS = 3000,
    TEMPLATE_BYTES_MAX = 256 << 10
};

struct serve {
    struct app app;
    const struct config *config;
    const struct serve_hooks *hooks;
    uv_loop_t loop;
    uv_async_t wake, loaded;
    uv_signal_t sigint, sigterm;
    uv_timer_t tick;
    uv_thread_t loader;
    bool loading, last_words, hung_up;
    uint64_t until_ms; /* of the present stage of the end */
    enum serve_end end;
    /* the loader's: the loop reads them after joining it */
    struct source_file *files;
    char *chat_template;
    const char *chat_template_name;
    struct source *source;
    struct engine *engine;
    struct err load_err;
};

/* ---- loading */

/* A chat template given by option: the whole file, NUL-terminated. */
static int serve_read_template(const char *path, char **out, struct err *err)
{
    FILE *in = fopen(path, "re");
    if (in == NULL)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    char *text = malloc(TEMPLATE_BYTES_MAX + 1);
    size_t n = text == NULL ? 0 : fread(text, 1, TEMPLATE_BYTES_MAX + 1, in);
    bool failed = ferror(in);
    fclose(in);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (failed || n > TEMPLATE_BYTES_MAX || memchr(text, '\0', n) != NULL) {
        free(text);
        return failed ? err_set(err, ERR_IO, "%s: %s", path, strerror(EIO))
                      : err_set(err, ERR_FORMAT, "%s: a chat template is text of at most %d bytes",
                                path, TEMPLATE_BYTES_MAX);
    }
    text[n] = '\0';
    *out = text;
    return 0;
}

static int serve_open_source(struct serve *s, struct err *err)
{
    if (s->config->model != NULL)
        return source_open(s->config->model, &s->source, err);
    s->files = calloc(demo_n_files, sizeof *s->files);
    if (s->files == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < demo_n_files; i++)
        s->files[i] =
            (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    return source_open_memory("sirocco-demo", s->files, demo_n_files, &s->source, err);
}

static void serve_engine_woke(void *user) /* the engine's thread */
{
    uv_async_send(&((struct serve *)user)->wake);
}

static int serve_open_engine(struct serve *s, struct err *err)
{
    const struct config *c = s->config;
    const char *tokenizer =
        c->tokenizer != NULL && strcmp(c->tokenizer, "auto") != 0 ? c->tokenizer : NULL;
    int64_t pause_ms = c->write_timeout_ms < INT32_MAX ? c->write_timeout_ms : INT32_MAX;
    struct engine_options o = {.source = s->source,
                               .device = c->device,
                               .cuda_plugin = c->cuda_plugin,
                               .gpu_memory_fraction = c->gpu_memory_fraction,
                               .deterministic = c->deterministic,
                               .cpu_isa = c->cpu_isa,
                               .threads = (int)c->threads,
                               .max_seqs = (int)c->max_seqs,
                               .max_batch_tokens = (int)c->max_batch_tokens,
                               .itl_target_ms = (int)c->itl_target_ms,
                               .max_model_len = (int)c->max_model_len,
                               .block_size = (int)c->block_size,
                               .kv_cache_bytes = c->kv_cache_bytes,
                               .kv_cache_fraction = c->kv_cache_fraction,
                               .kv_cache_type = c->kv_cache_type,
                               .quant = c->quant,
                               .max_queue = (int)c->max_queue,
                               .pause_ms_max = (int)pause_ms,
                               .prefix_cache = c->prefix_cache,
                               .chat_template = s->chat_template,
                               .chat_template_name = s->chat_template_name,
                               .repack_cache = c->repack_cache,
                               .mistral_native = c->mistral_native,
                               .tokenizer = tokenizer,
                               .progress = s->hooks->progress,
                               .wake = serve_engine_woke,
                               .user = s};
    return engine_open(&o, &s->engine, err);
}

static void serve_load(void *user) /* the loader's thread */
{
    struct serve *s = user;
    int rc = 0;
    const char *given = s->config->chat_template;
    if (given != NULL && (strpbrk(given, "/.") != NULL || access(given, F_OK) == 0))
        rc = serve_read_template(given, &s->chat_template, &s->load_err);
    else
        s->chat_template_name = given; /* a word that is no file names one of the model's own */
    if (rc == 0)
        rc = serve_open_source(s, &s->load_err);
    if (rc == 0)
        serve_open_engine(s, &s->load_err);
    uv_async_send(&s->loaded);
}

static void serve_on_loaded(uv_async_t *async)
{
    struct serve *s = async->data;
    struct app *app = &s->app;
    uv_thread_join(&s->loader);
    s->loading = false;
    if (s->engine == NULL) {
        s->end = SERVE_ERROR;
        uv_stop(&s->loop);
        return;
    }
    if (toolcall_detect(&app->format, engine_chat(s->engine), engine_tokenizer(s->engine),
                        s->config->tool_call_parser, s->config->reasoning_parser, &s->load_err)) {
        s->end = SERVE_ERROR;
        uv_stop(&s->loop);
        return;
    }
    app->whole_calls = strcmp(s->config->tool_call_stream, "whole") == 0;
    app->engine = s->engine;
    app->created = (int64_t)time(NULL);
    const struct config_list *names = &s->config->served_model_name;
    for (int i = 0; i < names->n; i++)
        app->names[app->n_names++] = names->items[i];
    if (names->n == 0)
        app->names[app->n_names++] = engine_info(s->engine)->model_name;
    metrics_attach(app->metrics, s->engine, app->names[0]);
    app->phase = APP_READY;
    struct buf plan;
    buf_init(&plan, 1 << 20);
    if (s->hooks->plan != NULL && engine_memory_plan(s->engine, &plan) == 0 && plan.data != NULL)
        s->hooks->plan(plan.data);
    buf_free(&plan);
    if (s->hooks->ready != NULL)
        s->hooks->ready(http_url(app->http));
}

/* ---- the end */

static void serve_stage(struct serve *s, uint64_t ms)
{
    uv_update_time(&s->loop);
    s->until_ms = uv_now(&s->loop) + ms;
    uv_timer_set_repeat(&s->tick, TICK_END_MS);
    uv_timer_again(&s->tick);
}

static void serve_drain(struct serve *s, enum app_phase phase, uint64_t ms)
{
    s->app.phase = phase;
    log_event(LOG_INFO, "%s: %d requests are in progress",
              phase == APP_DEAD ? "going down" : "draining", exchange_set_count(s->app.exchanges));
    http_quiesce(s->app.http);
    serve_stage(s, ms);
}

static void serve_on_signal(uv_signal_t *handle, int number)
{
    struct serve *s = handle->data;
    (void)number;
    if (s->loading) {
        s->end = SERVE_QUIT;
        uv_stop(&s->loop);
    } else if (s->app.phase == APP_READY) {
        s->end = SERVE_DRAINED;
        serve_drain(s, APP_DRAINING, (uint64_t)(s->config->shutdown_timeout * 1000));
    } else {
        log_event(LOG_WARN, "second signal: ending now, %d requests are cut off",
                  exchange_set_count(s->app.exchanges));
        exchange_set_fail(s->app.exchanges, ERR_DRAIN);
        http_pump(s->app.http);
        s->end = SERVE_FORCED;
        uv_stop(&s->loop);
    }
}

static void serve_check_engine(struct serve *s)
{
    struct engine_stats stats;
    if (s->app.engine == NULL || s->app.phase == APP_DEAD)
        return;
    engine_stats(s->app.engine, &stats);
    if (!stats.dead)
        return;
    log_event(LOG_ERROR, "the engine failed: %s", stats.dead_text);
    s->end = SERVE_DEAD;
    serve_drain(s, APP_DEAD, DEAD_MS);
}

/* Step the end along: exchanges finish by themselves, then are told to, then are cut. */
static void serve_on_tick(uv_timer_t *timer)
{
    struct serve *s = timer->data;
    serve_check_engine(s);
    if (s->app.phase != APP_DRAINING && s->app.phase != APP_DEAD)
        return;
    exchange_set_wake(s->app.exchanges);
    http_pump(s->app.http);
    if (exchange_set_count(s->app.exchanges) == 0 && !http_busy(s->app.http)) {
        uv_stop(&s->loop);
        return;
    }
    if (uv_now(&s->loop) < s->until_ms)
        return;
    if (!s->last_words) {
        s->last_words = true;
        exchange_set_fail(s->app.exchanges, s->app.phase == APP_DEAD ? ERR_DEAD : ERR_DRAIN);
        http_pump(s->app.http);
        serve_stage(s, LAST_WORDS_MS);
    } else if (!s->hung_up) {
        s->hung_up = true;
        http_hang_up(s->app.http);
        serve_stage(s, LAST_CANCEL_MS);
    } else {
        if (s->end == SERVE_DRAINED)
            s->end = SERVE_FORCED;
        uv_stop(&s->loop);
    }
}

static void serve_on_wake(uv_async_t *async)
{
    struct serve *s = async->data;
    if (s->app.http == NULL)
        return;
    if (exchange_set_wake(s->app.exchanges) == 0)
        serve_check_engine(s);
    http_pump(s->app.http);
}

/* ---- composition */

static int serve_open(struct serve *s, struct err *err)
{
    struct app *app = &s->app;
    const struct config *c = s->config;
    app->config = c;
    app->phase = APP_LOADING;
    if (uv_loop_init(&s->loop) != 0)
        return err_set(err, ERR_IO, "the event loop did not start");
    uv_async_init(&s->loop, &s->wake, serve_on_wake);
    uv_async_init(&s->loop, &s->loaded, serve_on_loaded);
    uv_signal_init(&s->loop, &s->sigint);
    uv_signal_init(&s->loop, &s->sigterm);
    uv_timer_init(&s->loop, &s->tick);
    s->wake.data = s->loaded.data = s->sigint.data = s->sigterm.data = s->tick.data = s;
    uv_signal_start(&s->sigint, serve_on_signal, SIGINT);
    uv_signal_start(&s->sigterm, serve_on_signal, SIGTERM);
    uv_timer_start(&s->tick, serve_on_tick, TICK_MS, TICK_MS);
    int rc = auth_open(c->api_key.items, c->api_key.n, c->api_key_file, &app->auth, err);
    if (rc != 0)
        return rc;
    bool vllm = c->metrics_compat != NULL && strcmp(c->metrics_compat, "vllm") == 0;
    app->metrics = metrics_open(vllm);
    app->prep = prep_open(&s->loop);
    app->exchanges = exchange_set_open(app);
    if (app->metrics == NULL || app->prep == NULL || app->exchanges == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    rc = http_open(app, &s->loop, &app->http, err);
    if (rc != 0)
        return rc;
    s->loading = uv_thread_create(&s->loader, serve_load, s) == 0;
    return s->loading ? 0 : err_set(err, ERR_IO, "no thread could be started");
}

static void serve_close_loop(struct serve *s)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&s->wake, (uv_handle_t *)&s->loaded,
                              (uv_handle_t *)&s->sigint, (uv_handle_t *)&s->sigterm,
                              (uv_handle_t *)&s->tick};
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
        uv_close(handles[i], NULL);
    http_close(s->app.http);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
}

/* After a clean end: everything is given back, in the reverse order of its making. */
static void serve_close(struct serve *s)
{
    engine_close(s->engine); /* its thread uses the loop's async: first */
    serve_close_loop(s);
    http_free(s->app.http);
    exchange_set_close(s->app.exchanges);
    prep_close(s->app.prep);
    metrics_close(s->app.metrics);
    auth_close(s->app.auth);
    source_close(s->source);
    free(s->files);
    free(s->chat_template);
}

enum serve_end serve_run(const struct config *config, const struct serve_hooks *hooks,
                         struct err *err)
{
    static struct serve s; /* outlives the return: threads may still use it (see serve_end) */
    s.config = config;
    s.hooks = hooks;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    if (serve_open(&s, err) != 0)
        return SERVE_UNABLE;
    uv_run(&s.loop, UV_RUN_DEFAULT);
    if (s.end == SERVE_ERROR)
        *err = s.load_err;
    if (s.end == SERVE_DRAINED) {
        log_event(LOG_INFO, "drained");
        serve_close(&s);
    }
    return s.end;
}
