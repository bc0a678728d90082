/* call_json: incremental reading of the JSON in tool calls (RFC 8259, sections 2 and 7). Loop
 * thread; the state is the caller's.
 *
 *   struct json_string: plain --\--> escaped --u--> four digits --> plain
 *                       a high surrogate is kept until its low half came, or anything else */
#include "server/call_json.h"

#include <string.h>

int call_json_extent(struct json_extent *e, char c)
{
    if (e->in_string) {
        if (e->escaped)
            e->escaped = false;
        else if (c == '\\')
            e->escaped = true;
        else if (c == '"')
            e->in_string = false;
        return 0;
    }
    switch (c) {
    case '"':
        e->in_string = true;
        return 0;
    case '{':
    case '[':
        if (e->depth == CALL_JSON_DEPTH_MAX)
            return -1;
        e->arrays &= ~(UINT64_C(1) << e->depth);
        e->arrays |= (uint64_t)(c == '[') << e->depth;
        e->depth++;
        return 0;
    case '}':
    case ']':
        if (!e->depth || (e->arrays >> (e->depth - 1) & 1) != (c == ']'))
            return -1;
        return --e->depth == 0;
    default:
        return 0;
    }
}

static void add_code(struct buf *out, uint32_t code)
{
    char bytes[4];
    int n = 0;
    if (code < 0x80)
        bytes[n++] = (char)code;
    else if (code < 0x800)
        bytes[n++] = (char)(0xC0 | code >> 6);
    else if (code < 0x10000)
        bytes[n++] = (char)(0xE0 | code >> 12);
    else
        bytes[n++] = (char)(0xF0 | code >> 18);
    if (code >= 0x10000)
        bytes[n++] = (char)(0x80 | (code >> 12 & 0x3F));
    if (code >= 0x800)
        bytes[n++] = (char)(0x80 | (code >> 6 & 0x3F));
    if (code >= 0x80)
        bytes[n++] = (char)(0x80 | (code & 0x3F));
    buf_add(out, bytes, (size_t)n);
}

/* A high surrogate whose other half did not come. */
static void drop_high(struct json_string *s, struct buf *out)
{
    if (s->high)
        add_code(out, 0xFFFD);
    s->high = 0;
}

static void add_unit(struct json_string *s, uint32_t unit, struct buf *out)
{
    bool low = unit >= 0xDC00 && unit <= 0xDFFF;
    if (s->high && low) {
        add_code(out, 0x10000 + ((s->high - 0xD800) << 10) + (unit - 0xDC00));
        s->high = 0;
        return;
    }
    drop_high(s, out);
    if (unit >= 0xD800 && unit <= 0xDBFF)
        s->high = unit;
    else
        add_code(out, low ? 0xFFFD : unit);
}

static int add_escape(struct json_string *s, char c, struct buf *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (c == 'u') {
        s->escape = 5;
        s->code = 0;
        return 0;
    }
    const char *at = c ? strchr(from, c) : NULL;
    if (!at)
        return -1;
    drop_high(s, out);
    s->escape = 0;
    buf_byte(out, to[at - from]);
    return 0;
}

static int add_digit(struct json_string *s, char c, struct buf *out)
{
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0)
        return -1;
    s->code = s->code << 4 | (uint32_t)digit;
    if (--s->escape == 1) {
        s->escape = 0;
        add_unit(s, s->code, out);
    }
    return 0;
}

int call_json_string(struct json_string *s, char c, struct buf *out)
{
    if (s->escape == 1)
        return add_escape(s, c, out);
    if (s->escape)
        return add_digit(s, c, out);
    if (c == '\\') {
        s->escape = 1;
        return 0;
    }
    drop_high(s, out);
    if (c == '"')
        return 1;
    if ((unsigned char)c < 0x20)
        return -1;
    buf_byte(out, c);
    return 0;
}
