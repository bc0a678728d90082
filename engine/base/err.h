/* err: every error code of the house, and the struct that carries one with its reason.
 *
 * Functions return 0 or a negative ERR_*; what can fail for a reason worth telling takes a last
 * `struct err *` (may be NULL). Codes of the second group name what is wrong with a request: the
 * table in server/openai.c maps each code to an HTTP status, an OpenAI type and an OpenAI code.
 * Thread: any; a struct err has one owner. */
#ifndef SIROCCO_ERR_H
#define SIROCCO_ERR_H

#include <stdarg.h>

#define ERR_LIST(X)                                                                                \
    /* the machine */                                                                              \
    X(ERR_NOMEM, "out of memory")                                                                  \
    X(ERR_IO, "input or output failed")                                                            \
    X(ERR_FORMAT, "malformed file")                                                                \
    X(ERR_DEVICE, "the compute device failed")                                                     \
    X(ERR_INTERNAL, "internal error")                                                              \
    X(ERR_USAGE, "wrong option or configuration")                                                  \
    /* the request */                                                                              \
    X(ERR_JSON, "the body is not valid JSON")                                                      \
    X(ERR_MISSING, "a required parameter is missing")                                              \
    X(ERR_TYPE, "a parameter has the wrong type")                                                  \
    X(ERR_VALUE, "a parameter has an invalid value")                                               \
    X(ERR_UNSUPPORTED_VALUE, "a parameter's value is not supported")                               \
    X(ERR_UNSUPPORTED_PARAM, "a parameter is not supported")                                       \
    X(ERR_INT_MAX, "an integer is above its maximum")                                              \
    X(ERR_INT_MIN, "an integer is below its minimum")                                              \
    X(ERR_DECIMAL_MAX, "a number is above its maximum")                                            \
    X(ERR_DECIMAL_MIN, "a number is below its minimum")                                            \
    X(ERR_ARRAY_LONG, "an array is too long")                                                      \
    X(ERR_ARRAY_EMPTY, "an array is empty")                                                        \
    X(ERR_STRING_LONG, "a string is too long")                                                     \
    X(ERR_CONTEXT, "the prompt exceeds the context length")                                        \
    X(ERR_REQUEST, "the request is malformed")                                                     \
    X(ERR_AUTH, "the API key is missing or wrong")                                                 \
    X(ERR_HOST, "the host name is not allowed")                                                    \
    X(ERR_NO_MODEL, "the model does not exist")                                                    \
    X(ERR_NO_URL, "unknown URL")                                                                   \
    X(ERR_METHOD, "method not allowed")                                                            \
    X(ERR_SLOW, "the request did not arrive in time")                                              \
    X(ERR_TOO_LARGE, "the request is too large")                                                   \
    X(ERR_HEADERS_LARGE, "the request headers are too large")                                      \
    X(ERR_URI_LONG, "the request target is too long")                                              \
    X(ERR_EXPECTATION, "the expectation is not supported")                                         \
    X(ERR_MEDIA, "unsupported media type")                                                         \
    X(ERR_RATE, "rate limit exceeded")                                                             \
    X(ERR_FULL, "the server is overloaded")                                                        \
    X(ERR_DRAIN, "the server is shutting down")                                                    \
    X(ERR_LOADING, "the model is loading")                                                         \
    X(ERR_DEAD, "the engine is unavailable")                                                       \
    X(ERR_CANCELLED, "cancelled")

#define ERR_ORDINAL(name, text) name##_ORDINAL,
enum err_ordinal { ERR_LIST(ERR_ORDINAL) ERR_COUNT };
#undef ERR_ORDINAL
#define ERR_CODE(name, text) name = -1 - name##_ORDINAL,
enum err_code { ERR_LIST(ERR_CODE) ERR_OK = 0 };
#undef ERR_CODE

struct err {
    int code;       /* 0 or a negative ERR_* */
    char text[480]; /* one sentence for a person; never holds unescaped control characters */
    char param[96]; /* the request field concerned, as in "messages[3].role"; "" when none */
};

/* Record code and a formatted reason in e (NULL is allowed); returns code. Control characters in
 * the formatted text become '?', so that one error is one line. */
int err_set(struct err *e, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with the request field concerned. */
int err_param(struct err *e, int code, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Put "prefix: " before e's text, as a caller does that knows the file. */
void err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

const char *err_name(int code); /* "ERR_JSON"; "ERR_OK" for 0; "ERR_UNKNOWN" otherwise */
const char *err_text(int code); /* the list's text; never NULL */

/* For programmer errors alone: prints file, line and condition on stderr and aborts. Nothing that
 * comes from a client, a file or the machine may reach it (R8). */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            err_check_failed(__FILE__, __LINE__, #condition);                                      \
    } while (0)
_Noreturn void err_check_failed(const char *file, int line, const char *condition);

#endif
