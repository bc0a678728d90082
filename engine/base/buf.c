/* buf: the growable byte buffer of buf.h. One owner; no global state. */
#include "engine/base/buf.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/size.h"
#include "engine/base/utf8.h"

void buf_init(struct buf *b, size_t bytes_max)
{
    *b = (struct buf){.bytes_max = bytes_max};
}

void buf_free(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct buf){.bytes_max = b->bytes_max};
}

void buf_clear(struct buf *b)
{
    b->size = 0;
    b->failed = 0;
    if (b->data)
        b->data[0] = 0;
}

int buf_reserve(struct buf *b, size_t more)
{
    size_t want;
    if (b->failed)
        return b->failed;
    if (!size_add(b->size, more, &want) || (b->bytes_max && want > b->bytes_max))
        return b->failed = ERR_TOO_LARGE;
    if (want < b->capacity)
        return 0;
    size_t capacity = b->capacity < 64 ? 128 : b->capacity;
    while (capacity <= want)
        if (!size_mul(capacity, 2, &capacity))
            return b->failed = ERR_NOMEM;
    char *data = realloc(b->data, capacity);
    if (!data)
        return b->failed = ERR_NOMEM;
    b->data = data;
    b->capacity = capacity;
    return 0;
}

int buf_add(struct buf *b, const void *bytes, size_t n)
{
    if (buf_reserve(b, n))
        return b->failed;
    if (n)
        memcpy(b->data + b->size, bytes, n);
    b->size += n;
    b->data[b->size] = 0;
    return 0;
}

int buf_text(struct buf *b, const char *text)
{
    return buf_add(b, text, strlen(text));
}

int buf_byte(struct buf *b, char byte)
{
    return buf_add(b, &byte, 1);
}

int buf_format(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        b->failed = ERR_INTERNAL;
    else if (!buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->size, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    }
    va_end(again);
    return b->failed;
}

/* Append one character that JSON or JavaScript readers want escaped; 0 when it needs no escape. */
static int json_escape(struct buf *b, uint32_t code)
{
    switch (code) {
    case '"':
        buf_add(b, "\\\"", 2);
        return 1;
    case '\\':
        buf_add(b, "\\\\", 2);
        return 1;
    case '\n':
        buf_add(b, "\\n", 2);
        return 1;
    case '\r':
        buf_add(b, "\\r", 2);
        return 1;
    case '\t':
        buf_add(b, "\\t", 2);
        return 1;
    default:
        if (code >= 0x20 && code != 0x7f && code != 0x2028 && code != 0x2029)
            return 0;
        buf_format(b, "\\u%04x", (unsigned)code);
        return 1;
    }
}

int buf_json_string(struct buf *b, const char *text, size_t n)
{
    buf_byte(b, '"');
    size_t clean = 0, at = 0; /* [clean, at) waits to be copied as it is */
    while (at < n) {
        unsigned char c = (unsigned char)text[at];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            at++;
            continue;
        }
        uint32_t code;
        int length = utf8_decode(text + at, n - at, &code);
        if (length > 0 && code >= 0x80 && code != 0x2028 && code != 0x2029) {
            at += (size_t)length;
            continue;
        }
        buf_add(b, text + clean, at - clean);
        if (length <= 0)
            buf_text(b, "\xEF\xBF\xBD");
        else
            json_escape(b, code);
        at += length > 0 ? (size_t)length : length < 0 ? (size_t)-length : n - at;
        clean = at;
    }
    buf_add(b, text + clean, at - clean);
    return buf_byte(b, '"');
}

int buf_json_float(struct buf *b, double value)
{
    char text[40];
    if (!isfinite(value))
        return buf_text(b, "null");
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        double back = strtod(text, NULL);
        /* a float that was widened needs only the digits that give the same float back */
        if (back == value || ((float)value == value && (float)back == (float)value))
            break;
    }
    for (char *p = text; *p; p++) /* locales with a decimal comma */
        if (*p == ',')
            *p = '.';
    return buf_text(b, text);
}
