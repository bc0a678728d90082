/* Tests of server/http_gate.c: each rule lets the good form pass and refuses the bad ones. */
#include "server/http_gate.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static struct http_gate_request request_of(const char *name, const char *value)
{
    struct http_gate_request r = {.method = "POST", .path = "/v1/completions",
                                  .version = "HTTP/1.1", .target_size = 15, .target_plain = true,
                                  .head_size = 100, .head_size_max = 16384, .n_headers = 1};
    r.headers[0] = (struct http_gate_header){"Host", "localhost:8000", 4, 14};
    if (name != NULL)
        r.headers[r.n_headers++] =
            (struct http_gate_header){name, value, strlen(name), strlen(value)};
    return r;
}

static int check(const struct http_gate_request *r, struct http_gate_head *head)
{
    struct err err = {0};
    int rc = http_gate_check(r, head, &err);
    EXPECT_INT(err.code, rc);
    return rc;
}

static int with(const char *name, const char *value)
{
    struct http_gate_head head;
    struct http_gate_request r = request_of(name, value);
    return check(&r, &head);
}

static int with_host(const char *host)
{
    struct http_gate_head head;
    struct http_gate_request r = request_of(NULL, NULL);
    r.headers[0].value = host;
    r.headers[0].value_size = strlen(host);
    return check(&r, &head);
}

TEST(framing)
{
    static const char *const lengths[] = {"", "+3", "-1", "0x3", "3.0", "3, 3", "3 ", "three"};
    static const char *const codings[] = {"identity", "gzip, chunked", "chunked, chunked",
                                          "xchunked", "", "\vchunked"};
    struct http_gate_head head;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        EXPECT_INT(with("Content-Length", lengths[i]), ERR_REQUEST);
    for (size_t i = 0; i < sizeof codings / sizeof codings[0]; i++)
        EXPECT_INT(with("Transfer-Encoding", codings[i]), ERR_REQUEST);
    struct http_gate_request r = request_of("Content-Length", "18446744073709551616");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT(head.content_length == UINT64_MAX && head.body);
    r = request_of("content-length", "42");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT_INT(head.content_length, 42);
    r.headers[r.n_headers++] = (struct http_gate_header){"Content-Length", "42", 14, 2};
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r.headers[2] = (struct http_gate_header){"Transfer-Encoding", "chunked", 17, 7};
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r = request_of("Transfer-Encoding", "Chunked");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT(head.chunked && head.body);
    r.version = "HTTP/1.0";
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r = request_of("Content-Length", "0");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT(!head.body);
}

TEST(host)
{
    static const char *const good[] = {"a", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:80",
                                       "my_service:1", "a.example:65535", "a:"};
    static const char *const bad[] = {"", "a/../?#", "a:65536", "a:99999", "a b", "a@b", "[::1",
                                      "::1", "a:80:80", "a:8x", "[]", "a,b", "[::1]x"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        EXPECT_INT(with_host(good[i]), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        EXPECT_INT(with_host(bad[i]), ERR_REQUEST);
    EXPECT_INT(with("host", "localhost"), ERR_REQUEST); /* a second one */
    struct http_gate_head head;
    struct http_gate_request r = request_of(NULL, NULL);
    r.n_headers = 0;
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r.version = "HTTP/1.0";
    EXPECT_INT(check(&r, &head), 0);
}

TEST(hosts_that_nobody_can_register)
{
    static const char *const local[] = {"a", "localhost", "LOCALHOST:8000", "localhost.:80",
                                        "a.localhost", "a.test", "www.example.org:80",
                                        "127.0.0.1", "127.0.0.1:8000", "10.1.2.3.", "[::1]",
                                        "[::1]:80", "printer.local", "example.com",
                                        "host.docker.internal:1"};
    static const char *const public[] = {"evil.zz", "evil.zz.", "evil.zz:8000",
                                         "127.0.0.1.evil.zz", "localhost.evil.zz",
                                         "local.zz", "xlocal.zz", "a.xlocal", "xexample.com",
                                         "example.com.zz", "1.2.3.4x"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        EXPECT(http_gate_host_local(local[i]));
    for (size_t i = 0; i < sizeof public / sizeof public[0]; i++)
        EXPECT(!http_gate_host_local(public[i]));
    EXPECT(http_gate_host_is("Api.ZZ:443", "api.zz"));
    EXPECT(http_gate_host_is("api.zz.", "api.zz"));
    EXPECT(!http_gate_host_is("api.zz", "api.z"));
    EXPECT(!http_gate_host_is("api.zz.evil.zz", "api.zz"));
}

TEST(request_line)
{
    struct http_gate_head head;
    struct http_gate_request r = request_of(NULL, NULL);
    static const char *const methods[] = {"get", "F\001O", "", "POSTX", "BREW"};
    static const char *const versions[] = {"HTTP/1.2", "HTTP/2.0", "http/1.1", "", "HTTP/0.9"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        r.method = methods[i];
        EXPECT_INT(check(&r, &head), ERR_REQUEST);
    }
    r = request_of(NULL, NULL);
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        r.version = versions[i];
        EXPECT_INT(check(&r, &head), ERR_REQUEST);
    }
    r = request_of(NULL, NULL);
    r.path = "http://a/health";
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r = request_of(NULL, NULL);
    r.target_plain = false;
    EXPECT_INT(check(&r, &head), ERR_REQUEST);
    r.target_plain = true;
    r.target_size = HTTP_GATE_TARGET_MAX;
    EXPECT_INT(check(&r, &head), 0);
    r.target_size++;
    EXPECT_INT(check(&r, &head), ERR_URI_LONG);
}

TEST(fields)
{
    static char line[HTTP_GATE_LINE_MAX + 1];
    struct http_gate_head head;
    EXPECT_INT(with("A B", "v"), ERR_REQUEST);
    EXPECT_INT(with("A ", "v"), ERR_REQUEST);
    EXPECT_INT(with("", "v"), ERR_REQUEST);
    EXPECT_INT(with("A\x80", "v"), ERR_REQUEST);
    EXPECT_INT(with("A", "v\001"), ERR_REQUEST);
    EXPECT_INT(with("A", "v\x7f"), ERR_REQUEST);
    EXPECT_INT(with("A", "v\x80"), ERR_REQUEST);
    EXPECT_INT(with("Host", "caf\xc3\xa9"), ERR_REQUEST);
    EXPECT_INT(with("Content-Length", "1\xb2"), ERR_REQUEST);
    EXPECT_INT(with("Transfer-Encoding", "chunked\x85"), ERR_REQUEST);
    EXPECT_INT(with("A", "v\tw !~"), 0);
    EXPECT_INT(with("X-Request-Id", "v\x80"), 0);
    memset(line, 'v', HTTP_GATE_LINE_MAX - 3);
    EXPECT_INT(with("A", line), 0);
    line[HTTP_GATE_LINE_MAX - 3] = 'v';
    EXPECT_INT(with("A", line), ERR_HEADERS_LARGE);
    struct http_gate_request r = request_of(NULL, NULL);
    while (r.n_headers < HTTP_GATE_HEADERS_MAX)
        r.headers[r.n_headers++] = (struct http_gate_header){"A", "v", 1, 1};
    EXPECT_INT(check(&r, &head), 0);
    r.n_headers++;
    EXPECT_INT(check(&r, &head), ERR_HEADERS_LARGE);
    r = request_of(NULL, NULL);
    r.head_size = r.head_size_max + 1;
    EXPECT_INT(check(&r, &head), ERR_HEADERS_LARGE);
}

static bool media(const char *name, const char *value)
{
    struct http_gate_head head;
    struct http_gate_request r = request_of(name, value);
    EXPECT_INT(check(&r, &head), 0);
    return head.media_ok;
}

TEST(media_types)
{
    EXPECT(media(NULL, NULL));
    EXPECT(media("Content-Type", "application/json"));
    EXPECT(media("Content-Type", "Application/JSON; charset=UTF-8"));
    EXPECT(media("Content-Type", "application/json ;charset=\"utf-8\""));
    EXPECT(!media("Content-Type", "text/plain"));
    EXPECT(!media("Content-Type", "application/jsonx"));
    EXPECT(!media("Content-Type", "application/json; charset=utf-16"));
    EXPECT(!media("Content-Type", "application/json; charset=utf-8x"));
    EXPECT(!media("Content-Type", "application/json; boundary=x"));
    EXPECT(!media("Content-Type", ""));
    EXPECT(media("Content-Encoding", "identity"));
    EXPECT(!media("Content-Encoding", "gzip"));
}

TEST(expect_and_authorization)
{
    struct http_gate_head head;
    EXPECT_INT(with("Expect", "200-ok"), ERR_EXPECTATION);
    struct http_gate_request r = request_of("Expect", "100-Continue");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT(head.expect_continue);
    r = request_of("Authorization", "Bearer a");
    EXPECT_INT(check(&r, &head), 0);
    EXPECT_STR(head.authorization, "Bearer a");
    for (int i = 0; i < 2; i++) { /* two and three of them count as none */
        r.headers[r.n_headers++] = (struct http_gate_header){"authorization", "Bearer a", 13, 8};
        EXPECT_INT(check(&r, &head), 0);
        EXPECT(head.authorization == NULL);
    }
}
