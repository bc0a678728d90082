/* admit: the decisions between a well-formed head and the handler. No state of its own; loop
 * thread. Authentication is decided on the row that routing found, on the same raw bytes: a path
 * that no row knows needs a key like any closed one (default deny). */
#include "server/admit.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "server/app.h"
#include "server/auth.h"
#include "server/http_socket.h"
#include "server/route.h"

void admit_request_id(struct exchange *x, const char *client)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = client == NULL ? 0 : strlen(client);
    if (n >= 1 && n <= 64 && strspn(client, allowed) == n) {
        memcpy(x->request_id, client, n + 1);
        return;
    }
    unsigned char bytes[12];
    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) != (ssize_t)sizeof bytes) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        memcpy(bytes, &now.tv_nsec, 4);
        memcpy(bytes + 4, &now.tv_sec, 4);
        uint32_t low = (uint32_t)(uintptr_t)x;
        memcpy(bytes + 8, &low, 4);
    }
    memcpy(x->request_id, "req_", 4);
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(x->request_id + 4 + 2 * i, 3, "%02x", bytes[i]);
}

/* DNS rebinding: a web page whose own name is made to point at this machine is of the same origin
 * to its browser, and may read what a server without keys answers to everybody on it. Only the Host
 * tells. A server on other addresses is called by names it does not know. */
static bool admit_host(const struct app *app, const char *host)
{
    if (host == NULL || http_gate_host_local(host) || auth_required(app->auth) ||
        !http_socket_loopback(app->config->host))
        return true;
    const struct config_list *list = &app->config->allowed_host;
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->items[i], "*") == 0 || http_gate_host_is(host, list->items[i]))
            return true;
    return false;
}

/* Access-Control-Allow-Origin, never with credentials. Returns whether the origin may read. */
static bool admit_cors(struct exchange *x, const char *origin)
{
    const struct config_list *list = &x->app->config->cors_origin;
    if (list->n == 0)
        return false;
    bool any = false, named = false;
    for (int i = 0; i < list->n; i++) {
        any = any || strcmp(list->items[i], "*") == 0;
        named = named || (origin != NULL && strcmp(list->items[i], origin) == 0);
    }
    if (!any)
        exchange_header(x, "Vary", "Origin");
    if (origin == NULL || (!any && !named))
        return false;
    exchange_header(x, "Access-Control-Allow-Origin", any ? "*" : origin);
    exchange_header(x, "Access-Control-Expose-Headers", "x-request-id, retry-after");
    return true;
}

/* Answer a browser's preflight question; it carries no key. */
static void admit_preflight(struct exchange *x, const struct http_gate_head *head)
{
    exchange_header(x, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    if (head->cors_headers != NULL)
        exchange_header(x, "Access-Control-Allow-Headers", head->cors_headers);
    exchange_header(x, "Access-Control-Max-Age", "600");
    exchange_answer(x, 204, NULL, "", 0);
}

static int admit_body(struct exchange *x, const struct http_gate_head *head, struct err *err)
{
    uint64_t max = x->route->body ? (uint64_t)x->app->config->max_body_bytes : 0;
    if (!x->route->body && head->body)
        return err_set(err, ERR_REQUEST, "%s %s takes no request body.", x->method, x->route->path);
    if (head->content_length > max)
        return err_set(err, ERR_TOO_LARGE,
                       "The request body is larger than this server's limit of %llu bytes.",
                       (unsigned long long)max);
    if (x->route->body && !head->media_ok)
        return err_set(err, ERR_MEDIA,
                       "The request body must be JSON in UTF-8, not encoded further, with the "
                       "header 'Content-Type: application/json'.");
    return 0;
}

int admit_check(struct exchange *x, const struct http_gate_head *head, struct err *err)
{
    const char *allow;
    if (!admit_host(x->app, head->host))
        return err_set(err, ERR_HOST,
                       "This server listens on a loopback address, has no API keys and does not "
                       "know the host name of this request; --allowed-host names it.");
    bool cors = admit_cors(x, head->origin);
    x->route = route_find(x->method, x->path, &x->path_tail, &allow);
    if (cors && strcmp(x->method, "OPTIONS") == 0 && allow != NULL && head->cors_method != NULL) {
        admit_preflight(x, head);
        return 0;
    }
    if ((x->route == NULL || !x->route->open) && !auth_check(x->app->auth, head->authorization))
        return head->authorization == NULL
                   ? err_set(err, ERR_AUTH,
                             "You didn't provide an API key. Provide it in an Authorization header "
                             "using Bearer auth (Authorization: Bearer YOUR_KEY).")
                   : err_set(err, ERR_AUTH, "Incorrect API key provided.");
    if (x->route == NULL && allow == NULL) {
        const char *meant = route_guess(x->path);
        return err_set(err, ERR_NO_URL, "Unknown request URL: %s %.256s.%s%s%s", x->method, x->path,
                       meant ? " Did you mean " : "", meant ? meant : "", meant ? "?" : "");
    }
    if (x->route == NULL) {
        bool preflight = strcmp(x->method, "OPTIONS") == 0 && head->cors_method != NULL;
        exchange_header(x, "Allow", allow);
        return err_set(
            err, ERR_METHOD, "%s is not allowed on %.256s; allowed: %s.%s", x->method, x->path,
            allow, preflight ? " Web pages of other origins need the option --cors-origin." : "");
    }
    int rc = x->route->model ? app_ready(x->app, err) : 0;
    return rc != 0 ? rc : admit_body(x, head, err);
}
