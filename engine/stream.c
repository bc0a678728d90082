/* stream: token bytes -> text that may be sent.
 *
 * Engine thread; one per sequence; fixed memory (R4). State diagram in stream.h.
 *
 * held[0, n_held) is well-formed text that may still become a stop string (nothing, when no stop
 * string is in sight), followed by at most three bytes of an unfinished character. Between calls
 * the text part is a proper prefix of some stop string, or, where a shorter stop string has been
 * completed inside it, still the prefix of one that starts earlier (or at the same place, listed
 * earlier) and would win: so it is shorter than STREAM_STOP_BYTES_MAX.
 *
 * Linear time: each byte enters and leaves held once, and a start that is given up is never looked
 * at again, so a byte costs at most one comparison with each stop string on entering and one on
 * leaving. */
#include "engine/stream.h"

#include <stdint.h>
#include <string.h>

#include "engine/base/utf8.h"

static const char REPLACEMENT[] = "\xEF\xBF\xBD";
enum { REPLACEMENT_BYTES = 3 };

/* What the stop strings say about text[0, n). */
enum verdict { NOTHING, PENDING, FOUND };

/* At the start of text alone. The order of the list decides; when no more text can come, a pending
 * stop string is none. */
static enum verdict look_here(const struct stream_stops *stops, const char *text, size_t n,
                              bool at_end, int *index)
{
    for (int i = 0; i < stops->n; i++) {
        size_t size = stops->size[i];
        if (size == 0 || size > STREAM_STOP_BYTES_MAX || (at_end && size > n))
            continue;
        if (memcmp(text, stops->text[i], size < n ? size : n) != 0)
            continue;
        *index = i;
        return size <= n ? FOUND : PENDING;
    }
    return NOTHING;
}

/* Decides about the text part of held: writes what can be no part of a stop string any more, keeps
 * the rest. Returns the number of bytes written; *n_text is what stays. */
static size_t settle(struct stream *s, size_t *n_text, bool at_end, char *out)
{
    enum verdict verdict = NOTHING;
    size_t from = 0;
    int index = -1;
    if (!s->stops || s->stops->n == 0)
        from = *n_text;
    for (; from < *n_text; from++) {
        verdict = look_here(s->stops, s->held + from, *n_text - from, at_end, &index);
        if (verdict != NOTHING)
            break;
    }
    size_t n_out = from;
    if (verdict == FOUND) {
        s->stopped = true;
        s->stop_index = index;
        if (s->include_stop)
            n_out += s->stops->size[index];
    }
    memcpy(out, s->held, n_out);
    if (verdict == FOUND) {
        s->n_held = *n_text = 0;
        return n_out;
    }
    s->n_held -= from;
    *n_text -= from;
    memmove(s->held, s->held + from, s->n_held);
    return n_out;
}

void stream_init(struct stream *s, const struct stream_stops *stops, bool include_stop)
{
    *s = (struct stream){.stops = stops, .include_stop = include_stop, .stop_index = -1};
}

/* Turns the bytes after the text part into text as far as they are complete, character by
 * character, and settles after each: held never has more than one character in doubt. */
static size_t take_characters(struct stream *s, size_t *n_text, char *out)
{
    size_t n_out = 0;
    while (*n_text < s->n_held && !s->stopped) {
        uint32_t code;
        char *at = s->held + *n_text;
        size_t n_left = s->n_held - *n_text;
        int length = utf8_decode(at, n_left, &code);
        if (length == 0)
            break;
        if (length < 0) {
            size_t n_bad = (size_t)-length;
            memmove(at + REPLACEMENT_BYTES, at + n_bad, n_left - n_bad);
            memcpy(at, REPLACEMENT, REPLACEMENT_BYTES);
            s->n_held += REPLACEMENT_BYTES - n_bad;
            length = REPLACEMENT_BYTES;
        }
        *n_text += (size_t)length;
        n_out += settle(s, n_text, false, out + n_out);
    }
    return n_out;
}

size_t stream_add(struct stream *s, const char *bytes, size_t n, char *out)
{
    size_t n_out = 0, n_text = utf8_complete(s->held, s->n_held);
    for (size_t i = 0; i < n && !s->stopped; i++) {
        s->held[s->n_held++] = bytes[i];
        n_out += take_characters(s, &n_text, out + n_out);
    }
    return n_out;
}

size_t stream_break(struct stream *s, char *out)
{
    if (s->stopped)
        return 0;
    size_t n_text = utf8_complete(s->held, s->n_held);
    if (n_text < s->n_held) {
        memcpy(s->held + n_text, REPLACEMENT, REPLACEMENT_BYTES);
        s->n_held = n_text += REPLACEMENT_BYTES;
    }
    return settle(s, &n_text, true, out);
}

size_t stream_finish(struct stream *s, char *out)
{
    if (s->stopped)
        return 0;
    size_t n_out = 0, n_text = utf8_complete(s->held, s->n_held);
    s->n_held = n_text;
    n_out = settle(s, &n_text, true, out);
    return n_out;
}
