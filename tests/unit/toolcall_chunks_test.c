/* toolcall_chunks_test: a property: however a model's output is cut into chunks, the same comes out
 * of the parser: kinds, bytes, ids and counts. Random outputs made of what every dialect's calls
 * and reasoning are made of, whole and broken, under every combination of tables and options; each
 * is taken whole, byte by byte, in every combination of a few random cuts, and in random chunks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/toolcall.h"
#include "tests/test.h"

enum { ITEMS_MAX = 16, CUTS = 6, N_OUTPUTS = 24, N_RANDOM = 12, OUT_BYTES = 1 << 16 };

static uint64_t seed = 0x9E3779B97F4A7C15u;

static size_t below(size_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed >> 11) % n;
}

static uint64_t counter;

static uint64_t count_up(void)
{
    return counter++;
}

/* ---- an output: texts, and markers that are tokens */

struct output {
    struct item {
        int mark; /* -1: the text that ends at `end` */
        size_t end;
    } items[ITEMS_MAX];
    int n;
    struct buf text;
};

static const char *const PARTS[] = {
    "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
    "{\"name\":\"get_weather\",\"parameters\":{\"city\":\"S\xC3\xA3o\"}}",
    "{\"arguments\":\"{\\\"a\\\": \\\"\\u00e9\\ud83d\\ude00\\\"}\",\"name\":\"f\"}",
    "{\"name\":\"f\"",
    "{\"x\": 1}",
    "{}",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    "\"",
    "\\",
    "\\ud83d",
    "f",
    "get_weather",
    "abcDEF123",
    " ",
    "\n",
    "\n\n",
    "text",
    "h\xC3\xA9",
    "\xF0\x9F\x98\x80",
    "<",
    "[TOOL",
    "[/",
};

static const char *marker(const struct toolcall_format *f, int mark)
{
    const struct toolcall_dialect *d = f->dialect;
    const struct toolcall_thinking *r = f->thinking;
    const char *const texts[N_MARKS] = {
        [MARK_THINK] = r ? r->open : NULL, [MARK_UNTHINK] = r ? r->close : NULL,
        [MARK_OPEN] = d ? d->open : NULL,  [MARK_CLOSE] = d ? d->close : NULL,
        [MARK_ARGS] = d ? d->args : NULL,  [MARK_ID] = d ? d->call_id : NULL,
    };
    return texts[mark];
}

static void make_output(struct output *o, const struct toolcall_format *f, bool tokens)
{
    buf_clear(&o->text);
    o->n = 1 + (int)below(ITEMS_MAX);
    for (int i = 0; i < o->n; i++) {
        int mark = (int)below(N_MARKS);
        const char *text = below(5) < 2 ? marker(f, mark) : NULL;
        o->items[i].mark = text && tokens ? mark : -1;
        if (text && !tokens) /* sometimes not all of it */
            buf_add(&o->text, text, below(6) ? strlen(text) : below(strlen(text)));
        else if (!text)
            buf_text(&o->text, PARTS[below(sizeof PARTS / sizeof PARTS[0])]);
        o->items[i].end = o->text.size;
    }
}

/* ---- what comes out */

struct result {
    struct buf bytes;
    enum toolcall_kind last;
};

static void sink(void *user, const struct toolcall *t, enum toolcall_kind kind, const char *bytes,
                 size_t n)
{
    struct result *r = user;
    if (!r->bytes.size || kind != r->last || kind == TOOLCALL_NAME)
        buf_format(&r->bytes, "\n%d%s:", (int)kind, kind == TOOLCALL_NAME ? toolcall_id(t) : "");
    buf_add(&r->bytes, bytes, n);
    r->last = kind;
}

/* cut[i]: a chunk ends in front of text byte i. */
static void parse(const struct toolcall_options *options, const struct output *o, const bool *cut,
                  struct result *r)
{
    struct toolcall *t = toolcall_open(options, OUT_BYTES, sink, r);
    EXPECT(t != NULL);
    counter = 0;
    buf_clear(&r->bytes);
    for (int i = 0, at = 0; i < o->n; i++) {
        size_t end = o->items[i].end;
        for (size_t from = (size_t)at, to; from < end; from = to) {
            to = from + 1;
            while (to < end && !cut[to])
                to++;
            toolcall_text(t, o->text.data + from, to - from);
        }
        toolcall_token(t, o->items[i].mark < 0 ? 0 : 10 + o->items[i].mark);
        at = (int)end;
    }
    toolcall_end(t);
    EXPECT_INT(toolcall_failed(t), 0);
    buf_format(&r->bytes, "\n%d calls, %d malformed, %d of reasoning, %d", toolcall_n_calls(t),
               toolcall_n_malformed(t), toolcall_n_reasoning(t), toolcall_complete(t));
    toolcall_close(t);
}

static void expect_same(const struct toolcall_options *options, const struct output *o,
                        const bool *cut, const struct result *whole)
{
    static struct result r;
    parse(options, o, cut, &r);
    if (strcmp(r.bytes.data, whole->bytes.data) != 0)
        fprintf(stderr, "output: %.*s\n", (int)o->text.size, o->text.data);
    EXPECT_STR(r.bytes.data, whole->bytes.data);
}

static void check_output(const struct toolcall_options *options, const struct output *o)
{
    static struct result whole;
    static bool cut[4096];
    size_t n = o->text.size, places[CUTS];
    EXPECT(n < sizeof cut);
    memset(cut, false, sizeof cut);
    parse(options, o, cut, &whole);
    if (n == 0)
        return;
    for (int i = 0; i < CUTS; i++)
        places[i] = below(n);
    for (unsigned set = 1; set < 1u << CUTS; set++) {
        for (int i = 0; i < CUTS; i++)
            cut[places[i]] = false;
        for (int i = 0; i < CUTS; i++)
            cut[places[i]] = cut[places[i]] || (set >> i & 1);
        expect_same(options, o, cut, &whole);
    }
    for (int round = 0; round < N_RANDOM; round++) { /* the first: byte by byte */
        for (size_t i = 0; i < n; i++)
            cut[i] = below((size_t)round + 1) == 0;
        expect_same(options, o, cut, &whole);
    }
}

static void check_format(struct toolcall_format *format, bool tokens)
{
    static const char *const names[] = {"f", "get_weather"};
    struct output o = {.n = 0};
    buf_init(&o.text, 0);
    for (int m = 0; m < N_MARKS; m++)
        format->ids[m] = tokens && marker(format, m) ? 10 + m : -1;
    for (int flags = 0; flags < 8; flags++) {
        struct toolcall_options options = {.format = format,
                                           .calls = format->dialect != NULL,
                                           .thinking = format->thinking != NULL,
                                           .thinks = format->thinking && flags & 1,
                                           .by_text = flags & 2,
                                           .n_calls_max = flags & 4 ? 1 : 0,
                                           .names = names,
                                           .n_names = 2,
                                           .random = count_up};
        for (int i = 0; i < N_OUTPUTS; i++) {
            make_output(&o, format, tokens);
            check_output(&options, &o);
        }
    }
    buf_free(&o.text);
}

TEST_SECONDS(chunks_change_nothing_where_markers_are_text, 240)
{
    for (int d = -1; d < toolcall_n_dialects; d++)
        for (int r = -1; r < toolcall_n_thinkings; r++) {
            struct toolcall_format format = {.dialect = d < 0 ? NULL : &toolcall_dialects[d],
                                             .thinking = r < 0 ? NULL : &toolcall_thinkings[r]};
            check_format(&format, false);
        }
}

TEST_SECONDS(chunks_change_nothing_where_markers_are_tokens, 240)
{
    for (int d = -1; d < toolcall_n_dialects; d++)
        for (int r = -1; r < toolcall_n_thinkings; r++) {
            struct toolcall_format format = {.dialect = d < 0 ? NULL : &toolcall_dialects[d],
                                             .thinking = r < 0 ? NULL : &toolcall_thinkings[r]};
            check_format(&format, true);
        }
}
