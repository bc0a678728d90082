/* chars: letter case, HTML escapes and character classes for the string filters and methods. Pure
 * functions over a render's strings; its thread. Case follows Unicode's simple mappings
 * (case_table.h) with the special ones that Latin and Greek text meets; the classes beyond ASCII
 * are by blocks. */
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/case_table.h"
#include "engine/template/render_internal.h"

static uint32_t map(const struct case_range *table, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) { /* the last range that starts at or before c */
        size_t middle = low + (high - low) / 2;
        if (table[middle].first <= c)
            low = middle + 1;
        else
            high = middle;
    }
    const struct case_range *range = low ? &table[low - 1] : NULL;
    if (!range || c > range->last || (c - range->first) % range->step)
        return c;
    return (uint32_t)((int32_t)c + range->delta);
}

static uint32_t upper(uint32_t c)
{
    if (c < 0x80)
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    return map(case_upper, sizeof case_upper / sizeof *case_upper, c);
}

static uint32_t lower(uint32_t c)
{
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return map(case_lower, sizeof case_lower / sizeof *case_lower, c);
}

static bool is_cased(uint32_t c)
{
    return upper(c) != c || lower(c) != c || c == 0xDF || c == 0xAA || c == 0xBA;
}

/* SpecialCasing.txt: characters whose upper case is several. */
static const char *special_upper(uint32_t c)
{
    static const struct {
        uint32_t code;
        const char *text;
    } table[] = {{0xDF, "SS"},     {0x149, "\u02BCN"}, {0x1F0, "J\u030C"}, {0x587, "\u0535\u0552"},
                 {0xFB00, "FF"},   {0xFB01, "FI"},     {0xFB02, "FL"},     {0xFB03, "FFI"},
                 {0xFB04, "FFL"},  {0xFB05, "ST"},     {0xFB06, "ST"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].code == c)
            return table[i].text;
    return NULL;
}

/* Writes characters in runs of equal trust. */
struct writer {
    struct render *r;
    const struct str *s;
    size_t span; /* of s->trusted: the first that ends after the current byte */
    char text[256];
    size_t n;
    bool trusted;
};

static void flush(struct writer *w)
{
    out_bytes(w->r, w->text, w->n, w->trusted);
    w->n = 0;
}

/* text stands for the character at byte `at` of the source and shares its trust. */
static void put(struct writer *w, size_t at, const char *text, size_t n)
{
    const struct str *s = w->s;
    while (w->span < s->n_trusted && s->trusted[w->span].end <= at)
        w->span++;
    bool trusted = w->span < s->n_trusted && s->trusted[w->span].start <= at;
    if (w->n + n > sizeof w->text || trusted != w->trusted)
        flush(w);
    w->trusted = trusted;
    memcpy(w->text + w->n, text, n);
    w->n += n;
}

static void put_upper(struct writer *w, size_t at, uint32_t c)
{
    char text[4];
    const char *special = c >= 0x80 ? special_upper(c) : NULL;
    if (special)
        put(w, at, special, strlen(special));
    else
        put(w, at, text, (size_t)utf8_encode(upper(c), text));
}

/* A sigma at the end of a word has a form of its own: a cased letter before, none after. */
static bool is_final_sigma(const struct str *s, size_t at)
{
    uint32_t c;
    size_t after = at + 2, before = at;
    if (after < s->n && utf8_decode(s->data + after, s->n - after, &c) > 0 && is_cased(c))
        return false;
    while (before > 0 && ((unsigned char)s->data[--before] & 0xC0) == 0x80)
        continue;
    return before < at && utf8_decode(s->data + before, at - before, &c) > 0 && is_cased(c);
}

static void put_lower(struct writer *w, size_t at, uint32_t c)
{
    char text[4];
    if (c == 0x130)
        put(w, at, "i\u0307", 3);
    else if (c == 0x3A3 && is_final_sigma(w->s, at))
        put(w, at, "\u03C2", 2);
    else
        put(w, at, text, (size_t)utf8_encode(lower(c), text));
}

enum change { TO_UPPER, TO_LOWER, TO_CAPITAL, TO_TITLE, TO_JINJA_TITLE, TO_SWAPPED };

/* |title starts a word after these, str.title after every character that is not a letter. */
static bool starts_word(enum change change, uint32_t before)
{
    if (change == TO_TITLE)
        return !is_cased(before);
    return str_is_space(before) || (before && before < 0x80 && strchr("-({[<", (int)before));
}

static struct str *convert(struct render *r, struct str *s, enum change change)
{
    struct writer w = {.r = r, .s = s};
    size_t mark = out_mark(r);
    uint32_t c, before = ' ';
    if (!render_bytes(r, 8 * s->n))
        return s;
    for (size_t i = 0; i < s->n && !r->failed; before = c) {
        int length = utf8_decode(s->data + i, s->n - i, &c);
        bool up = change == TO_UPPER || (change == TO_CAPITAL && i == 0) ||
                  ((change == TO_TITLE || change == TO_JINJA_TITLE) &&
                   starts_word(change, before)) ||
                  (change == TO_SWAPPED && lower(c) == c && c != 0x130);
        if (change == TO_SWAPPED && lower(c) != c && upper(c) != c) /* a title letter: neither */
            put(&w, i, s->data + i, length > 0 ? (size_t)length : 1);
        else if (up)
            put_upper(&w, i, c);
        else
            put_lower(&w, i, c);
        i += length > 0 ? (size_t)length : 1;
    }
    flush(&w);
    struct str *out = out_cut(r, mark);
    if (s->markup && out->n)
        out->markup = change != TO_JINJA_TITLE;
    return out;
}

struct str *chars_escape(struct render *r, struct str *s)
{
    if (s->markup)
        return s;
    size_t mark = out_mark(r), from = 0;
    for (size_t i = 0; i < s->n && !r->failed; i++) {
        char c = s->data[i];
        const char *name = c == '&'    ? "&amp;"
                           : c == '<'  ? "&lt;"
                           : c == '>'  ? "&gt;"
                           : c == '"'  ? "&#34;"
                           : c == '\'' ? "&#39;"
                                       : NULL;
        if (!name)
            continue;
        if (i > from)
            out_str(r, str_slice(r, s, from, i));
        out_text(r, name, false);
        from = i + 1;
    }
    if (from < s->n)
        out_str(r, from ? str_slice(r, s, from, s->n) : s);
    struct str *out = out_cut(r, mark);
    if (out->n)
        out->markup = true;
    return out;
}

struct str *chars_upper(struct render *r, struct str *s)
{
    return convert(r, s, TO_UPPER);
}

struct str *chars_lower(struct render *r, struct str *s)
{
    return convert(r, s, TO_LOWER);
}

struct str *chars_capitalize(struct render *r, struct str *s)
{
    return convert(r, s, TO_CAPITAL);
}

struct str *chars_title(struct render *r, struct str *s, bool jinja)
{
    return convert(r, s, jinja ? TO_JINJA_TITLE : TO_TITLE);
}

struct str *chars_swapcase(struct render *r, struct str *s)
{
    return convert(r, s, TO_SWAPPED);
}

/* Some cased character, and none of the other case. */
static bool all_case(const struct str *s, bool want_upper)
{
    bool some = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        int length = utf8_decode(s->data + i, s->n - i, &c);
        if (is_cased(c)) {
            bool is_lower = upper(c) != c || (lower(c) == c);
            if (is_lower == want_upper)
                return false;
            some = true;
        }
        i += length > 0 ? (size_t)length : 1;
    }
    return some;
}

bool chars_is_upper(const struct str *s)
{
    return all_case(s, true);
}

bool chars_is_lower(const struct str *s)
{
    return all_case(s, false);
}

struct block {
    uint32_t first, last;
};

static bool in_blocks(const struct block *blocks, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n; i++)
        if (c >= blocks[i].first && c <= blocks[i].last)
            return true;
    return false;
}

bool chars_is_printable(uint32_t c)
{
    static const struct block not[] = {
        {0x7F, 0xA0},     {0xAD, 0xAD},     {0x600, 0x605},   {0x61C, 0x61C},     {0x6DD, 0x6DD},
        {0x70F, 0x70F},   {0x1680, 0x1680}, {0x180E, 0x180E}, {0x2000, 0x200F},   {0x2028, 0x202F},
        {0x205F, 0x206F}, {0x3000, 0x3000}, {0xD800, 0xF8FF}, {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},
        {0xFFFE, 0xFFFF}, {0xE0000, 0xE00FF}, {0xE01F0, 0x10FFFF}};
    return c >= 0x20 && !in_blocks(not, sizeof not / sizeof *not, c);
}

static bool is_digit(uint32_t c)
{
    static const struct block digits[] = {
        {'0', '9'},       {0xB2, 0xB3},     {0xB9, 0xB9},     {0x660, 0x669},   {0x6F0, 0x6F9},
        {0x966, 0x96F},   {0x9E6, 0x9EF},   {0xE50, 0xE59},   {0x2070, 0x2070}, {0x2074, 0x2079},
        {0x2080, 0x2089}, {0xFF10, 0xFF19}};
    return in_blocks(digits, sizeof digits / sizeof *digits, c);
}

static bool is_alpha(uint32_t c)
{
    static const struct block not[] = {
        {0x80, 0xA9},       {0xAB, 0xB4},     {0xB6, 0xB9},     {0xBB, 0xBF},
        {0xD7, 0xD7},       {0xF7, 0xF7},     {0x2C2, 0x2C5},   {0x300, 0x36F},
        {0x2000, 0x2070},   {0x2072, 0x207E}, {0x2080, 0x208F}, {0x20A0, 0x2101},
        {0x2190, 0x2BFF},   {0x3000, 0x3004}, {0x3007, 0x3030}, {0xFE00, 0xFE6F},
        {0xFF00, 0xFF20},   {0xFF3B, 0xFF40}, {0xFF5B, 0xFF65}, {0x1F000, 0x1FAFF}};
    if (c < 0x80)
        return (c | 32) >= 'a' && (c | 32) <= 'z';
    return chars_is_printable(c) && !is_digit(c) && !in_blocks(not, sizeof not / sizeof *not, c);
}

bool chars_is(const struct str *s, const char *class_name)
{
    if (strcmp(class_name, "ascii") == 0) {
        for (size_t i = 0; i < s->n; i++)
            if ((unsigned char)s->data[i] >= 0x80)
                return false;
        return true;
    }
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        int length = utf8_decode(s->data + i, s->n - i, &c);
        bool alpha = is_alpha(c), digit = is_digit(c);
        bool in = strcmp(class_name, "alpha") == 0   ? alpha
                  : strcmp(class_name, "digit") == 0 ? digit
                  : strcmp(class_name, "alnum") == 0 ? alpha || digit
                                                     : str_is_space(c);
        if (!in)
            return false;
        i += length > 0 ? (size_t)length : 1;
    }
    return s->n > 0;
}
