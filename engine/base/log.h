/* log: structured lines on stderr, text or JSON; one line is one write.
 *
 * Thread: any (one atomic level; each line is formatted on the caller's stack and written with one
 * write(2)). Values are escaped: a line is always one line. Logging never waits: a line that its
 * reader leaves no room for, or that cannot be written, is lost and counted. */
#ifndef SIROCCO_LOG_H
#define SIROCCO_LOG_H

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };
enum log_format { LOG_TEXT, LOG_JSON };

void log_init(enum log_level level, enum log_format format); /* before threads start */

/* One event with a message: log_event(LOG_WARN, "port %d is privileged", port) */
void log_event(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line of fields: text form `2026-01-02T03:04:05.678Z INFO request id=... status=200`, JSON form
 * {"time":...,"level":"info","event":"request","id":...}. Build with log_begin, add fields, end. */
struct log_line {
    char text[4096]; /* a line that does not fit is cut at its last whole field */
    size_t size;
    int on; /* 0: below the level, adds do nothing */
};
void log_begin(struct log_line *line, enum log_level level, const char *event);
void log_str(struct log_line *line, const char *key, const char *value);
void log_int(struct log_line *line, const char *key, int64_t value);
void log_ms(struct log_line *line, const char *key, double ms); /* three decimals; NaN: left out */
void log_end(struct log_line *line);

uint64_t log_lost(void); /* lines lost so far */

#endif
