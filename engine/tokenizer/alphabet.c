/* alphabet: GPT-2's byte alphabet. Pure functions; any thread. */
#include "engine/tokenizer/alphabet.h"

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/utf8.h"

/* Bytes that do not print: 0..32, 127..160 and 173, in this order from U+0100 on. */
enum { FIRST = 0x100, N_LOW = 33, N_MIDDLE = 34, SOFT_HYPHEN = 0xAD };

static int byte_of(uint32_t code)
{
    bool prints = (code >= '!' && code <= '~') || (code >= 0xA1 && code <= 0xFF);
    if (prints && code != SOFT_HYPHEN)
        return (int)code;
    if (code < FIRST || code > FIRST + N_LOW + N_MIDDLE)
        return -1;
    int i = (int)code - FIRST;
    return i < N_LOW ? i : i < N_LOW + N_MIDDLE ? i - N_LOW + 127 : SOFT_HYPHEN;
}

int alphabet_decode(const char *text, size_t n, char *out)
{
    int size = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        int used = utf8_decode(text + i, n - i, &code);
        int byte = used > 0 ? byte_of(code) : -1;
        if (byte < 0)
            return -1;
        out[size++] = (char)byte;
        i += (size_t)used;
    }
    return size;
}

int alphabet_encode(unsigned char byte, char out[2])
{
    char wide[4];
    uint32_t code = byte;
    if (byte < N_LOW)
        code = FIRST + (uint32_t)byte;
    else if (byte >= 127 && byte < 127 + N_MIDDLE)
        code = FIRST + N_LOW + (uint32_t)byte - 127;
    else if (byte == SOFT_HYPHEN)
        code = FIRST + N_LOW + N_MIDDLE;
    int n = utf8_encode(code, wide);
    out[0] = wide[0];
    out[1] = wide[1];
    return n;
}
