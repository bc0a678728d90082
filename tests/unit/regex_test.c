/* regex_test: patterns mean what they mean in the engines that tokenizer files are written for. */
#include "engine/tokenizer/regex.h"

#include <stdio.h>
#include <string.h>

#include "tests/test.h"

/* The first match of pattern in text as "start-end"; "none", or "refused". */
static const char *found(enum regex_kind kind, const char *pattern, const char *text)
{
    static char out[64];
    struct regex *r;
    struct err err;
    size_t start, end;
    if (regex_open(pattern, strlen(pattern), kind, "p", &r, &err))
        return "refused";
    struct regex_work *w = regex_work_open();
    EXPECT(w != NULL);
    int code = regex_next(r, w, text, strlen(text), 0, &start, &end);
    EXPECT(code >= 0);
    snprintf(out, sizeof out, "none");
    if (code > 0)
        snprintf(out, sizeof out, "%zu-%zu", start, end);
    regex_work_close(w);
    regex_close(r);
    return out;
}

TEST(word_characters_are_those_of_each_engine)
{
    static const char circle[] = "-\xE2\x92\xB6-", joiner[] = "-\xE2\x80\x8D-",
                      half[] = "-\xC2\xBD-";
    EXPECT_STR(found(REGEX_RUST, "\\w", circle), "1-4");
    EXPECT_STR(found(REGEX_ONIGURUMA, "\\w", circle), "1-4");
    EXPECT_STR(found(REGEX_ONIGURUMA, "[^\\w-]", circle), "none");
    EXPECT_STR(found(REGEX_RUST, "\\w", joiner), "1-4");
    EXPECT_STR(found(REGEX_ONIGURUMA, "\\w", joiner), "none");
    EXPECT_STR(found(REGEX_RUST, "\\w", half), "none");
    EXPECT_STR(found(REGEX_ONIGURUMA, "\\w", half), "1-3");
    EXPECT_STR(found(REGEX_ONIGURUMA, "[\\w]", half), "none"); /* not in a class */
    EXPECT_STR(found(REGEX_RUST, "\\W+", "a_1\xC3\xA9 .b"), "5-7");
}

TEST(spaces_and_digits_are_unicodes)
{
    EXPECT_STR(found(REGEX_RUST, "\\s+", "a\xC2\x85\xE3\x80\x80z"), "1-6");
    EXPECT_STR(found(REGEX_RUST, "\\s", "\xE2\x80\x8B\xE1\xA0\x8E"), "none");
    EXPECT_STR(found(REGEX_RUST, "\\S", "\t\xC2\xA0x"), "3-4");
    EXPECT_STR(found(REGEX_RUST, "\\d", "\xC2\xB2\xD9\xA3"), "2-4");
    EXPECT_STR(found(REGEX_RUST, "[^\\d\\s]", "1 \xC2\xB2"), "2-4");
    EXPECT_STR(found(REGEX_RUST, "\\D", "1x"), "1-2");
}

TEST(lines_and_literals)
{
    EXPECT_STR(found(REGEX_ONIGURUMA, "^b", "a\nb"), "2-3");
    EXPECT_STR(found(REGEX_RUST, "^b", "a\nb"), "none");
    EXPECT_STR(found(REGEX_ONIGURUMA, "a$", "a\nb"), "0-1");
    EXPECT_STR(found(REGEX_RUST, "b$", "ab\n"), "none");
    EXPECT_STR(found(REGEX_RUST, "\\s+$", "a b  "), "3-5");
    EXPECT_STR(found(REGEX_LITERAL, "\\w+", "a\\w+"), "1-4");
    EXPECT_STR(found(REGEX_LITERAL, "a", "b"), "none");
    EXPECT_STR(found(REGEX_RUST, "x*", "aax"), "2-3"); /* never an empty match */
}

TEST(what_engines_read_differently_is_refused)
{
    static const char *const patterns[] = {"\\h",   "\\R", "\\X",     "\\G",    "\\Qa\\E", "[\\S]",
                                           "[\\W]", "a\\", "[a[bc]]", "[a&&b]", "(",       ""};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        EXPECT_STR(found(REGEX_ONIGURUMA, patterns[i], "a"), "refused");
}
