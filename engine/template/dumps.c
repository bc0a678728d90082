/* dumps: writes JSON as Python does. Recursion is bounded by the parser's depth. No state. */
#include "engine/template/dumps.h"

#include <inttypes.h>
#include <string.h>

#include "engine/template/render_internal.h"

void dumps_string(struct buf *out, const char *text, size_t n)
{
    static const char letters[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    size_t clean = 0;
    buf_byte(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *letter = c ? strchr(letters, c) : NULL;
        if (!letter && c >= 0x20)
            continue;
        buf_add(out, text + clean, i - clean);
        clean = i + 1;
        if (letter)
            buf_format(out, "\\%c", names[letter - letters]);
        else
            buf_format(out, "\\u%04x", c);
    }
    buf_add(out, text + clean, n - clean);
    buf_byte(out, '"');
}

static void repr_string(struct buf *out, const char *text, size_t n)
{
    bool single = memchr(text, '\'', n) && !memchr(text, '"', n);
    char quote = single ? '"' : '\'';
    buf_byte(out, quote);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == (unsigned char)quote || c == '\\')
            buf_format(out, "\\%c", c);
        else if (c == '\n' || c == '\r' || c == '\t')
            buf_format(out, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 0x20 || c == 0x7F)
            buf_format(out, "\\x%02x", c);
        else
            buf_byte(out, (char)c);
    }
    buf_byte(out, quote);
}

static void write_scalar(struct buf *out, const json_t *value, bool repr)
{
    char text[OUT_FLOAT_MAX];
    switch (json_typeof(value)) {
    case JSON_STRING:
        (repr ? repr_string : dumps_string)(out, json_string_value(value),
                                            json_string_length(value));
        break;
    case JSON_INTEGER:
        buf_format(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        buf_add(out, text, out_float(text, json_real_value(value)));
        break;
    case JSON_TRUE:
        buf_text(out, repr ? "True" : "true");
        break;
    case JSON_FALSE:
        buf_text(out, repr ? "False" : "false");
        break;
    default:
        buf_text(out, repr ? "None" : "null");
        break;
    }
}

static void write(struct buf *out, const json_t *value, bool repr)
{
    size_t i;
    json_t *item;
    const char *key;
    bool first = true;
    if (json_is_array(value)) {
        buf_byte(out, '[');
        json_array_foreach(value, i, item)
        {
            buf_text(out, i ? ", " : "");
            write(out, item, repr);
        }
        buf_byte(out, ']');
    } else if (json_is_object(value)) {
        buf_byte(out, '{');
        json_object_foreach((json_t *)value, key, item)
        {
            buf_text(out, first ? "" : ", ");
            (repr ? repr_string : dumps_string)(out, key, strlen(key));
            buf_text(out, ": ");
            write(out, item, repr);
            first = false;
        }
        buf_byte(out, '}');
    } else {
        write_scalar(out, value, repr);
    }
}

void dumps_value(struct buf *out, const json_t *value)
{
    write(out, value, false);
}

void dumps_repr(struct buf *out, const json_t *value)
{
    write(out, value, true);
}
