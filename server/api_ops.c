/* api_ops: what operators and their probes ask: /health, /ready, /version, /metrics. Loop thread;
 * no state; never waits for the engine. */
#include <string.h>

#include "server/api.h"
#include "server/app.h"
#include "server/exchange.h"
#include "server/metrics.h"

static void answer_text(struct exchange *x, const char *json)
{
    exchange_answer(x, 200, "application/json", json, strlen(json));
}

/* Liveness: fails only when a restart would help. */
void api_health(struct exchange *x)
{
    struct err err = {0};
    if (app_health(x->app, &err))
        exchange_fail(x, &err);
    else
        answer_text(x, "{\"status\":\"ok\"}");
}

/* Readiness: fails while requests would be refused. */
void api_ready(struct exchange *x)
{
    struct err err = {0};
    if (app_ready(x->app, &err))
        exchange_fail(x, &err);
    else
        answer_text(x, "{\"status\":\"ready\"}");
}

void api_version(struct exchange *x)
{
    answer_text(x, "{\"version\":\"" SIROCCO_VERSION "\"}");
}

void api_metrics(struct exchange *x)
{
    struct buf out;
    buf_init(&out, 0);
    if (metrics_write(x->app->metrics, &out))
        exchange_fail(x, &(struct err){.code = ERR_NOMEM, .text = "no memory for the metrics"});
    else
        exchange_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", out.data, out.size);
    buf_free(&out);
}
