/* http_gate: checks a request's head. Pure functions over plain data, no state, any thread.
 *
 * Every rule answers one way in which a lax parser and a strict one in front of it could disagree
 * about where a request ends or whom it is for (request smuggling), or a limit. */
#include "server/http_gate.h"

#include <string.h>
#include <strings.h>

static bool is_tchar(unsigned char c) /* RFC 9110, section 5.6.2 */
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int gate_line(const struct http_gate_request *r, struct err *err)
{
    static const char *const methods[] = {"GET",    "HEAD",  "POST",    "OPTIONS", "PUT",
                                          "DELETE", "PATCH", "CONNECT", "TRACE"};
    if (strcmp(r->version, "HTTP/1.1") != 0 && strcmp(r->version, "HTTP/1.0") != 0)
        return err_set(err, ERR_REQUEST, "Only HTTP/1.1 and HTTP/1.0 are spoken here.");
    bool known = false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        known = known || strcmp(r->method, methods[i]) == 0;
    if (!known)
        return err_set(err, ERR_REQUEST, "The request method is not one of HTTP's.");
    if (r->target_size > HTTP_GATE_TARGET_MAX)
        return err_set(err, ERR_URI_LONG, "The request target is longer than %d bytes.",
                       HTTP_GATE_TARGET_MAX);
    if (r->path[0] != '/')
        return err_set(err, ERR_REQUEST, "The request target must begin with '/'.");
    if (!r->target_plain)
        return err_set(err, ERR_REQUEST,
                       "The request target holds a character that must be percent-encoded.");
    return 0;
}

/* Name and value syntax of every field, and their sizes. Only x-request-id may carry what else
 * would be refused: it is replaced when it is not usable. */
static int gate_fields(const struct http_gate_request *r, struct err *err)
{
    if (r->n_headers > HTTP_GATE_HEADERS_MAX)
        return err_set(err, ERR_HEADERS_LARGE, "More than %d request headers.",
                       HTTP_GATE_HEADERS_MAX);
    if (r->head_size > r->head_size_max)
        return err_set(err, ERR_HEADERS_LARGE, "The request headers are larger than %zu bytes.",
                       r->head_size_max);
    for (int i = 0; i < r->n_headers; i++) {
        const struct http_gate_header *h = &r->headers[i];
        bool request_id = strcasecmp(h->name, "x-request-id") == 0;
        if (h->name_size == 0)
            return err_set(err, ERR_REQUEST, "A request header has no name.");
        for (size_t j = 0; j < h->name_size; j++)
            if (!is_tchar((unsigned char)h->name[j]))
                return err_set(err, ERR_REQUEST, "A request header's name holds a character that "
                                                 "names must not hold.");
        if (request_id)
            continue;
        if (h->name_size + 2 + h->value_size > HTTP_GATE_LINE_MAX)
            return err_set(err, ERR_HEADERS_LARGE, "A request header is longer than %d bytes.",
                           HTTP_GATE_LINE_MAX);
        for (size_t j = 0; j < h->value_size; j++) {
            unsigned char c = (unsigned char)h->value[j];
            if ((c < ' ' && c != '\t') || c >= 0x7f)
                return err_set(err, ERR_REQUEST, "A request header's value holds a control or "
                                                 "non-ASCII character.");
        }
    }
    return 0;
}

/* host [":" port]: a name, an IPv4 address or a bracketed IPv6 one (RFC 9110, section 7.2). */
static bool host_valid(const char *host)
{
    size_t n = strlen(host);
    if (n == 0 || n > HTTP_GATE_HOST_MAX)
        return false;
    const char *p = host;
    if (*p == '[') {
        size_t inside = strspn(p + 1, "0123456789abcdefABCDEF:.");
        if (inside < 2 || p[1 + inside] != ']')
            return false;
        p += inside + 2;
    } else {
        size_t name = strspn(p, "0123456789.-_abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        if (name == 0)
            return false;
        p += name;
    }
    if (*p == '\0')
        return true;
    if (*p++ != ':' || strlen(p) > 5)
        return false;
    int port = 0;
    for (; is_digit(*p); p++)
        port = port * 10 + (*p - '0');
    return *p == '\0' && port <= 65535;
}

/* Bytes of the name or address in a Host value: no port, no dot at the end. */
static size_t host_size(const char *host)
{
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    return n - (n > 1 && host[n - 1] == '.');
}

bool http_gate_host_is(const char *host, const char *name)
{
    size_t n = host_size(host);
    return strlen(name) == n && strncasecmp(host, name, n) == 0;
}

/* Is it the name of a domain, or of something in it? */
static bool host_within(const char *host, size_t n, const char *domain)
{
    size_t size = strlen(domain);
    return n >= size && strncasecmp(host + n - size, domain, size) == 0 &&
           (n == size || host[n - size - 1] == '.');
}

bool http_gate_host_local(const char *host)
{
    static const char *const nobodys[] = {
        "localhost",   "local",       "internal",   /* RFC 6761, 6762 */
        "example",     "test",        "invalid",    /* RFC 6761 */
        "example.com", "example.net", "example.org" /* RFC 2606 */
    };
    size_t n = host_size(host), label = n;
    while (label > 0 && host[label - 1] != '.')
        label--;
    if (host[0] == '[' || label == 0 || strspn(host + label, "0123456789") >= n - label)
        return true; /* no public name ends in a number: RFC 3696, section 2 */
    for (size_t i = 0; i < sizeof nobodys / sizeof nobodys[0]; i++)
        if (host_within(host, n, nobodys[i]))
            return true;
    return false;
}

static int gate_length(const char *value, struct http_gate_head *head, struct err *err)
{
    uint64_t length = 0;
    bool over = false;
    if (*value == '\0')
        return err_set(err, ERR_REQUEST, "The Content-Length header is not a number.");
    for (const char *c = value; *c != '\0'; c++) {
        if (!is_digit(*c))
            return err_set(err, ERR_REQUEST, "The Content-Length header is not a number.");
        over = over || __builtin_mul_overflow(length, (uint64_t)10, &length) ||
               __builtin_add_overflow(length, (uint64_t)(*c - '0'), &length);
    }
    head->content_length = over ? UINT64_MAX : length;
    head->body = head->content_length > 0;
    return 0;
}

/* application/json, with no parameter but charset=utf-8 (RFC 9110, section 8.3.1). */
static bool media_type_ok(const char *value)
{
    size_t n = strcspn(value, "; \t");
    if (n != 16 || strncasecmp(value, "application/json", 16) != 0)
        return false;
    const char *p = value + n;
    for (;;) {
        p += strspn(p, " \t");
        if (*p == '\0')
            return true;
        if (*p++ != ';')
            return false;
        p += strspn(p, " \t");
        if (*p == '\0')
            return true;
        if (strncasecmp(p, "charset=", 8) != 0)
            return false;
        p += 8;
        bool quoted = *p == '"';
        p += quoted;
        if (strncasecmp(p, "utf-8", 5) != 0)
            return false;
        p += 5;
        if (quoted && *p++ != '"')
            return false;
    }
}

struct gate_counts {
    int host, length, transfer, expect, type, encoding, authorization;
};

static int gate_field(const struct http_gate_header *h, struct gate_counts *n,
                      struct http_gate_head *head, struct err *err)
{
    const char *name = h->name, *value = h->value;
    if (strcasecmp(name, "host") == 0) {
        if (n->host++ > 0 || !host_valid(value))
            return err_set(err, ERR_REQUEST, "The Host header is given twice or is malformed.");
        head->host = value;
    } else if (strcasecmp(name, "content-length") == 0) {
        if (n->length++ > 0)
            return err_set(err, ERR_REQUEST, "The Content-Length header is given twice.");
        return gate_length(value, head, err);
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        if (n->transfer++ > 0 || strcasecmp(value, "chunked") != 0)
            return err_set(err, ERR_REQUEST, "The only transfer coding taken is chunked, once.");
        head->chunked = head->body = true;
    } else if (strcasecmp(name, "expect") == 0) {
        if (n->expect++ > 0 || strcasecmp(value, "100-continue") != 0)
            return err_set(err, ERR_EXPECTATION, "The only expectation met is 100-continue.");
        head->expect_continue = true;
    } else if (strcasecmp(name, "content-type") == 0) {
        head->media_ok = head->media_ok && n->type++ == 0 && media_type_ok(value);
    } else if (strcasecmp(name, "content-encoding") == 0) {
        head->media_ok = head->media_ok && n->encoding++ == 0 && strcasecmp(value, "identity") == 0;
    } else if (strcasecmp(name, "authorization") == 0) {
        head->authorization = n->authorization++ == 0 ? value : NULL;
    } else if (strcasecmp(name, "x-request-id") == 0) {
        head->request_id = value;
    } else if (strcasecmp(name, "origin") == 0) {
        head->origin = value;
    } else if (strcasecmp(name, "access-control-request-method") == 0) {
        head->cors_method = value;
    } else if (strcasecmp(name, "access-control-request-headers") == 0) {
        head->cors_headers = value;
    }
    return 0;
}

int http_gate_check(const struct http_gate_request *request, struct http_gate_head *head,
                    struct err *err)
{
    struct gate_counts n = {0};
    *head = (struct http_gate_head){.media_ok = true};
    int rc = gate_line(request, err);
    if (rc == 0)
        rc = gate_fields(request, err);
    for (int i = 0; rc == 0 && i < request->n_headers; i++)
        rc = gate_field(&request->headers[i], &n, head, err);
    if (rc != 0)
        return rc;
    bool old = strcmp(request->version, "HTTP/1.0") == 0;
    if (n.host == 0 && !old)
        return err_set(err, ERR_REQUEST, "The Host header is missing.");
    if (n.transfer > 0 && (n.length > 0 || old))
        return err_set(err, ERR_REQUEST, "Transfer-Encoding goes neither with Content-Length nor "
                                         "with HTTP/1.0.");
    return 0;
}
