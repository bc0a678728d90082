/* log: the line writer of log.h. One atomic level, set before threads start; each line is built on
 * the caller's stack and written with one write(2), so that lines of several threads never mix.
 *
 * Nobody waits for who reads the log. A line is written when poll(2) sees room for it: a pipe that
 * does has PIPE_BUF bytes (4096, no less than a line), a terminal that was stopped has none. One
 * thread at a time asks and writes, so that what was seen is still there. What found no room, or a
 * full disk, or no reader, is lost and counted, and told when lines go through again. */
#include "engine/base/log.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/utf8.h"

static _Atomic int log_level_now = LOG_INFO;
static _Atomic int log_format_now = LOG_TEXT;

enum { TELL_S = 1 }; /* lost lines are told no more often */
static pthread_mutex_t log_writing = PTHREAD_MUTEX_INITIALIZER; /* what follows is under it */
static _Atomic uint64_t log_lost_lines; /* read without it */
static uint64_t log_lost_told;
static int64_t log_told_s = -TELL_S;

static const char *const level_names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
static const char *const level_json[] = {"debug", "info", "warn", "error"};

void log_init(enum log_level level, enum log_format format)
{
    atomic_store(&log_level_now, level);
    atomic_store(&log_format_now, format);
}

/* Room is kept for the line's end: "}" and a newline. */
static int room(const struct log_line *line, size_t n)
{
    return line->size + n + 3 <= sizeof line->text;
}

static void put(struct log_line *line, const char *text, size_t n)
{
    if (room(line, n)) {
        memcpy(line->text + line->size, text, n);
        line->size += n;
    }
}

/* value between quotes, escaped so that it stays on one line and inside its quotes; 0: no room */
static int put_quoted(struct log_line *line, const char *value)
{
    size_t start = line->size, n = strlen(value);
    put(line, "\"", 1);
    for (size_t i = 0; i < n;) {
        char text[8];
        uint32_t code;
        int length = utf8_decode(value + i, n - i, &code), size;
        size_t step = length > 0 ? (size_t)length : length < 0 ? (size_t)-length : n - i;
        if (length <= 0)
            size = snprintf(text, sizeof text, "\xEF\xBF\xBD");
        else if (code == '"' || code == '\\')
            size = snprintf(text, sizeof text, "\\%c", (int)code);
        else if (code < 0x20 || code == 0x7f || code == 0x2028 || code == 0x2029)
            size = snprintf(text, sizeof text, "\\u%04x", (unsigned)code);
        else {
            memcpy(text, value + i, step);
            size = (int)step;
        }
        if (!room(line, (size_t)size + 1)) {
            line->size = start;
            return 0;
        }
        put(line, text, (size_t)size);
        i += step;
    }
    put(line, "\"", 1);
    return 1;
}

static int plain(const char *value)
{
    if (!*value)
        return 0;
    for (; *value; value++)
        if (*value <= ' ' || *value == '"' || *value == '=' || *value == '\\' || *value > '~')
            return 0;
    return 1;
}

static int put_key(struct log_line *line, const char *key)
{
    char text[80];
    int json = atomic_load(&log_format_now) == LOG_JSON;
    int n = snprintf(text, sizeof text, json ? ",\"%s\":" : " %s=", key);
    if (n < 0 || (size_t)n >= sizeof text || !room(line, (size_t)n + 1))
        return 0;
    put(line, text, (size_t)n);
    return 1;
}

void log_begin(struct log_line *line, enum log_level level, const char *event)
{
    line->size = 0;
    line->on = level >= (enum log_level)atomic_load(&log_level_now) && level < LOG_OFF;
    if (!line->on)
        return;
    struct timespec now;
    struct tm utc;
    char stamp[48], text[160];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(stamp + n, sizeof stamp - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
    int size;
    if (atomic_load(&log_format_now) == LOG_JSON)
        size = snprintf(text, sizeof text, "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\"",
                        stamp, level_json[level], event);
    else
        size = snprintf(text, sizeof text, "%s %s %s", stamp, level_names[level], event);
    if (size > 0)
        put(line, text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

void log_str(struct log_line *line, const char *key, const char *value)
{
    if (!line->on || !value)
        return;
    size_t start = line->size;
    if (!put_key(line, key))
        return;
    if (atomic_load(&log_format_now) == LOG_TEXT && plain(value) && room(line, strlen(value)))
        put(line, value, strlen(value));
    else if (!put_quoted(line, value))
        line->size = start;
}

static void put_number(struct log_line *line, const char *key, const char *text)
{
    size_t start = line->size;
    if (!put_key(line, key))
        return;
    if (room(line, strlen(text)))
        put(line, text, strlen(text));
    else
        line->size = start;
}

void log_int(struct log_line *line, const char *key, int64_t value)
{
    char text[24];
    if (!line->on)
        return;
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_number(line, key, text);
}

void log_ms(struct log_line *line, const char *key, double ms)
{
    char text[48];
    if (!line->on || !isfinite(ms))
        return;
    snprintf(text, sizeof text, "%.3f", ms);
    for (char *p = text; *p; p++) /* locales with a decimal comma */
        if (*p == ',')
            *p = '.';
    put_number(line, key, text);
}

/* The line with its end, if it can go out at once; 0: it can not. */
static int write_line(struct log_line *line)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (atomic_load(&log_format_now) == LOG_JSON)
        line->text[line->size++] = '}';
    line->text[line->size++] = '\n';
    line->on = 0;
    return poll(&out, 1, 0) == 1 && (out.revents & POLLOUT) != 0 &&
           write(STDERR_FILENO, line->text, line->size) == (ssize_t)line->size;
}

/* Lines go through again: how many did not. */
static void tell_lost(void)
{
    struct log_line line;
    struct timespec now;
    uint64_t lost = atomic_load(&log_lost_lines);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (lost == log_lost_told || now.tv_sec < log_told_s + TELL_S)
        return;
    log_begin(&line, LOG_WARN, "log_lines_lost");
    log_int(&line, "lines", (int64_t)(lost - log_lost_told));
    if (!line.on || write_line(&line)) {
        log_lost_told = lost;
        log_told_s = now.tv_sec;
    }
}

void log_end(struct log_line *line)
{
    if (!line->on)
        return;
    pthread_mutex_lock(&log_writing);
    if (write_line(line))
        tell_lost();
    else
        atomic_fetch_add(&log_lost_lines, 1);
    pthread_mutex_unlock(&log_writing);
}

uint64_t log_lost(void)
{
    return atomic_load(&log_lost_lines);
}

void log_event(enum log_level level, const char *format, ...)
{
    struct log_line line;
    char text[1024];
    if (level < (enum log_level)atomic_load(&log_level_now) || level >= LOG_OFF)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_begin(&line, level, "message");
    log_str(&line, "text", text);
    log_end(&line);
}
