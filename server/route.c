/* route: THE TABLE of endpoints. Constant data and pure functions; loop thread.
 *
 * Paths are matched raw, byte by byte: no unescaping, no case folding, no merging of slashes, so
 * that what the table decides (who may call, which handler runs) can not be spelled in two ways. */
#include "server/route.h"

#include <string.h>

#include "server/api.h"

const struct route route_table[] = {
    {"POST", "/v1/chat/completions", api_chat, .body = true, .model = true, .label = "chat"},
    {"POST", "/v1/completions", api_completions, .body = true, .model = true,
     .label = "completions"},
    {"POST", "/v1/fim/completions", api_fim, .body = true, .model = true, .label = "fim"},
    {"POST", "/infill", api_infill, .body = true, .model = true, .label = "infill"},
    {"POST", "/apply-template", api_apply_template, .body = true, .model = true,
     .label = "apply_template"},
    {"POST", "/tokenize", api_tokenize, .body = true, .model = true, .label = "tokenize"},
    {"POST", "/detokenize", api_detokenize, .body = true, .model = true, .label = "detokenize"},
    {"GET", "/v1/models", api_models, .model = true, .label = "models"},
    {"GET", "/v1/models/*", api_model, .model = true, .label = "model"},
    {"GET", "/health", api_health, .open = true, .quiet = true, .label = "health"},
    {"GET", "/ready", api_ready, .open = true, .quiet = true, .label = "ready"},
    {"GET", "/version", api_version, .quiet = true, .label = "version"},
    {"GET", "/metrics", api_metrics, .quiet = true, .label = "metrics"},
};
const int route_count = (int)(sizeof route_table / sizeof route_table[0]);

/* Does path belong to the row? *tail: what a prefix row's "*" stands for (never empty). */
static bool route_matches(const struct route *row, const char *path, const char **tail)
{
    size_t n = strlen(row->path);
    if (n < 2 || row->path[n - 1] != '*') {
        *tail = path + strlen(path);
        return strcmp(row->path, path) == 0;
    }
    *tail = path + n - 1;
    return strncmp(row->path, path, n - 1) == 0 && path[n - 1] != '\0';
}

const struct route *route_find(const char *method, const char *path, const char **tail,
                               const char **allow)
{
    bool get = false, post = false;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    *tail = "";
    *allow = NULL;
    for (int i = 0; i < route_count; i++) {
        const char *rest;
        if (!route_matches(&route_table[i], path, &rest))
            continue;
        if (strcmp(route_table[i].method, wanted) == 0) {
            *tail = rest;
            return &route_table[i];
        }
        get = get || strcmp(route_table[i].method, "GET") == 0;
        post = post || strcmp(route_table[i].method, "POST") == 0;
    }
    if (get || post)
        *allow = !post ? "GET, HEAD" : !get ? "POST" : "GET, HEAD, POST";
    return NULL;
}

/* path with single slashes and none at the end, in out; its length, or 0 when it is too long. */
static size_t plain_path(const char *path, char *out, size_t max)
{
    size_t n = 0;
    for (; *path; path++) {
        if (*path == '/' && n && out[n - 1] == '/')
            continue;
        if (n == max)
            return 0;
        out[n++] = *path;
    }
    while (n && out[n - 1] == '/')
        n--;
    return n;
}

static bool ends_in(const char *path, size_t n, const char *end)
{
    size_t n_end = strlen(end);
    return n_end <= n && memcmp(path + n - n_end, end, n_end) == 0;
}

const char *route_guess(const char *path)
{
    /* APIs that are not here, and what does their work */
    static const struct {
        const char *end, *path;
    } others[] = {{"/responses", "/v1/chat/completions"}, {"/messages", "/v1/chat/completions"},
                  {"/api/chat", "/v1/chat/completions"},  {"/api/generate", "/v1/completions"},
                  {"/completion", "/v1/completions"},     {"/api/tags", "/v1/models"}};
    const char *best = NULL;
    char plain[256];
    size_t n = plain_path(path, plain, sizeof plain), n_best = 0;
    for (int i = 0; i < route_count; i++) {
        const char *end = route_table[i].path;
        if (strncmp(end, "/v1/", 4) == 0)
            end += 3;
        if (strlen(end) > n_best && ends_in(plain, n, end)) {
            best = route_table[i].path;
            n_best = strlen(end);
        }
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0] && !best; i++)
        if (ends_in(plain, n, others[i].end))
            best = others[i].path;
    return best;
}
