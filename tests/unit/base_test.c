/* Tests of engine/base: err, buf, arena, utf8, size, log. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/base/utf8.h"
#include "tests/test.h"

TEST(err_is_one_line_of_valid_utf8)
{
    struct err e = {0};
    EXPECT_INT(err_param(&e, ERR_VALUE, "a.b", "x\n\x1b[31m%s", "y"), ERR_VALUE);
    EXPECT_STR(e.text, "x??[31my");
    EXPECT_STR(e.param, "a.b");
    err_prefix(&e, "file %d", 7);
    EXPECT_STR(e.text, "file 7: x??[31my");
    char long_text[2000];
    for (int shift = 0; shift < 4; shift++) {
        memset(long_text, 'a', 4);
        for (size_t i = (size_t)shift; i + 3 < sizeof long_text; i += 3)
            memcpy(long_text + i, "\xE2\x82\xAC", 3);
        long_text[sizeof long_text - 4] = 0;
        err_set(&e, ERR_IO, "%s", long_text);
        EXPECT(utf8_valid(e.text, strlen(e.text)));
        EXPECT(strlen(e.text) > sizeof e.text - 5);
    }
    EXPECT_STR(err_name(ERR_JSON), "ERR_JSON");
    EXPECT_STR(err_name(12345), "ERR_UNKNOWN");
    EXPECT_STR(err_text(0), "no error");
    EXPECT_INT(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

TEST(buf_grows_and_keeps_its_maximum)
{
    struct buf b;
    buf_init(&b, 1000);
    for (int i = 0; i < 1000; i++)
        EXPECT_INT(buf_byte(&b, 'x'), 0);
    EXPECT_INT(buf_byte(&b, 'x'), ERR_TOO_LARGE);
    EXPECT_INT(buf_text(&b, ""), ERR_TOO_LARGE); /* the failure sticks */
    EXPECT_INT(b.size, 1000);
    buf_clear(&b);
    EXPECT_INT(buf_format(&b, "%d-%s", 12, "ab"), 0);
    EXPECT_STR(b.data, "12-ab");
    buf_free(&b);
    EXPECT_INT(b.size, 0);
}

static const char *json_of(const char *text, size_t n)
{
    static struct buf b;
    buf_clear(&b);
    buf_json_string(&b, text, n);
    return b.data;
}

TEST(json_strings_are_escaped)
{
    EXPECT_STR(json_of("a\"b\\c\n\t\r", 8), "\"a\\\"b\\\\c\\n\\t\\r\"");
    EXPECT_STR(json_of("\0\x1f\x7f", 3), "\"\\u0000\\u001f\\u007f\"");
    EXPECT_STR(json_of("\xE2\x80\xA8|\xE2\x80\xA9", 7), "\"\\u2028|\\u2029\"");
    EXPECT_STR(json_of("\xF0\x9F\x98\x80", 4), "\"\xF0\x9F\x98\x80\"");
    EXPECT_STR(json_of("a\xC3", 2), "\"a\xEF\xBF\xBD\"");
    EXPECT_STR(json_of("\xED\xA0\x80z", 4), "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\"");
}

TEST(json_strings_read_back)
{
    srand(7);
    for (int round = 0; round < 3000; round++) {
        char text[40];
        size_t n = (size_t)rand() % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(rand() % 3 ? rand() % 128 : rand());
        json_error_t error;
        const char *written = json_of(text, n);
        json_t *value = json_loads(written, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        EXPECT(value != NULL);
        if (utf8_valid(text, n)) {
            EXPECT_INT(json_string_length(value), n);
            EXPECT(!memcmp(json_string_value(value), text, n));
        }
        json_decref(value);
    }
}

TEST(json_floats_are_short_and_exact)
{
    struct buf b;
    buf_init(&b, 0);
    buf_json_float(&b, 0.1f);
    EXPECT_STR(b.data, "0.1");
    buf_clear(&b);
    buf_json_float(&b, -INFINITY);
    EXPECT_STR(b.data, "null");
    srand(3);
    for (int i = 0; i < 20000; i++) {
        float value = (float)(rand() - RAND_MAX / 2) / (float)(1 + rand() % 100000);
        buf_clear(&b);
        buf_json_float(&b, value);
        EXPECT((float)strtod(b.data, NULL) == value);
    }
    buf_free(&b);
}

TEST(arena_aligns_zeroes_and_bounds)
{
    struct arena a;
    arena_init(&a, 100000);
    size_t total = 0;
    for (int i = 1; i < 300; i++) {
        unsigned char *p = arena_alloc(&a, (size_t)i);
        EXPECT(p && ((uintptr_t)p & 15) == 0);
        for (int j = 0; j < i; j++)
            EXPECT(p[j] == 0);
        memset(p, 0xEE, (size_t)i);
        total += (size_t)i;
    }
    EXPECT(total < a.bytes && a.bytes <= 100000);
    EXPECT(arena_alloc(&a, 100000) == NULL);
    EXPECT(arena_alloc(&a, SIZE_MAX) == NULL);
    EXPECT(arena_array(&a, SIZE_MAX / 2, 3) == NULL);
    EXPECT_STR(arena_copy(&a, "hello world", 5), "hello");
    arena_free(&a);
    EXPECT_INT(a.bytes, 0);
    EXPECT(arena_alloc(&a, 90000) != NULL);
    arena_free(&a);
}

/* A slow decoder written another way: by value ranges of whole sequences. */
static int oracle_length(const unsigned char *s, size_t n, uint32_t *code)
{
    for (size_t length = 1; length <= 4 && length <= n; length++) {
        uint32_t value = length == 1 ? s[0] : s[0] & (0x7Fu >> length);
        int good = length == 1 ? s[0] < 0x80 : (s[0] >> (7 - length)) == (1 << (length + 1)) - 2;
        for (size_t i = 1; i < length; i++) {
            good &= (s[i] & 0xC0) == 0x80;
            value = value << 6 | (s[i] & 0x3F);
        }
        uint32_t least = length == 1 ? 0 : length == 2 ? 0x80 : length == 3 ? 0x800 : 0x10000;
        if (good && value >= least && value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF)) {
            *code = value;
            return (int)length;
        }
    }
    return 0;
}

TEST(utf8_decodes_like_the_oracle)
{
    srand(5);
    static const unsigned char pool[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                         0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4,
                                         0xF5, 0xFF};
    for (int round = 0; round < 500000; round++) {
        unsigned char s[4];
        size_t n = 1 + (size_t)rand() % 4;
        for (size_t i = 0; i < n; i++)
            s[i] = pool[(size_t)rand() % sizeof pool];
        uint32_t got = 0, want = 0;
        int length = utf8_decode((const char *)s, n, &got), right = oracle_length(s, n, &want);
        if (right) {
            EXPECT_INT(length, right);
            EXPECT_INT(got, want);
        } else {
            EXPECT(length <= 0 && length >= -3 && -length <= (int)n);
        }
        if (length == 0) { /* must be completable */
            int found = 0;
            for (int b = 0x80; b < 0xC0 && !found; b++) {
                unsigned char more[7] = {0};
                memcpy(more, s, n);
                more[n] = (unsigned char)b;
                found = utf8_decode((const char *)more, n + 1, &got) >= 0;
            }
            EXPECT(found);
        }
    }
}

TEST(utf8_complete_holds_back_at_most_three_bytes)
{
    EXPECT_INT(utf8_complete("abc", 3), 3);
    EXPECT_INT(utf8_complete("ab\xF0\x9F\x98", 5), 2);
    EXPECT_INT(utf8_complete("ab\xF0\x9F\x98\x80", 6), 6);
    EXPECT_INT(utf8_complete("ab\x80\x80\x80\x80", 6), 6);
    EXPECT_INT(utf8_complete("ab\xED\xA0", 4), 4); /* a surrogate: never valid */
    EXPECT_INT(utf8_complete("\xE2\x82", 2), 0);
    EXPECT_INT(utf8_complete("", 0), 0);
    char out[4];
    EXPECT_INT(utf8_encode(0x20AC, out), 3);
    EXPECT(!memcmp(out, "\xE2\x82\xAC", 3));
    EXPECT_INT(utf8_encode(0x1F600, out), 4);
    EXPECT(utf8_valid(out, 4));
}

TEST(sizes_do_not_wrap)
{
    size_t out;
    EXPECT(!size_mul(SIZE_MAX / 2, 3, &out));
    EXPECT(!size_add(SIZE_MAX, 1, &out));
    EXPECT(size_fits(3, 4, 7) && !size_fits(4, 4, 7) && !size_fits(SIZE_MAX, 2, 7));
}

/* Log lines go to stderr: catch them in a pipe. */
static size_t logged(char *text, size_t n, void (*writer)(void))
{
    int ends[2];
    EXPECT(pipe(ends) == 0);
    int keep = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    writer();
    dup2(keep, STDERR_FILENO);
    close(ends[1]);
    ssize_t got = read(ends[0], text, n - 1);
    text[got < 0 ? 0 : got] = 0;
    close(ends[0]);
    close(keep);
    return got < 0 ? 0 : (size_t)got;
}

static void write_line(void)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "request");
    log_str(&line, "id", "a b\"\n\x1b");
    log_str(&line, "route", "/v1/models");
    log_int(&line, "status", 200);
    log_ms(&line, "ttft_ms", 1.5);
    log_ms(&line, "none_ms", NAN);
    log_end(&line);
    log_begin(&line, LOG_DEBUG, "hidden");
    log_end(&line);
}

static void write_long_line(void)
{
    static char big[8000];
    struct log_line line;
    memset(big, '"', sizeof big - 1);
    log_begin(&line, LOG_WARN, "big");
    log_str(&line, "cut", big);
    for (int i = 0; i < 1000; i++)
        log_int(&line, "n", i);
    log_end(&line);
}

TEST(log_lines_are_one_escaped_line)
{
    char text[9000];
    log_init(LOG_INFO, LOG_JSON);
    logged(text, sizeof text, write_line);
    json_t *value = json_loads(text, 0, NULL);
    EXPECT(value != NULL);
    EXPECT_STR(json_string_value(json_object_get(value, "id")), "a b\"\n\x1b");
    EXPECT_INT(json_integer_value(json_object_get(value, "status")), 200);
    EXPECT(json_object_get(value, "none_ms") == NULL);
    EXPECT(strchr(text, '\n') == text + strlen(text) - 1);
    json_decref(value);
    logged(text, sizeof text, write_long_line);
    value = json_loads(text, 0, NULL);
    EXPECT(value != NULL);
    json_decref(value);
    log_init(LOG_INFO, LOG_TEXT);
    logged(text, sizeof text, write_line);
    EXPECT(strstr(text, " INFO request id=\"a b\\\"\\u000a\\u001b\" route=/v1/models status=200 "
                        "ttft_ms=1.500\n") != NULL);
}
