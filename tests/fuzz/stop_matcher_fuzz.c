/* stop_matcher: stop strings and text pieces from the input; what comes out piece by piece must be
 * what a search of the whole text gives, and well-formed. Input: number of stop strings, their
 * lengths and bytes, a flag byte, then pieces of text, each behind its length (0..15). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/stream.h"

enum { TEXT_MAX = 4096 };

static void require(int held)
{
    if (!held)
        abort();
}

static size_t find(const struct stream_stops *stops, const char *text, size_t n, int *index)
{
    for (size_t at = 0; at < n; at++)
        for (*index = 0; *index < stops->n; ++*index)
            if (stops->size[*index] <= n - at &&
                !memcmp(text + at, stops->text[*index], stops->size[*index]))
                return at;
    *index = -1;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char plain_text[4 * TEXT_MAX], got[4 * TEXT_MAX];
    struct stream_stops stops = {0};
    const char *in = (const char *)data;
    size_t at = 1;
    if (size < 2 || size > TEXT_MAX)
        return 0;
    for (int i = data[0] % (STREAM_STOPS_MAX + 1); i > 0 && at < size; i--) {
        size_t n = data[at++];
        if (n == 0 || n > size - at || !utf8_valid(in + at, n))
            return 0;
        stops.text[stops.n] = in + at;
        stops.size[stops.n++] = n;
        at += n;
    }
    if (at >= size)
        return 0;
    int include = data[at++] & 1;
    /* the plain stream, without stop strings, gives the well-formed text to search */
    struct stream s, plain;
    size_t n_got = 0, n_plain = 0;
    stream_init(&s, &stops, include);
    stream_init(&plain, NULL, 0);
    while (at < size) {
        size_t n = data[at++] & 15;
        n = n > size - at ? size - at : n;
        n_got += stream_add(&s, in + at, n, got + n_got);
        n_plain += stream_add(&plain, in + at, n, plain_text + n_plain);
        require(s.n_held < sizeof s.held && plain.n_held <= 3);
        require(utf8_valid(got, n_got) && utf8_valid(plain_text, n_plain));
        at += n;
    }
    n_got += stream_finish(&s, got + n_got);
    n_plain += stream_finish(&plain, plain_text + n_plain);
    int index;
    size_t expected = find(&stops, plain_text, n_plain, &index);
    if (include && index >= 0)
        expected += stops.size[index];
    require(n_got == expected && !memcmp(got, plain_text, n_got));
    require(s.stop_index == index && s.stopped == (index >= 0));
    return 0;
}
