/* buf: a growable byte buffer with a maximum fixed at creation.
 *
 * Appends never abort: once an append fails (no memory, or over the maximum) the buffer is marked
 * failed and later appends do nothing, so a writer checks once at the end. Owner: one thread. */
#ifndef SIROCCO_BUF_H
#define SIROCCO_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;       /* size bytes, followed by a NUL whenever data is not NULL */
    size_t size;
    size_t capacity;
    size_t bytes_max; /* 0: no maximum */
    int failed;       /* 0, ERR_NOMEM or ERR_TOO_LARGE */
};

void buf_init(struct buf *b, size_t bytes_max);
void buf_free(struct buf *b);   /* zeroed and NULL allowed; leaves an empty buffer */
void buf_clear(struct buf *b);  /* size 0, memory kept, failure forgotten */
int buf_reserve(struct buf *b, size_t more); /* room for `more` bytes; 0 or the failure */
int buf_add(struct buf *b, const void *bytes, size_t n);
int buf_text(struct buf *b, const char *text);
int buf_byte(struct buf *b, char byte);
int buf_format(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append text as a quoted JSON string (RFC 8259): escapes ", \, control characters, U+2028/2029;
 * invalid UTF-8 becomes U+FFFD. */
int buf_json_string(struct buf *b, const char *text, size_t n);

/* Append the shortest of %g forms that reads back as the same float/double; non-finite: null. */
int buf_json_float(struct buf *b, double value);

#endif
