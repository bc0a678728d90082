/* regex: PCRE2 behind a few functions; the one file that includes pcre2.h. See regex.h for threads.
 *
 * Every published pre-tokenizer pattern runs in linear time on any text. A pattern that backtracks
 * without end runs into MATCH_LIMIT and fails its text, nothing else. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"

enum { MATCH_LIMIT = 50000000, HEAP_LIMIT_KIB = 256 << 10 };

struct regex {
    pcre2_code *code;
    pcre2_match_context *limits; /* only read after open */
    bool jit;
};

struct regex_work {
    pcre2_match_data *match;
};

/* ---- rewriting */

/* Unicode's White_Space, and the word characters of both engines (Unicode Technical Standard 18,
 * annex C: what is Alphabetic, which includes letters in circles and squares, marks, digits and
 * connectors), as the inside of a class. */
static const char SPACES[] = "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}"
                             "\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char WORDS[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
static const char RUST_WORDS[] = "\\x{200C}\\x{200D}";
static const char ONIGURUMA_WORDS[] = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

/* A class escape by its set; NULL, or why it cannot be written there. */
static const char *rewrite_set(char name, bool in_class, enum regex_kind kind, struct buf *out)
{
    bool space = name == 's' || name == 'S', negated = name == 'S' || name == 'W';
    const char *more = kind == REGEX_RUST ? RUST_WORDS : in_class ? "" : ONIGURUMA_WORDS;
    if (in_class && negated)
        return "a negated \\S or \\W inside a class";
    if (space)
        more = "";
    buf_format(out, "%s%s%s%s", in_class ? "" : negated ? "[^" : "[", space ? SPACES : WORDS, more,
               in_class ? "" : "]");
    return NULL;
}

/* pattern[at] is the character after a backslash. *used: characters of the escape after it. */
static const char *rewrite_escape(const char *pattern, size_t n, size_t at, bool in_class,
                                  enum regex_kind kind, struct buf *out)
{
    char name = at < n ? pattern[at] : 0;
    if (name && strchr("sSwW", name))
        return rewrite_set(name, in_class, kind, out);
    if (name && strchr("hHRXKGyYkgCQE", name))
        return "an escape whose meaning differs between engines";
    if (name == 'd' || name == 'D')
        buf_text(out, name == 'd' ? "\\p{Nd}" : "\\P{Nd}");
    else if (name == 'u' && n - at > 4)
        buf_format(out, "\\x{%.4s}", pattern + at + 1);
    else
        buf_format(out, "\\%c", name ? name : ' ');
    return name ? NULL : "a backslash at the end";
}

/* NULL, or what keeps the pattern from being rewritten. */
static const char *rewrite(const char *pattern, size_t n, enum regex_kind kind, struct buf *out)
{
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i];
        const char *wrong = NULL;
        if (c == '\\') {
            wrong = rewrite_escape(pattern, n, ++i, in_class, kind, out);
            i += i < n && pattern[i] == 'u' && n - i > 4 ? 4 : 0;
        } else if (!in_class) {
            buf_byte(out, c);
            in_class = c == '[';
            if (in_class && i + 1 < n && pattern[i + 1] == '^')
                buf_byte(out, pattern[++i]);
            if (in_class && i + 1 < n && pattern[i + 1] == ']') {
                buf_text(out, "\\]");
                i++;
            }
        } else if (c == '[' || (c == '&' && i + 1 < n && pattern[i + 1] == '&')) {
            wrong = "a set inside a class";
        } else {
            buf_byte(out, c);
            in_class = c != ']';
        }
        if (wrong)
            return wrong;
    }
    return NULL;
}

/* ---- open */

static int compile(struct regex *r, const struct buf *pattern, uint32_t options, const char *where,
                   struct err *err)
{
    int number;
    PCRE2_SIZE offset;
    r->code = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->size, options | PCRE2_UTF, &number,
                            &offset, NULL);
    if (!r->code) {
        PCRE2_UCHAR reason[128] = "";
        pcre2_get_error_message(number, reason, sizeof reason);
        return err_set(err, ERR_FORMAT, "%s: the pattern: %s", where, (const char *)reason);
    }
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
    r->limits = pcre2_match_context_create(NULL);
    if (!r->limits)
        return err_set(err, ERR_NOMEM, "%s: out of memory", where);
    pcre2_set_match_limit(r->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(r->limits, HEAP_LIMIT_KIB);
    return 0;
}

static int open_rewritten(const struct buf *pattern, uint32_t options, const char *where,
                          struct regex **out, struct err *err)
{
    struct regex *r = pattern->failed ? NULL : calloc(1, sizeof *r);
    *out = NULL;
    if (!r)
        return err_set(err, ERR_NOMEM, "%s: out of memory", where);
    int code = compile(r, pattern, options, where, err);
    if (code)
        regex_close(r);
    else
        *out = r;
    return code;
}

int regex_open(const char *pattern, size_t n, enum regex_kind kind, const char *where,
               struct regex **out, struct err *err)
{
    /* written without the look-behind, this one is quadratic in a run of white space */
    static const char trailing[] = "\\s+$", guarded[] = "(?<!\\s)\\s++$";
    static const uint32_t options[] = {[REGEX_LITERAL] = PCRE2_LITERAL,
                                       [REGEX_RUST] = PCRE2_DOLLAR_ENDONLY,
                                       [REGEX_ONIGURUMA] = PCRE2_MULTILINE};
    struct buf text;
    const char *wrong = NULL;
    *out = NULL;
    if (n == 0 || n > REGEX_PATTERN_MAX || memchr(pattern, 0, n))
        return err_set(err, ERR_FORMAT, "%s: the pattern is empty or too long", where);
    if (kind != REGEX_LITERAL && n == sizeof trailing - 1 && !memcmp(pattern, trailing, n)) {
        pattern = guarded;
        n = sizeof guarded - 1;
    }
    buf_init(&text, 0);
    if (kind == REGEX_LITERAL)
        buf_add(&text, pattern, n);
    else
        wrong = rewrite(pattern, n, kind, &text);
    uint32_t more = kind == REGEX_LITERAL ? 0 : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int code = wrong
                   ? err_set(err, ERR_FORMAT, "%s: the pattern: %s is not supported", where, wrong)
                   : open_rewritten(&text, options[kind] | more, where, out, err);
    buf_free(&text);
    return code;
}

void regex_close(struct regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    pcre2_match_context_free(r->limits);
    free(r);
}

/* ---- matching */

struct regex_work *regex_work_open(void)
{
    struct regex_work *w = calloc(1, sizeof *w);
    if (w)
        w->match = pcre2_match_data_create(1, NULL);
    if (w && !w->match) {
        free(w);
        w = NULL;
    }
    return w;
}

void regex_work_close(struct regex_work *w)
{
    if (!w)
        return;
    pcre2_match_data_free(w->match);
    free(w);
}

int regex_next(const struct regex *r, struct regex_work *w, const char *text, size_t n, size_t at,
               size_t *start, size_t *end)
{
    uint32_t options = PCRE2_NOTEMPTY;
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (r->jit)
        found = pcre2_jit_match(r->code, (PCRE2_SPTR)text, n, at, options, w->match, r->limits);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        found = pcre2_match(r->code, (PCRE2_SPTR)text, n, at,
                            options | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, r->limits);
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    if (found < 0)
        return ERR_TOO_LARGE;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(w->match);
    *start = span[0];
    *end = span[1];
    return *end > *start ? 1 : 0; /* a look-around with \K could turn them */
}
