/* stream: token bytes -> text that may be sent. Holds back exactly what could still turn out to be
 * part of a stop string or an unfinished UTF-8 character, nothing more. One per sequence, owned by
 * the engine thread; fixed memory (R4).
 *
 * States:  open --stream_add finds a stop string--> stopped
 *          open --stream_finish--> flushed */
#ifndef SIROCCO_STREAM_H
#define SIROCCO_STREAM_H

#include <stdbool.h>
#include <stddef.h>

enum { STREAM_STOPS_MAX = 16, STREAM_STOP_BYTES_MAX = 256 };

struct stream_stops { /* borrowed; immutable while the stream lives */
    int n;
    const char *text[STREAM_STOPS_MAX];
    size_t size[STREAM_STOPS_MAX]; /* 1..STREAM_STOP_BYTES_MAX */
};

struct stream {
    const struct stream_stops *stops; /* NULL: none */
    bool include_stop;                /* leave the stop string in the text */
    bool stopped;
    int stop_index;                   /* which stop string ended it; -1 */
    char held[STREAM_STOP_BYTES_MAX + 8];
    size_t n_held;
};

void stream_init(struct stream *s, const struct stream_stops *stops, bool include_stop);

/* Add a token's bytes. Appends to out (capacity at least n + sizeof held, in bytes times 3 for
 * replaced ill-formed bytes) what may be sent now: always whole, valid UTF-8, ill-formed input
 * replaced by U+FFFD per maximal subpart. Returns the number of bytes written. Once stopped, text
 * after the stop string is dropped. Earliest match in the text wins; of several that start at the
 * same place, the one listed first. */
size_t stream_add(struct stream *s, const char *bytes, size_t n, char *out);

/* A token without text stands here (a special token): stop strings and characters do not reach over
 * it. What is held and is no stop string is released, an unfinished character as U+FFFD. out as in
 * stream_add. May stop the stream. */
size_t stream_break(struct stream *s, char *out);

/* The end: what is held and is no stop string is released; an unfinished character is dropped. */
size_t stream_finish(struct stream *s, char *out);

#endif
