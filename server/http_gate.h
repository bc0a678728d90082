/* http_gate: what a request's head must satisfy before anything else looks at it: the checks that
 * libmicrohttpd's lax parser leaves out (RFC 9112: framing, Host, field syntax). Pure functions
 * over plain data; loop thread.
 *
 * What the gate can not see, because the parser has lost it: NUL bytes (they cut a value or the
 * target), bare LF as a line end, folded header lines (merged into a name), empty names, and the
 * line ends of chunks. What never reaches it, because the parser answers by itself (in HTML, with
 * its status line twice, and closes): a Content-Length that is no number or above 64 bits, a head
 * larger than its memory, a major version other than 1. */
#ifndef SIROCCO_HTTP_GATE_H
#define SIROCCO_HTTP_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

enum {
    HTTP_GATE_HEADERS_MAX = 64,
    HTTP_GATE_LINE_MAX = 8192,   /* bytes of one header line */
    HTTP_GATE_TARGET_MAX = 2048, /* bytes of the request target with its query */
    HTTP_GATE_HOST_MAX = 262     /* a DNS name, brackets, a port */
};

struct http_gate_header {
    const char *name, *value; /* NUL-terminated */
    size_t name_size, value_size;
};

struct http_gate_request {
    const char *method, *path, *version; /* path: the target without its query */
    size_t target_size;                  /* with its query */
    bool target_plain;                   /* ... and visible ASCII only */
    size_t head_size, head_size_max;     /* bytes of the header block */
    int n_headers;                       /* may exceed HTTP_GATE_HEADERS_MAX: then refused */
    struct http_gate_header headers[HTTP_GATE_HEADERS_MAX];
};

/* What the head says; strings borrow the request. */
struct http_gate_head {
    bool body;                     /* a body follows */
    bool chunked;
    uint64_t content_length;       /* UINT64_MAX: above what 64 bits hold */
    bool expect_continue;
    bool media_ok;                 /* content-type and content-encoding are ones we read */
    const char *host;              /* NULL: none (HTTP/1.0) */
    const char *authorization;     /* NULL: none, or more than one */
    const char *request_id;        /* NULL: none */
    const char *origin;
    const char *cors_method, *cors_headers; /* Access-Control-Request-* */
};

/* Fill *head. ERR_REQUEST, ERR_URI_LONG, ERR_HEADERS_LARGE, ERR_EXPECTATION; all of them end the
 * connection: the framing of what follows can not be trusted. */
int http_gate_check(const struct http_gate_request *request, struct http_gate_head *head,
                    struct err *err);

/* Is a Host value (as checked above) an address or a name that nobody can register in public DNS:
 * one label, or a reserved one (below localhost, local, example.com ...)? Nobody else can make such
 * a name point here. */
bool http_gate_host_local(const char *host);

/* Is name the host of a Host value, whatever its port and case? */
bool http_gate_host_is(const char *host, const char *name);

#endif
