/* err: error codes with their texts, and formatting of reasons. No state; any thread. */
#include "engine/base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[ERR_COUNT] = {
#define ERR_NAME(name, text) #name,
    ERR_LIST(ERR_NAME)
#undef ERR_NAME
};

static const char *const texts[ERR_COUNT] = {
#define ERR_TEXT(name, text) text,
    ERR_LIST(ERR_TEXT)
#undef ERR_TEXT
};

static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* A text cut by its buffer's end may end inside a UTF-8 sequence: drop the torn tail. */
static void whole_characters(char *text)
{
    size_t n = strlen(text), back = 0;
    while (back < n && back < 3 && ((unsigned char)text[n - 1 - back] & 0xC0) == 0x80)
        back++;
    if (back == n)
        return;
    unsigned char lead = (unsigned char)text[n - 1 - back];
    size_t want = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (lead >= 0xC0 && back < want)
        text[n - 1 - back] = 0;
}

static int set(struct err *e, int code, const char *param, const char *format, va_list args)
{
    if (!e)
        return code;
    e->code = code;
    vsnprintf(e->text, sizeof e->text, format, args);
    one_line(e->text);
    whole_characters(e->text);
    snprintf(e->param, sizeof e->param, "%s", param);
    return code;
}

int err_set(struct err *e, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(e, code, "", format, args);
    va_end(args);
    return code;
}

int err_param(struct err *e, int code, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(e, code, param ? param : "", format, args);
    va_end(args);
    return code;
}

void err_prefix(struct err *e, const char *format, ...)
{
    if (!e)
        return;
    char rest[sizeof e->text];
    snprintf(rest, sizeof rest, "%s", e->text);
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    size_t n = strlen(e->text);
    if (n < sizeof e->text)
        snprintf(e->text + n, sizeof e->text - n, ": %s", rest);
    one_line(e->text);
    whole_characters(e->text);
}

const char *err_name(int code)
{
    if (code == 0)
        return "ERR_OK";
    return code < 0 && -1 - code < ERR_COUNT ? names[-1 - code] : "ERR_UNKNOWN";
}

const char *err_text(int code)
{
    if (code == 0)
        return "no error";
    return code < 0 && -1 - code < ERR_COUNT ? texts[-1 - code] : "unknown error";
}

_Noreturn void err_check_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "sirocco: %s:%d: check failed: %s\n", file, line, condition);
    abort();
}
