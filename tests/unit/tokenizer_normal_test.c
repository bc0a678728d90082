/* The normalizers: Unicode's own conformance file, characters, strips and replacements. */
#include "engine/base/utf8.h"
#include "engine/tokenizer/normal.h"
#include "tests/unit/tokenizer_rig.h"

/* The result of one step, NUL-ended; valid until the next call. */
static const char *run(struct step step, const char *text)
{
    static struct buf work[2];
    struct normalizer m = {.n = 1};
    const struct buf *result = NULL;
    struct regex_work *regex = regex_work_open();
    m.steps[0] = step;
    EXPECT_INT(normal_run(&m, text, strlen(text), true, regex, work, &result), 0);
    regex_work_close(regex);
    return result->size ? result->data : "";
}

/* "0044 0307" as UTF-8. */
static void decode_column(const char *column, char out[256])
{
    size_t n = 0;
    for (const char *at = column; n < 250;) {
        char *end;
        long code = strtol(at, &end, 16);
        if (end == at)
            break;
        n += (size_t)utf8_encode((uint32_t)code, out + n);
        at = end;
    }
    out[n] = 0;
}

/* Each line has five columns: source; NFC; NFD; NFKC; NFKD. The first three have the NFC and NFD of
 * columns 2 and 3, all five the NFKC and NFKD of columns 4 and 5. */
TEST_SECONDS(unicodes_conformance_file_holds, 60)
{
    const char *path = test_data("text/unicode/NormalizationTest.txt.gz");
    size_t size;
    char *file = path ? rig_read(path, &size) : NULL;
    int n = 0, wrong = 0;
    if (!file)
        SKIP("SIROCCO_TEST_DATA lacks text/unicode/NormalizationTest.txt.gz");
    for (char *line = file; line && *line;) {
        char *end = strchr(line, '\n'), columns[5][256];
        int n_columns = 0;
        if (end)
            *end = 0;
        for (char *at = line; *line != '#' && *line != '@' && at && n_columns < 5; n_columns++) {
            char *next = strchr(at, ';');
            if (next)
                *next++ = 0;
            decode_column(at, columns[n_columns]);
            at = next;
        }
        for (int i = 0; i < 5 && n_columns == 5; i++) {
            n++;
            wrong += strcmp(run((struct step){.kind = STEP_NFKC}, columns[i]), columns[3]) != 0;
            wrong += strcmp(run((struct step){.kind = STEP_NFKD}, columns[i]), columns[4]) != 0;
            if (i < 3) {
                wrong += strcmp(run((struct step){.kind = STEP_NFC}, columns[i]), columns[1]) != 0;
                wrong += strcmp(run((struct step){.kind = STEP_NFD}, columns[i]), columns[2]) != 0;
            }
        }
        line = end ? end + 1 : NULL;
    }
    EXPECT(n > 80000);
    EXPECT_INT(wrong, 0);
    free(file);
}

TEST(steps_do_what_they_say)
{
    EXPECT_STR(run((struct step){.kind = STEP_PREPEND, .to = "x"}, "ab"), "xab");
    EXPECT_STR(run((struct step){.kind = STEP_PREPEND, .to = "x"}, ""), "");
    EXPECT_STR(run((struct step){.kind = STEP_REPLACE, .from = "aa", .to = "b"}, "aaaxa"), "baxa");
    EXPECT_STR(run((struct step){.kind = STEP_REPLACE, .from = "a"}, "aba"), "b");
    EXPECT_STR(run((struct step){.kind = STEP_LOWERCASE}, "A\xC3\x84 \xCE\xA3"),
               "a\xC3\xA4 \xCF\x83");
    EXPECT_STR(run((struct step){.kind = STEP_LOWERCASE}, "\xC4\xB0"), "i\xCC\x87");
    EXPECT_STR(run((struct step){.kind = STEP_STRIP_ACCENTS}, "e\xCC\x81x"), "ex");
    EXPECT_STR(run((struct step){.kind = STEP_STRIP, .left = true}, " \xE3\x80\x80 a "), "a ");
    EXPECT_STR(run((struct step){.kind = STEP_STRIP, .right = true}, " a\xC2\xA0\n"), " a");
    EXPECT_STR(run((struct step){.kind = STEP_STRIP, .left = true, .right = true}, " \t "), "");
}

/* Only what is beside characters other than ASCII is looked at: the ASCII character before counts.
 */
TEST(forms_look_across_ascii_neighbours)
{
    EXPECT_STR(run((struct step){.kind = STEP_NFC}, "abe\xCC\x81"), "ab\xC3\xA9");
    EXPECT_STR(run((struct step){.kind = STEP_NFC}, "e\xCC\x81x e\xCC\x81"), "\xC3\xA9x \xC3\xA9");
    EXPECT_STR(run((struct step){.kind = STEP_NFC}, "\xC3\xA9"
                                                    "e\xCC\x81"
                                                    "e"),
               "\xC3\xA9\xC3\xA9"
               "e");
    EXPECT_STR(run((struct step){.kind = STEP_NFD}, "x\xC3\xA9y"), "xe\xCC\x81y");
    EXPECT_STR(run((struct step){.kind = STEP_NFKC}, "a\xEF\xAC\x81z"), "afiz");
    EXPECT_STR(run((struct step){.kind = STEP_NFC}, "plain"), "plain");
    EXPECT_STR(run((struct step){.kind = STEP_NFC}, ""), "");
}

/* U+11A7 stands right before the final consonants of Hangul and is none. */
TEST(hangul_composes_and_u11a7_does_not)
{
    static const enum step_kind kinds[] = {STEP_NFC, STEP_NFKC};
    for (int i = 0; i < 2; i++) {
        struct step step = {.kind = kinds[i]};
        EXPECT_STR(run(step, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8"), "\xEA\xB0\x81");
        EXPECT_STR(run(step, "\xEA\xB0\x80\xE1\x86\xA8"), "\xEA\xB0\x81");
        EXPECT_STR(run(step, "\xEA\xB0\x80\xE1\x86\xA7"), "\xEA\xB0\x80\xE1\x86\xA7");
        EXPECT_STR(run(step, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA7\xCC\x81"),
                   "\xEA\xB0\x80\xE1\x86\xA7\xCC\x81");
    }
}

/* A letter under n accents, above (class 230) and below (220) in turn: those below go first. */
static double seconds_of_marks(int n)
{
    char *text = malloc((size_t)n * 4 + 2);
    EXPECT(text != NULL);
    text[0] = 'e';
    for (int i = 0; i < n; i++)
        memcpy(text + 1 + 4 * i, "\xCC\x81\xCC\x96", 4);
    text[1 + 4 * n] = 0;
    double best = 1e9;
    for (int k = 0; k < 3; k++) {
        clock_t start = clock();
        const char *made = run((struct step){.kind = STEP_NFC}, text);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        best = seconds < best ? seconds : best;
        /* e and the first accent above make one character, which the ones below do not block */
        EXPECT_INT(strlen(made), 4 * n);
        EXPECT(!strncmp(made, "\xC3\xA9\xCC\x96\xCC\x96", 6));
        EXPECT_STR(made + 4 * n - 2, "\xCC\x81");
    }
    free(text);
    return best;
}

/* 1 MiB in quadratic time takes minutes. */
TEST_SECONDS(marks_are_sorted_in_linear_time, 60)
{
    double small = seconds_of_marks(1 << 15), large = seconds_of_marks(1 << 18);
    EXPECT(large <= 24 * small + 2);
}

TEST(spaces_and_word_characters)
{
    EXPECT_INT(normal_space_at(" x", 2), 1);
    EXPECT_INT(normal_space_at("\xE3\x80\x80", 3), 3);
    EXPECT_INT(normal_space_at("\xE2\x80\x8B", 3), 0); /* U+200B is none */
    EXPECT_INT(normal_space_at("\xE1\xA0\x8E", 3), 0); /* nor is U+180E any more */
    EXPECT_INT(normal_space_at("", 0), 0);
    EXPECT(normal_word_at("a", 1) && normal_word_at("_", 1) && normal_word_at("7", 1));
    EXPECT(normal_word_at("\xC3\xA9", 2) && normal_word_at("\xCC\x81", 2));
    EXPECT(normal_word_at("\xE2\x92\xB6", 3) && normal_word_at("\xE2\x80\x8D", 3));
    EXPECT(!normal_word_at("\xE2\x92\xB5", 3) && !normal_word_at("\xE2\x80\x8E", 3));
    EXPECT(!normal_word_at("-", 1) && !normal_word_at("", 0) && !normal_word_at("\xFF", 1));
    EXPECT(normal_word_before("x\xC3\xA9", 3) && !normal_word_before("x ", 2));
    EXPECT(!normal_word_before("", 0));
}
