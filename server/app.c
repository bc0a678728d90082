/* app: questions about the process that several files ask. Loop thread; see app.h. */
#include "server/app.h"

#include <string.h>
#include <time.h>

int app_ready(const struct app *app, struct err *err)
{
    switch (app->phase) {
    case APP_LOADING:
        return err_set(err, ERR_LOADING, "The model is still loading; try again shortly.");
    case APP_DRAINING:
        return err_set(err, ERR_DRAIN, "The server is shutting down.");
    case APP_DEAD:
        return err_set(err, ERR_DEAD, "The engine has failed; the server is going down.");
    case APP_READY:
        break;
    }
    return 0;
}

int app_health(const struct app *app, struct err *err)
{
    if (app->phase == APP_DEAD)
        return err_set(err, ERR_DEAD, "The engine has failed.");
    if (app->engine == NULL)
        return 0;
    struct engine_stats stats;
    struct timespec now;
    engine_stats(app->engine, &stats);
    if (stats.dead)
        return err_set(err, ERR_DEAD, "The engine has failed.");
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    uint64_t limit_ns = (uint64_t)app->config->stall_timeout_ms * 1000000u;
    if (stats.busy && limit_ns > 0 && now_ns > stats.heartbeat_ns &&
        now_ns - stats.heartbeat_ns > limit_ns)
        return err_set(err, ERR_DEAD, "The engine has work and has not moved for %llu ms.",
                       (unsigned long long)((now_ns - stats.heartbeat_ns) / 1000000u));
    return 0;
}

bool app_serves(const struct app *app, const char *name)
{
    if (name[0] == '\0' || strcmp(name, "default") == 0)
        return true;
    for (int i = 0; i < app->n_names; i++)
        if (strcmp(app->names[i], name) == 0)
            return true;
    return false;
}
