/* Tests of engine/stream.c: random texts cut at random places against an oracle that has the whole
 * text, and how much is held back after every piece. */
#include "engine/stream.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "tests/test.h"

enum { TEXT_MAX = 4096 };

static uint64_t state = 0x9E3779B97F4A7C15u;

static int below(int n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (int)((state >> 11) % (uint64_t)n);
}

/* Ill-formed parts replaced, an unfinished end dropped. */
static size_t sanitise(const char *in, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        int length = utf8_decode(in + i, n - i, &code);
        if (length == 0)
            break;
        memcpy(out + n_out, length < 0 ? "\xEF\xBF\xBD" : in + i, length < 0 ? 3 : (size_t)length);
        n_out += length < 0 ? 3 : (size_t)length;
        i += length < 0 ? (size_t)-length : (size_t)length;
    }
    return n_out;
}

/* Where the earliest stop string starts, and which it is; n and -1 when there is none. */
static size_t oracle(const struct stream_stops *stops, const char *text, size_t n, int *index)
{
    for (size_t at = 0; at < n; at++)
        for (*index = 0; *index < stops->n; ++*index)
            if (stops->size[*index] <= n - at &&
                !memcmp(text + at, stops->text[*index], stops->size[*index]))
                return at;
    *index = -1;
    return n;
}

static const char *const LETTERS[] = {"a", "b", "c", "\xC3\xA9", "\xE2\x82\xAC",
                                      "\xF0\x9F\x98\x80", "\xEF\xBF\xBD"};
static const char *const BROKEN[] = {"\xFF", "\x80", "\xE2\x82", "\xF0\x9F", "\xC3", "\xED\xA0\x80"};

static size_t random_text(char *out, int n_letters, int first, int n, bool broken)
{
    size_t size = 0;
    for (int i = 0; i < n; i++) {
        const char *letter = LETTERS[first + below(n_letters)];
        if (broken && below(6) == 0)
            letter = BROKEN[below(6)];
        memcpy(out + size, letter, strlen(letter));
        size += strlen(letter);
    }
    return size;
}

/* What is held must be in doubt: an unfinished character after nothing, or after a proper prefix of
 * a stop string. */
static void check_held(const struct stream *s)
{
    size_t n_text = utf8_complete(s->held, s->n_held);
    bool in_doubt = n_text == 0;
    for (int i = 0; s->stops && i < s->stops->n; i++)
        in_doubt |= n_text < s->stops->size[i] && !memcmp(s->held, s->stops->text[i], n_text);
    EXPECT(in_doubt);
    EXPECT(s->n_held - n_text <= 3);
}

static void run_case(const struct stream_stops *stops, const char *text, size_t n, bool include,
                     bool whole)
{
    static char clean[3 * TEXT_MAX], got[3 * TEXT_MAX + 1024];
    char piece[3 * (TEXT_MAX + STREAM_STOP_BYTES_MAX + 8)];
    struct stream s;
    size_t n_got = 0;
    int index;
    size_t n_clean = sanitise(text, n, clean);
    size_t expected = oracle(stops, clean, n_clean, &index);
    if (include && index >= 0)
        expected += stops->size[index];
    stream_init(&s, stops, include);
    for (size_t at = 0; at < n;) {
        size_t n_piece = whole ? n : (size_t)below(5);
        n_piece = n_piece > n - at ? n - at : n_piece;
        size_t n_new = stream_add(&s, text + at, n_piece, piece);
        EXPECT(utf8_valid(piece, n_new));
        memcpy(got + n_got, piece, n_new);
        n_got += n_new;
        at += n_piece;
        if (s.stopped)
            EXPECT_INT(s.n_held, 0);
        else
            check_held(&s);
    }
    size_t n_new = stream_finish(&s, piece);
    EXPECT(utf8_valid(piece, n_new));
    memcpy(got + n_got, piece, n_new);
    n_got += n_new;
    if (n_got != expected || memcmp(got, clean, n_got) || s.stop_index != index) {
        printf("    text \"%.*s\", stops", (int)n, text);
        for (int i = 0; i < stops->n; i++)
            printf(" \"%.*s\"", (int)stops->size[i], stops->text[i]);
        printf(": got \"%.*s\", stop %d, not %d\n", (int)n_got, got, s.stop_index, index);
    }
    EXPECT_INT(n_got, expected);
    EXPECT(!memcmp(got, clean, n_got));
    EXPECT_INT(s.stop_index, index);
    EXPECT_INT(s.stopped, index >= 0);
    EXPECT_INT(stream_add(&s, "abc", s.stopped ? 3 : 0, piece), 0);
}

TEST_SECONDS(random_cases_equal_oracle, 300)
{
    char text[TEXT_MAX], stop_text[4][64];
    for (int i = 0; i < 1000000; i++) {
        struct stream_stops stops = {.n = below(5)};
        int n_letters = 2 + below(2), first = below(3) ? 0 : below(7 - n_letters + 1);
        for (int j = 0; j < stops.n; j++) {
            stops.text[j] = stop_text[j];
            stops.size[j] = random_text(stop_text[j], n_letters, first, 1 + below(6), false);
        }
        size_t n = random_text(text, n_letters, first, below(24), below(4) == 0);
        run_case(&stops, text, n, below(2), below(8) == 0);
    }
}

TEST(long_stop_strings_equal_oracle)
{
    static char text[TEXT_MAX], stop_text[3][STREAM_STOP_BYTES_MAX];
    for (int i = 0; i < 3000; i++) {
        struct stream_stops stops = {.n = 1 + below(3)};
        for (int j = 0; j < stops.n; j++) { /* aaa...b: always almost found */
            stops.text[j] = stop_text[j];
            stops.size[j] = (size_t)(1 + below(STREAM_STOP_BYTES_MAX));
            memset(stop_text[j], 'a', stops.size[j]);
            stop_text[j][below((int)stops.size[j])] = 'b';
        }
        size_t n = (size_t)below(1000);
        memset(text, 'a', n);
        for (int j = below(4); n > 0 && j > 0; j--)
            text[below((int)n)] = 'b';
        run_case(&stops, text, n, below(2), below(3) == 0);
    }
}

static void expect_piece(struct stream *s, const char *bytes, const char *expected)
{
    char out[1024];
    size_t n = stream_add(s, bytes, strlen(bytes), out);
    out[n] = 0;
    EXPECT_STR(out, expected);
}

static void expect_end(struct stream *s, const char *expected)
{
    char out[1024];
    size_t n = stream_finish(s, out);
    out[n] = 0;
    EXPECT_STR(out, expected);
}

TEST(held_exactly_as_long_as_needed)
{
    struct stream s;
    struct stream_stops stops = {2, {"</s>", "stop"}, {4, 4}};
    stream_init(&s, &stops, false);
    expect_piece(&s, "Hello <", "Hello ");
    expect_piece(&s, "b", "<b");
    expect_piece(&s, "<<", "<"); /* the first can be no start any more */
    expect_piece(&s, "/", "");
    expect_piece(&s, "s", "");
    expect_piece(&s, "x", "</sx");
    expect_piece(&s, "sto", "");
    expect_piece(&s, "stop it", "sto");
    EXPECT(s.stopped);
    EXPECT_INT(s.stop_index, 1);
    expect_end(&s, "");
}

TEST(an_earlier_start_wins_over_an_earlier_end)
{
    struct stream s;
    struct stream_stops stops = {2, {"bc", "abcd"}, {2, 4}};
    stream_init(&s, &stops, false);
    expect_piece(&s, "xabc", "x"); /* "bc" is complete, but "abcd" may still come */
    EXPECT(!s.stopped);
    expect_piece(&s, "d", "");
    EXPECT_INT(s.stop_index, 1);
    stream_init(&s, &stops, false);
    expect_piece(&s, "xabc", "x");
    expect_piece(&s, "x", "a");
    EXPECT_INT(s.stop_index, 0);
    stream_init(&s, &stops, true);
    expect_piece(&s, "xabc", "x");
    expect_end(&s, "abc"); /* nothing more comes: "bc" it is, and it stays in the text */
    EXPECT(s.stopped);
    EXPECT_INT(s.stop_index, 0);
}

TEST(at_the_same_start_the_one_listed_first_wins)
{
    struct stream s;
    struct stream_stops long_first = {2, {"abc", "ab"}, {3, 2}};
    struct stream_stops short_first = {2, {"ab", "abc"}, {2, 3}};
    stream_init(&s, &short_first, true);
    expect_piece(&s, "xab", "xab");
    EXPECT(s.stopped);
    stream_init(&s, &long_first, true);
    expect_piece(&s, "xab", "x");
    EXPECT(!s.stopped);
    expect_piece(&s, "c", "abc");
    EXPECT_INT(s.stop_index, 0);
}

TEST(characters_are_never_split)
{
    struct stream s;
    stream_init(&s, NULL, false);
    expect_piece(&s, "\xF0", "");
    expect_piece(&s, "\x9F", "");
    expect_piece(&s, "\x98", "");
    expect_piece(&s, "\x80!", "\xF0\x9F\x98\x80!");
    expect_piece(&s, "\xE2\x82", "");
    expect_piece(&s, "z", "\xEF\xBF\xBDz"); /* one for the maximal subpart */
    expect_piece(&s, "\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD");
    expect_piece(&s, "\xC3", "");
    expect_end(&s, ""); /* an unfinished character is dropped */
}

TEST(held_stop_prefix_is_released_at_the_end)
{
    struct stream s;
    struct stream_stops stops = {1, {"\xE2\x82\xAC\xE2\x82\xAC"}, {6}};
    stream_init(&s, &stops, false);
    expect_piece(&s, "1 \xE2\x82\xAC", "1 ");
    expect_piece(&s, "\xE2", "");
    expect_end(&s, "\xE2\x82\xAC");
    EXPECT_INT(s.n_held, 0);
}

TEST(a_token_without_text_ends_what_is_held)
{
    struct stream s;
    struct stream_stops stops = {2, {"ab", "b-end"}, {2, 5}};
    char out[64];
    stream_init(&s, &stops, false);
    EXPECT_INT(stream_add(&s, "xa", 2, out), 1);
    EXPECT_INT(stream_break(&s, out), 1); /* "a" can no longer become "ab" */
    EXPECT(out[0] == 'a');
    EXPECT_INT(stream_add(&s, "b", 1, out), 0);
    EXPECT_INT(stream_add(&s, "\xE2\x82", 2, out), 0);
    EXPECT_INT(stream_break(&s, out), 4);
    EXPECT(!memcmp(out, "b\xEF\xBF\xBD", 4));
    EXPECT_INT(stream_break(&s, out), 0);
    EXPECT(!s.stopped);
    stops = (struct stream_stops){2, {"abc", "b"}, {3, 1}};
    EXPECT_INT(stream_add(&s, "ab", 2, out), 0); /* "b" has come, but "abc" starts before it */
    EXPECT_INT(stream_break(&s, out), 1);
    EXPECT(s.stopped && s.stop_index == 1 && out[0] == 'a');
    EXPECT_INT(stream_break(&s, out), 0);
}

TEST(output_stays_within_its_capacity)
{
    /* a full held buffer of stop prefix, then bytes that each become a replacement character */
    static char stop_text[STREAM_STOP_BYTES_MAX], in[300], out[3 * 300 + sizeof(struct stream)];
    struct stream s;
    struct stream_stops stops = {1, {stop_text}, {STREAM_STOP_BYTES_MAX}};
    memset(stop_text, 'a', sizeof stop_text);
    stream_init(&s, &stops, false);
    EXPECT_INT(stream_add(&s, stop_text, sizeof stop_text - 1, out), 0);
    EXPECT_INT(s.n_held, STREAM_STOP_BYTES_MAX - 1);
    memset(in, 0xFF, sizeof in);
    EXPECT_INT(stream_add(&s, in, sizeof in, out), STREAM_STOP_BYTES_MAX - 1 + 3 * sizeof in);
    EXPECT(sizeof in * 3 + sizeof s.held * 3 >= STREAM_STOP_BYTES_MAX - 1 + 3 * sizeof in);
}

TEST_SECONDS(a_megabyte_of_near_misses_takes_linear_time, 20)
{
    static char stop_text[STREAM_STOPS_MAX][STREAM_STOP_BYTES_MAX];
    char out[1024];
    struct stream s;
    struct stream_stops stops = {.n = STREAM_STOPS_MAX};
    for (int i = 0; i < STREAM_STOPS_MAX; i++) {
        memset(stop_text[i], 'a', sizeof stop_text[i]);
        stop_text[i][STREAM_STOP_BYTES_MAX - 1] = (char)('b' + i);
        stops.text[i] = stop_text[i];
        stops.size[i] = STREAM_STOP_BYTES_MAX;
    }
    stream_init(&s, &stops, false);
    size_t n_out = 0;
    for (int i = 0; i < 1000000; i++)
        n_out += stream_add(&s, "a", 1, out);
    n_out += stream_finish(&s, out);
    EXPECT_INT(n_out, 1000000);
}
