/* toolcall: a model's output taken apart in pieces must give what it gives whole, and nothing but
 * white space, markers and the structure of calls may be missing: text that holds no marker comes
 * out as it was. Input: a byte that picks dialect and options, a byte for the sizes of the pieces,
 * then the output. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/toolcall.h"

enum { OUTPUT_MAX = 4096, OUT_BYTES = 1 << 16 };

struct result {
    char bytes[OUT_BYTES];
    size_t n, n_plain;
    char plain[OUTPUT_MAX]; /* text and reasoning, without white space */
    enum toolcall_kind last;
};

static void require(int held)
{
    if (!held)
        abort();
}

static uint64_t seven(void)
{
    return 7;
}

static void sink(void *user, const struct toolcall *t, enum toolcall_kind kind, const char *bytes,
                 size_t n)
{
    struct result *r = user;
    require(n > 0);
    require(kind != TOOLCALL_ARGUMENTS || toolcall_n_calls(t) > 0);
    if (!r->n || kind != r->last || kind == TOOLCALL_NAME) { /* pieces of one kind are one */
        require(r->n + 1 < OUT_BYTES);
        r->bytes[r->n++] = (char)('0' + kind);
    }
    require(r->n + n < OUT_BYTES);
    memcpy(r->bytes + r->n, bytes, n);
    r->n += n;
    r->last = kind;
    for (size_t i = 0; i < n && kind <= TOOLCALL_REASONING; i++)
        if (!strchr(" \t\r\n", bytes[i]) || !bytes[i]) {
            require(r->n_plain < OUTPUT_MAX);
            r->plain[r->n_plain++] = bytes[i];
        }
}

/* The output in pieces of 1..most bytes: of random sizes (a generator of Knuth's) when seed is
 * positive, else all of the most. */
static void parse(const struct toolcall_options *options, const char *text, size_t n, size_t most,
                  uint64_t seed, struct result *r)
{
    struct toolcall *t = toolcall_open(options, OUT_BYTES, sink, r);
    r->n = r->n_plain = 0;
    require(t != NULL);
    for (size_t at = 0, piece; at < n; at += piece) {
        piece = seed ? 1 + (seed >> 33) % most : most;
        piece = n - at < piece ? n - at : piece;
        toolcall_text(t, text + at, piece);
        seed = seed ? seed * 6364136223846793005u + 1442695040888963407u : 0;
    }
    toolcall_end(t);
    require(!toolcall_failed(t));
    require(toolcall_n_calls(t) || !toolcall_complete(t));
    toolcall_close(t);
}

static int holds_marker(const struct toolcall_format *f, const char *text, size_t n)
{
    const char *marks[] = {f->dialect ? f->dialect->open : NULL,
                           f->thinking ? f->thinking->open : NULL};
    for (size_t i = 0; i < 2; i++)
        if (marks[i] && memmem(text, n, marks[i], strlen(marks[i])))
            return 1;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"f", "get_weather"};
    static struct result whole, pieces;
    if (size < 2 || size > OUTPUT_MAX)
        return 0;
    const char *text = (const char *)data + 2;
    size_t n = size - 2;
    int d = data[0] & 7, r = data[0] >> 3 & 3;
    struct toolcall_format format = {
        .dialect = d < toolcall_n_dialects ? &toolcall_dialects[d] : NULL,
        .thinking = r < toolcall_n_thinkings ? &toolcall_thinkings[r] : NULL,
    };
    for (int m = 0; m < N_MARKS; m++)
        format.ids[m] = -1;
    struct toolcall_options options = {
        .format = &format,
        .calls = format.dialect != NULL,
        .thinking = format.thinking != NULL,
        .thinks = data[0] >> 5 & 1,
        .n_calls_max = data[0] >> 6 & 1,
        .names = names,
        .n_names = 2,
        .random = seven,
    };
    parse(&options, text, n, n + 1, 0, &whole);
    parse(&options, text, n, 1, 0, &pieces);
    require(whole.n == pieces.n && !memcmp(whole.bytes, pieces.bytes, whole.n));
    parse(&options, text, n, 2 + data[1] % 29, data[1] + 1u, &pieces);
    require(whole.n == pieces.n && !memcmp(whole.bytes, pieces.bytes, whole.n));
    if (holds_marker(&format, text, n) || (format.dialect && format.dialect->bare) ||
        (format.thinking && options.thinks))
        return 0;
    size_t at = 0; /* no call, no reasoning: every byte comes out, in order */
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", text[i]) || !text[i])
            require(at < whole.n_plain && whole.plain[at++] == text[i]);
    require(at == whole.n_plain);
    return 0;
}
