/* lex: cuts template source into tokens on demand.
 *
 * Owns: struct lexer, which lives inside one parser on one thread. State: TEXT until a delimiter,
 * then PRINT or BLOCK until its closing delimiter outside of all brackets, then TEXT again.
 * Comments and raw blocks never leave TEXT. Invariant: pos only moves forward. */
#include "engine/template/lex.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/value.h"

static const char *const kind_texts[TOKEN_COUNT] = {
#define TOKEN_TEXT_ROW(name, text) text,
    TOKEN_LIST(TOKEN_TEXT_ROW)
#undef TOKEN_TEXT_ROW
};

const char *lex_kind_text(enum token_kind kind)
{
    return kind_texts[kind];
}

void lex_place(const char *source, size_t at, size_t *line, size_t *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        if (source[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)source[i] & 0xC0) != 0x80) {
            ++*column;
        }
    }
}

static int fail(const struct lexer *l, size_t at, struct err *err, const char *what)
{
    size_t line, column;
    lex_place(l->source, at, &line, &column);
    return err_set(err, ERR_FORMAT, "line %zu, column %zu: %s", line, column, what);
}

static bool starts(const struct lexer *l, size_t pos, const char *text)
{
    size_t n = strlen(text);
    return l->n - pos >= n && memcmp(l->source + pos, text, n) == 0;
}

static size_t skip_space(const struct lexer *l, size_t pos)
{
    return pos + str_skip_space(l->source + pos, l->n - pos);
}

/* After a closing delimiter: "-" takes all white space, trim_blocks one newline. */
static size_t after_close(const struct lexer *l, size_t pos, char sign, bool trim_newline)
{
    if (sign == '-')
        return skip_space(l, pos);
    if (trim_newline && sign != '+' && pos < l->n && l->source[pos] == '\n')
        return pos + 1;
    return pos;
}

/* Where the text [start, delimiter) ends after the delimiter's sign and lstrip_blocks. */
static size_t text_end(const struct lexer *l, size_t start, size_t delimiter, char sign,
                       bool is_print)
{
    const char *text = l->source + start;
    size_t n = delimiter - start;
    if (sign == '-')
        return start + str_trim_space(text, n);
    if (sign == '+' || is_print)
        return delimiter;
    size_t line = n;
    while (line > 0 && text[line - 1] != '\n')
        line--;
    if (line == 0 && start > 0 && l->source[start - 1] != '\n')
        return delimiter;
    return str_skip_space(text + line, n - line) == n - line ? start + line : delimiter;
}

static char sign_at(const struct lexer *l, size_t pos)
{
    return pos < l->n && (l->source[pos] == '-' || l->source[pos] == '+') ? l->source[pos] : 0;
}

/* {% name %} at pos, whose tag may be signed at either end. Returns the offset after it (before any
 * trimming) with the sign of its end, or 0 when something else is there. */
static size_t match_tag(const struct lexer *l, size_t pos, const char *name, bool plus_end,
                        char *end_sign)
{
    if (!starts(l, pos, "{%"))
        return 0;
    pos += 2;
    if (sign_at(l, pos))
        pos++;
    pos = skip_space(l, pos);
    if (!starts(l, pos, name))
        return 0;
    pos = skip_space(l, pos + strlen(name));
    *end_sign = sign_at(l, pos);
    if (*end_sign == '+' && !plus_end)
        return 0;
    if (*end_sign)
        pos++;
    return starts(l, pos, "%}") ? pos + 2 : 0;
}

static void text_token(struct lexer *l, struct token *t, size_t start, size_t end)
{
    *t = (struct token){.kind = TOKEN_TEXT, .at = (uint32_t)start, .text = l->source + start,
                        .n = end - start};
}

/* {% raw %} was at `open`, its text starts at pos. */
static int lex_raw(struct lexer *l, size_t open, size_t start, struct token *t, struct err *err)
{
    for (size_t p = start; p < l->n; p++) {
        const char *brace = memchr(l->source + p, '{', l->n - p);
        if (!brace)
            break;
        p = (size_t)(brace - l->source);
        char end_sign;
        size_t after = match_tag(l, p, "endraw", true, &end_sign);
        if (!after)
            continue;
        text_token(l, t, start, text_end(l, start, p, sign_at(l, p + 2), false));
        l->pos = after_close(l, after, end_sign, true);
        return 0;
    }
    return fail(l, open, err, "missing end of raw block");
}

static int lex_comment(struct lexer *l, struct err *err)
{
    size_t start = l->pos + 2 + (sign_at(l, l->pos + 2) != 0);
    const char *close = start < l->n ? memmem(l->source + start, l->n - start, "#}", 2) : NULL;
    if (!close)
        return fail(l, l->pos, err, "missing end of comment tag");
    size_t p = (size_t)(close - l->source);
    char sign = p > start ? sign_at(l, p - 1) : 0;
    l->pos = after_close(l, p + 2, sign, true);
    return 0;
}

/* In TEXT mode: the next piece of text or the next opening delimiter; comments are passed over. */
static int lex_text(struct lexer *l, struct token *t, struct err *err)
{
    for (;;) {
        size_t start = l->pos, p = start;
        while (p < l->n && !(l->source[p] == '{' && p + 1 < l->n && strchr("{%#", l->source[p + 1])
                             && l->source[p + 1])) {
            const char *brace = memchr(l->source + p + 1, '{', l->n - p - 1);
            p = brace ? (size_t)(brace - l->source) : l->n;
        }
        bool is_print = p < l->n && l->source[p + 1] == '{';
        if (!l->text_done) {
            char sign = p < l->n ? sign_at(l, p + 2) : 0;
            size_t end = p < l->n ? text_end(l, start, p, sign, is_print) : p;
            text_token(l, t, start, end);
            l->pos = p;
            l->text_done = true;
            if (end > start)
                return 0;
        }
        l->text_done = false;
        if (p == l->n) {
            *t = (struct token){.kind = TOKEN_END, .at = (uint32_t)p};
            return 0;
        }
        if (l->source[p + 1] == '#') {
            int rc = lex_comment(l, err);
            if (rc)
                return rc;
            continue;
        }
        char end_sign;
        size_t raw = is_print ? 0 : match_tag(l, p, "raw", false, &end_sign);
        if (raw) {
            int rc = lex_raw(l, p, after_close(l, raw, end_sign, false), t, err);
            if (rc || t->n > 0)
                return rc;
            continue;
        }
        *t = (struct token){.kind = is_print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN,
                            .at = (uint32_t)p};
        l->mode = is_print ? LEX_PRINT : LEX_BLOCK;
        l->n_brackets = 0;
        l->pos = p + 2 + (sign_at(l, p + 2) != 0);
        return 0;
    }
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= '0' && c <= '9') ||
           (unsigned char)c >= 0x80;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

/* Digits of `base` with single underscores between them; returns the offset after them. */
static size_t digits(const struct lexer *l, size_t pos, int base)
{
    while (pos < l->n) {
        size_t p = pos;
        if (l->source[p] == '_' && p + 1 < l->n)
            p++;
        if (digit_of(l->source[p]) >= base)
            break;
        pos = p + 1;
    }
    return pos;
}

static int integer(const struct lexer *l, struct token *t, size_t pos, size_t end, int base,
                   struct err *err)
{
    uint64_t value = 0;
    for (size_t p = pos; p < end; p++) {
        if (l->source[p] == '_')
            continue;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit_of(l->source[p]), &value) ||
            value > INT64_MAX)
            return fail(l, t->at, err, "integer literal is too large");
    }
    t->kind = TOKEN_INT;
    t->i = (int64_t)value;
    return 0;
}

static int lex_float(struct lexer *l, struct token *t, size_t end, struct err *err)
{
    char text[400];
    size_t n = 0;
    for (size_t p = t->at; p < end; p++) {
        if (l->source[p] == '_')
            continue;
        if (n + 1 >= sizeof text)
            return fail(l, t->at, err, "float literal is too long");
        text[n++] = l->source[p];
    }
    text[n] = 0;
    t->kind = TOKEN_FLOAT;
    t->f = strtod(text, NULL);
    l->pos = end;
    return 0;
}

static int lex_number(struct lexer *l, struct token *t, struct err *err)
{
    const char *s = l->source;
    size_t p = l->pos;
    if (s[p] == '0' && p + 1 < l->n && strchr("xXoObB", s[p + 1]) && s[p + 1]) {
        int base = (s[p + 1] | 32) == 'x' ? 16 : (s[p + 1] | 32) == 'o' ? 8 : 2;
        size_t end = digits(l, p + 2, base);
        if (end > p + 2) {
            l->pos = end;
            return integer(l, t, p + 2, end, base, err);
        }
    }
    size_t end = digits(l, p, 10), whole = end;
    bool after_dot = p > 0 && s[p - 1] == '.';
    if (!after_dot && end + 1 < l->n && s[end] == '.' && digit_of(s[end + 1]) < 10)
        end = digits(l, end + 1, 10);
    if (!after_dot && end < l->n && (s[end] | 32) == 'e') {
        size_t e = end + 1;
        if (e < l->n && (s[e] == '+' || s[e] == '-'))
            e++;
        if (e < l->n && digit_of(s[e]) < 10)
            end = digits(l, e, 10);
    }
    if (end > whole)
        return lex_float(l, t, end, err);
    if (s[p] == '0') /* 0 and 00 are integers, of 012 only the 0 is */
        for (whole = p + 1; whole < l->n && (s[whole] == '0' || (s[whole] == '_' &&
             whole + 1 < l->n && s[whole + 1] == '0')); whole++)
            continue;
    l->pos = whole;
    return integer(l, t, p, whole, 10, err);
}

/* One escape after the backslash at p - 1; returns the offset after it, or 0 when it is broken. */
static size_t escape(const char *s, size_t p, size_t end, char *out, size_t *n)
{
    static const char letters[] = "abfnrtv\\'\"", meant[] = "\a\b\f\n\r\t\v\\'\"";
    char c = s[p];
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        out[(*n)++] = meant[letter - letters];
        return p + 1;
    }
    if (c == '\n')
        return p + 1;
    uint32_t code = 0;
    size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (width) {
        if (end - p - 1 < width)
            return 0;
        for (size_t i = 0; i < width; i++) {
            int d = digit_of(s[p + 1 + i]);
            if (d > 15 || code > 0x10FFFF)
                return 0;
            code = code * 16 + (uint32_t)d;
        }
        p += 1 + width;
    } else if (c >= '0' && c <= '7') {
        for (size_t i = 0; i < 3 && p < end && s[p] >= '0' && s[p] <= '7'; i++)
            code = code * 8 + (uint32_t)(s[p++] - '0');
    } else { /* no escape: the backslash stays */
        out[(*n)++] = '\\';
        out[(*n)++] = c;
        return p + 1;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0;
    *n += (size_t)utf8_encode(code, out + *n);
    return p;
}

static int lex_string(struct lexer *l, struct token *t, struct err *err)
{
    const char *s = l->source;
    char quote = s[l->pos];
    size_t start = l->pos + 1, end = start;
    bool escapes = false;
    while (end < l->n && s[end] != quote) {
        if (s[end] == '\\') {
            escapes = true;
            end++;
        }
        end++;
    }
    if (end >= l->n)
        return fail(l, l->pos, err, "unterminated string");
    t->kind = TOKEN_STRING;
    t->text = s + start;
    t->n = end - start;
    l->pos = end + 1;
    if (!escapes)
        return 0;
    char *out = arena_alloc(l->arena, end - start + 1); /* no escape grows */
    if (!out)
        return err_set(err, ERR_NOMEM, "the template needs too much memory");
    size_t n = 0;
    for (size_t p = start; p < end;) {
        if (s[p] != '\\') {
            out[n++] = s[p++];
            continue;
        }
        size_t after = escape(s, p + 1, end, out, &n);
        if (!after)
            return fail(l, p, err, "invalid escape in a string");
        p = after;
    }
    t->text = out;
    t->n = n;
    return 0;
}

static enum token_kind operator_at(const struct lexer *l, size_t *length)
{
    static const enum token_kind two[] = {TOKEN_FLOORDIV, TOKEN_POW, TOKEN_EQ, TOKEN_NE, TOKEN_LE,
                                          TOKEN_GE};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (starts(l, l->pos, kind_texts[two[i]])) {
            *length = 2;
            return two[i];
        }
    *length = 1;
    for (int kind = TOKEN_ADD; kind < TOKEN_COUNT; kind++)
        if (kind != TOKEN_IN && kind != TOKEN_NOT_IN && l->source[l->pos] == kind_texts[kind][0] &&
            !kind_texts[kind][1])
            return (enum token_kind)kind;
    return TOKEN_END;
}

static int lex_operator(struct lexer *l, struct token *t, struct err *err)
{
    size_t length;
    t->kind = operator_at(l, &length);
    char c = l->source[l->pos];
    if (t->kind == TOKEN_END)
        return fail(l, l->pos, err, "unexpected character");
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_brackets == LEX_BRACKETS_MAX)
            return fail(l, l->pos, err, "brackets are nested too deeply");
        l->brackets[l->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->n_brackets == 0 || l->brackets[l->n_brackets - 1] != c)
            return fail(l, l->pos, err, "unexpected closing bracket");
        l->n_brackets--;
    }
    l->pos += length;
    return 0;
}

/* The closing delimiter of the open tag, if it stands at pos. */
static bool lex_close(struct lexer *l, struct token *t)
{
    bool print = l->mode == LEX_PRINT;
    if (l->n_brackets > 0)
        return false;
    char sign = sign_at(l, l->pos);
    if (print && sign == '+')
        return false;
    size_t p = l->pos + (sign != 0);
    if (!starts(l, p, print ? "}}" : "%}"))
        return false;
    t->kind = print ? TOKEN_PRINT_END : TOKEN_BLOCK_END;
    l->pos = after_close(l, p + 2, sign, !print);
    l->mode = LEX_TEXT;
    l->text_done = false;
    return true;
}

void lex_init(struct lexer *l, const char *source, size_t n, struct arena *arena)
{
    *l = (struct lexer){.source = source, .n = n, .arena = arena};
}

int lex_next(struct lexer *l, struct token *token, struct err *err)
{
    if (l->mode == LEX_TEXT)
        return lex_text(l, token, err);
    l->pos = skip_space(l, l->pos);
    *token = (struct token){.at = (uint32_t)l->pos};
    if (l->pos == l->n)
        return fail(l, l->pos, err, "the template ends inside a tag");
    if (lex_close(l, token))
        return 0;
    char c = l->source[l->pos];
    if (c >= '0' && c <= '9')
        return lex_number(l, token, err);
    if (is_word(c)) {
        size_t end = l->pos;
        while (end < l->n && is_word(l->source[end]))
            end++;
        token->kind = TOKEN_NAME;
        token->text = l->source + l->pos;
        token->n = end - l->pos;
        l->pos = end;
        return 0;
    }
    if (c == '\'' || c == '"')
        return lex_string(l, token, err);
    return lex_operator(l, token, err);
}
