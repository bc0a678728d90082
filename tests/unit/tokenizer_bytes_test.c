/* The byte-level kinds on small files written here: tekken.json and tokenizer.json with ByteLevel,
 * what each part does, and every rule of the readers against a file that breaks it. */
#include "engine/tokenizer/alphabet.h"
#include "engine/tokenizer/vocab.h"
#include "tests/unit/tokenizer_rig.h"

/* ---- the byte alphabet */

TEST(the_byte_alphabet_is_one_to_one)
{
    char text[2], back[2];
    for (int byte = 0; byte < 256; byte++) {
        int n = alphabet_encode((unsigned char)byte, text);
        EXPECT(n >= 1 && n <= 2);
        EXPECT_INT(alphabet_decode(text, (size_t)n, back), 1);
        EXPECT_INT((unsigned char)back[0], byte);
    }
    EXPECT_INT(alphabet_encode(' ', text), 2);
    EXPECT(!memcmp(text, "\xC4\xA0", 2)); /* U+0120 */
    EXPECT_INT(alphabet_encode(0xAD, text), 2);
    EXPECT(!memcmp(text, "\xC5\x83", 2)); /* U+0143, the last one */
    EXPECT_INT(alphabet_decode(" ", 1, back), -1);
    EXPECT_INT(alphabet_decode("\xC5\x84", 2, back), -1);
    EXPECT_INT(alphabet_decode("\xE2\x96\x81", 3, back), -1);
    EXPECT_INT(alphabet_decode("\xC4", 1, back), -1);
    EXPECT_INT(alphabet_decode("\xC2\xAD", 2, back), -1);
}

/* ---- tekken.json */

/* 256 bytes and the tokens "ab", "abc", "bc", " a", "  " after 10 special ones; "bc" comes after
 * "ab" and before "abc". */
static struct buf tekken(void)
{
    static const char *const more[] = {"YWI=", "YmM=", "YWJj", "IGE=", "ICA=", "PHM+"};
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buf b;
    buf_init(&b, 0);
    buf_text(&b,
             "{\"config\": {\"pattern\": \" ?\\\\p{L}+|\\\\p{N}|\\\\s+|[^\\\\s\\\\p{L}\\\\p{N}]+\","
             " \"num_vocab_tokens\": 262, \"default_vocab_size\": 272,"
             " \"default_num_special_tokens\": 10, \"version\": \"v7\"}, \"special_tokens\": ["
             "{\"rank\": 0, \"token_str\": \"<unk>\", \"is_control\": true},"
             "{\"rank\": 1, \"token_str\": \"<s>\", \"is_control\": true},"
             "{\"rank\": 2, \"token_str\": \"</s>\", \"is_control\": true},"
             "{\"rank\": 5, \"token_str\": \"[INST]\", \"is_control\": true}], \"vocab\": [");
    for (int i = 0; i < 262; i++) {
        char one[5] = {digits[i >> 2 & 63], digits[i << 4 & 63], '=', '=', 0};
        buf_format(&b, "%s{\"rank\": %d, \"token_bytes\": \"%s\"}", i ? ", " : "", i,
                   i < 256 ? one : more[i - 256]);
    }
    buf_text(&b, "]}");
    return b;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t n, bool trusted,
                       const char *ids)
{
    char got[256] = "";
    struct token_list list = rig_encode(t, text, n, false, trusted);
    for (size_t i = 0, at = 0; i < list.n && at < sizeof got; i++)
        at += (size_t)snprintf(got + at, sizeof got - at, "%s%d", i ? " " : "", list.ids[i]);
    EXPECT_STR(got, ids);
    token_list_free(&list);
}

TEST(a_small_tekken_file_encodes)
{
    struct buf text = tekken();
    struct source_file file = {"tekken.json", (const uint8_t *)text.data, text.size};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    EXPECT_INT(tokenizer_n_tokens(t), 272);
    EXPECT_INT(tokenizer_mistral_version(t), 7);
    expect_ids(t, "abc", 3, false, "268");      /* whole, though b c would merge first */
    expect_ids(t, "abcx", 4, false, "268 130"); /* a b first, then ab c */
    expect_ids(t, "xbc", 3, false, "130 267");
    expect_ids(t, "x a", 3, false, "130 269");
    expect_ids(t, "   x", 4, false, "270 42 130"); /* all three spaces are one word */
    expect_ids(t, "12", 2, false, "59 60");
    expect_ids(t,
               "\xFF"
               "ab\xC3",
               4, false, "265 266 205");
    expect_ids(t, "<s>[INST]", 9, true, "1 5");
    expect_ids(t, "<s>", 3, false, "70 125 72"); /* "<", "s", ">": the pattern cuts them */
    EXPECT_INT(tokenizer_find(t, "<s>", 3), 1);  /* not 271, whose bytes are the same */
    EXPECT_INT(tokenizer_find(t, "<SPECIAL_9>", 11), 9);
    EXPECT_INT(tokenizer_bos(t), 1);
    EXPECT_INT(tokenizer_eos(t), 2);
    size_t size;
    EXPECT(!memcmp(tokenizer_piece(t, 271, false, &size), "<s>", 3) && size == 3);
    EXPECT(!tokenizer_is_special(t, 271) && tokenizer_is_special(t, 1));
    EXPECT(rig_round_trip(t, "a\0b\xFF", 4));
    tokenizer_close(t);
    buf_free(&text);
}

TEST(every_rule_of_the_tekken_reader_refuses_what_breaks_it)
{
    static const struct broken rows[] = {
        {NULL, "{", "tekken.json: line 1"},
        {NULL, "{}", "tekken.json: config.version '(none)' is not supported"},
        {"\"v7\"", "\"v8\"", "config.version 'v8' is not supported"},
        {"\"v7\"", "7", "config.version '(none)' is not supported"},
        {"\"pattern\"", "\"patter\"", "config.pattern is missing or malformed"},
        {" ?\\\\p{L}+|", "(", "config.pattern: the pattern: missing closing parenthesis"},
        {" ?\\\\p{L}+|", "\\\\h", "config.pattern: the pattern: an escape whose meaning differs"},
        {" ?\\\\p{L}+|", "[a&&b]", "config.pattern: the pattern: a set inside a class"},
        {" ?\\\\p{L}+|", "[\\\\S]", "a negated \\S or \\W inside a class"},
        {"\"default_vocab_size\": 272", "\"default_vocab_size\": \"272\"",
         "config.default_vocab_size is no integer from 1"},
        {"\"default_vocab_size\": 272", "\"default_vocab_size\": 99999999",
         "config.default_vocab_size is no integer from 1 to 16777216"},
        {"\"default_vocab_size\": 272", "\"default_vocab_size\": 273",
         "vocab has 262 entries, config.default_vocab_size asks for 263"},
        {"\"default_vocab_size\": 272", "\"default_vocab_size\": 200",
         "asks for 190, at least 256"},
        {"\"default_num_special_tokens\": 10", "\"default_num_special_tokens\": 272",
         "config.default_num_special_tokens is no integer from 0 to 271"},
        {"\"default_num_special_tokens\": 10", "\"default_num_special_tokens\": 5",
         "special_tokens: rank 5 of '[INST]' is not below"},
        {"\"v7\"}, \"special_tokens\"", "\"v11\"}, \"specials\"", "special_tokens is missing"},
        {"\"special_tokens\": [", "\"special_tokens\": 5, \"x\": [",
         "special_tokens is not an array"},
        {"\"rank\": 5,", "", "special_tokens[3]: rank or token_str is missing or malformed"},
        {"\"rank\": 5,", "\"rank\": -1,", "special_tokens: rank -1 of '[INST]'"},
        {"\"rank\": 5,", "\"rank\": 1,", "special_tokens: id 1 is given to '<s>' and to '[INST]'"},
        {"\"[INST]\"", "\"<s>\"", "special_tokens: '<s>' is the text of ids 1 and 5"},
        {"\"[INST]\"", "\"<SPECIAL_9>\"", "'<SPECIAL_9>' is the text of ids 5 and 9"},
        {"\"vocab\": [", "\"vocab\": 1, \"x\": [", "vocab has 0 entries"},
        {"{\"rank\": 257,", "{\"rank\": 258,", "vocab[257]: rank is not 257"},
        {"\"YWI=\"", "\"YWI\"",
         "vocab[256]: rank is not 256, or token_bytes is missing or malformed"},
        {"\"YWI=\"", "\"YW=I\"", "vocab[256]"},
        {"\"YWI=\"", "\"Y!I=\"", "vocab[256]"},
        {"\"YWI=\"", "\"\"", "vocab[256]"},
        {"\"YWI=\"", "\"YmM=\"", "is the text of ids 266 and 267"},
        {"\"AA==\"", "\"AQ==\"", "vocab[0]: token_bytes is not the byte 0"},
    };
    struct buf text = tekken();
    rig_expect_refused("tekken.json", text.data, rows, sizeof rows / sizeof rows[0]);
    buf_free(&text);
}

TEST(a_tekken_file_must_fit_the_models_vocabulary)
{
    struct buf text = tekken();
    struct source_file file = {"tekken.json", (const uint8_t *)text.data, text.size};
    struct err err = {0};
    EXPECT(rig_open_memory(&file, 1, 271, &err) == NULL);
    EXPECT(strstr(err.text, "config.default_vocab_size 272 is above vocab_size 271") != NULL);
    struct tokenizer *t = rig_open_memory(&file, 1, 300, &err);
    EXPECT(t != NULL);
    EXPECT_INT(tokenizer_n_tokens(t), 272);
    tokenizer_close(t);
    buf_free(&text);
}

/* ---- tokenizer.json */

/* Bytes a, b, c, space, "1", newline, and the merges ab, abc, " a"; `%s` stands for the parts. */
static struct tokenizer *open_json(const char *normalizer, const char *pre, const char *more,
                                   struct err *err)
{
    struct buf text;
    buf_init(&text, 0);
    buf_format(
        &text,
        "{\"added_tokens\": [{\"id\": 12, \"content\": \"<s>\", \"special\": true}%s],"
        "\"normalizer\": %s, \"pre_tokenizer\": %s, \"decoder\": {\"type\": \"ByteLevel\"},"
        "\"post_processor\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\","
        "\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"\xC4\xA0\": 3, \"1\": 4, \"\xC4\x8A\": 5,"
        "\"ab\": 6, \"abc\": 7, \"\xC4\xA0\x61\": 8, \"bc\": 9, \"\xC3\x83\": 10,"
        "\"\xC2\xA9\": 11}, \"merges\": [\"a b\", \"b c\", \"\xC4\xA0 a\"]}}",
        more, normalizer, pre);
    struct source_file file = {"tokenizer.json", (const uint8_t *)text.data, text.size};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, err);
    buf_free(&text);
    return t;
}

static void expect_json(const char *normalizer, const char *pre, const char *more, const char *text,
                        const char *ids)
{
    struct err err = {0};
    struct tokenizer *t = open_json(normalizer, pre, more, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    expect_ids(t, text, strlen(text), true, ids);
    tokenizer_close(t);
}

#define BYTES "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"
#define PREFIXED "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}"
#define THEN(part) "{\"type\": \"Sequence\", \"pretokenizers\": [" part ", " BYTES "]}"

TEST(byte_level_words_and_merges)
{
    expect_json("null", BYTES, "", "ab abc",
                "6 3 6 2"); /* abc: no merge makes it; " a" comes last */
    expect_json("null", BYTES, "", "a b a", "0 3 1 8");
    expect_json("null", BYTES, "", "bca", "9 0");
    expect_json("null", PREFIXED, "", "a", "8");
    expect_json("null", PREFIXED, "", "a<s>b a", "8 12 3 1 8");
    expect_json("null", BYTES, "", "\xC3\xA9", "10 11");
}

TEST(pre_tokenizers_cut)
{
    expect_json("null", THEN("{\"type\": \"Digits\", \"individual_digits\": true}"), "", "ab11 a",
                "6 4 4 8");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"String\": \"b\"}, \"behavior\": "
                     "\"Isolated\"}"),
                "", "abc", "0 1 2");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"b\"}, \"behavior\": "
                     "\"Removed\"}"),
                "", "abc", "0 2");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"b\"}, \"behavior\": "
                     "\"MergedWithPrevious\"}"),
                "", "abbc", "6 1 2");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"b\"}, \"behavior\": "
                     "\"MergedWithNext\"}"),
                "", "abbc", "0 1 9");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[ab]\"}, \"behavior\": "
                     "\"Contiguous\"}"),
                "", "abc", "6 2");
    expect_json("null",
                THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[ab]+\"}, \"behavior\": "
                     "\"Removed\", \"invert\": true}"),
                "", "cab c", "6");
    expect_json("null", THEN("{\"type\": \"WhitespaceSplit\"}"), "", "ab \n c", "6 2");
    expect_json("null", THEN("{\"type\": \"CharDelimiterSplit\", \"delimiter\": \"1\"}"), "",
                "ab1c", "6 2");
}

TEST(normalizers_work_on_characters)
{
    expect_json("{\"type\": \"NFC\"}", BYTES, "", "e\xCC\x81", "10 11");
    expect_json("{\"type\": \"Lowercase\"}", BYTES, "", "AB", "6");
    expect_json("{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", BYTES, "",
                " \xE3\x80\x80"
                "ab\n",
                "6");
    expect_json("{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFD\"}, "
                "{\"type\": \"StripAccents\"}]}",
                BYTES, "",
                "\xC3\xA1"
                "b",
                "6");
    expect_json("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"1+\"}, \"content\": \"a\"}",
                BYTES, "", "111b", "6");
    /* ill-formed bytes are left as they are, and part what is beside them */
    expect_json("{\"type\": \"NFC\"}", BYTES, "",
                "a\xC3"
                "b",
                "0 10 1");
}

TEST(single_words_match_alone)
{
#define WORD ", {\"id\": 7, \"content\": \"abc\", \"single_word\": true}"
    expect_json("null", BYTES, WORD, "abc abca cabc", "7 3 6 2 0 3 2 6 2");
    expect_json("null", BYTES, WORD, "(abc)", "7");
    expect_json("null", BYTES, WORD, "abc\xC3\xA9", "6 2 10 11");
#undef WORD
}

TEST(parts_that_are_not_read_are_refused_by_name)
{
    static const struct {
        const char *normalizer, *pre, *reason;
    } rows[] = {
        {"{\"type\": \"Nmt\"}", BYTES, "normalizer 'Nmt' is not supported"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}", BYTES,
         "normalizer.pattern: the pattern: missing closing parenthesis"},
        {"{\"type\": \"Replace\", \"pattern\": {}, \"content\": \"\"}", BYTES,
         "normalizer.pattern is missing or malformed"},
        {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}}", BYTES,
         "normalizer.content is missing or malformed"},
        {"null", "{\"type\": \"UnicodeScripts\"}",
         "pre_tokenizer 'UnicodeScripts' is not supported"},
        {"null", "{\"type\": \"Sequence\", \"pretokenizers\": [" BYTES ", {\"type\": \"Digits\"}]}",
         "pre_tokenizer 'a part after ByteLevel' is not supported"},
        {"null", THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}}"),
         "pre_tokenizer.behavior is missing or malformed"},
        {"null", THEN("{\"type\": \"Split\", \"behavior\": \"Isolated\"}"),
         "pre_tokenizer.pattern is missing or malformed"},
        {"null",
         THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[\"}, \"behavior\": \"Isolated\"}"),
         "pre_tokenizer: the pattern: missing terminating ]"},
        {"null", THEN("{\"type\": \"Punctuation\", \"behavior\": \"Other\"}"),
         "pre_tokenizer.behavior is missing or malformed"},
        {"null", THEN("{\"type\": \"CharDelimiterSplit\"}"),
         "pre_tokenizer.delimiter is missing or malformed"},
        {"null",
         THEN("{\"type\": \"Digits\"}, {\"type\": \"Metaspace\", \"replacement\": "
              "\"\xE2\x96\x81\"}"),
         "pre_tokenizer 'Metaspace after another part' is not supported"},
        {"null", "null", "decoder 'ByteLevel' without a pre_tokenizer of that kind"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        struct tokenizer *t = open_json(rows[i].normalizer, rows[i].pre, "", &err);
        if (t || !strstr(err.text, rows[i].reason))
            fprintf(stderr, "%zu (%s): %s\n", i, rows[i].reason, t ? "accepted" : err.text);
        EXPECT(!t && strstr(err.text, rows[i].reason));
        tokenizer_close(t);
    }
}

/* A pattern that backtracks without end fails its text, and nothing else. */
TEST_SECONDS(a_runaway_pattern_gives_up, 60)
{
    struct err err = {0};
    struct tokenizer *t = open_json("null",
                                    THEN("{\"type\": \"Split\", \"pattern\": {\"Regex\": "
                                         "\"(a+)+[bc]\"}, \"behavior\": \"Isolated\"}"),
                                    "", &err);
    char text[64];
    struct token_list ids = {0};
    EXPECT(t != NULL);
    memset(text, 'a', sizeof text);
    EXPECT(tokenizer_encode(t, text, sizeof text, false, NULL, 0, &ids, &err) != 0);
    EXPECT(strstr(err.text, "could not be tokenized") != NULL);
    token_list_free(&ids);
    expect_ids(t, "abc", 3, false, "6 2");
    tokenizer_close(t);
}
