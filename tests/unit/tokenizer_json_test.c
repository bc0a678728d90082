/* tokenizer.json: what each part of the file does, and every rule of the reader against a file that
 * breaks it. */
#include "tests/unit/tokenizer_rig.h"

static const char base[] =
    "{\"version\": \"1.0\", \"added_tokens\": ["
    "{\"id\": 0, \"content\": \"<unk>\", \"special\": true},"
    "{\"id\": 1, \"content\": \"<s>\", \"special\": true},"
    "{\"id\": 9, \"content\": \"<a>\", \"special\": false}],"
    "\"normalizer\": null, \"pre_tokenizer\": null,"
    "\"post_processor\": {\"type\": \"TemplateProcessing\","
    "  \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}],"
    "  \"special_tokens\": {\"<s>\": {\"ids\": [1]}}},"
    "\"decoder\": null, \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\","
    " \"vocab\": {\"<unk>\": 0, \"<s>\": 1, \"a\": 2, \"b\": 3, \"ab\": 4, \"abb\": 5, \"c\": 6,"
    "  \"bb\": 7, \"\xE2\x96\x81\": 8},"
    " \"merges\": [\"a b\", [\"ab\", \"b\"], \"b b\"]}}";

/* base with `from` replaced by `to`; NULL when refused. */
static struct tokenizer *changed(const char *from, const char *to, struct err *err)
{
    struct buf bytes;
    buf_init(&bytes, 0);
    const char *at = strstr(base, from);
    EXPECT(at != NULL);
    buf_add(&bytes, base, (size_t)(at - base));
    buf_text(&bytes, to);
    buf_text(&bytes, at + strlen(from));
    struct source_file file = {"tokenizer.json", (const uint8_t *)bytes.data, bytes.size};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, err);
    buf_free(&bytes);
    return t;
}

/* The ids of text under a changed file, as text: "4 5". */
static void expect_ids(const char *from, const char *to, const char *text, const char *ids)
{
    struct err err = {0};
    char got[256] = "";
    struct tokenizer *t = changed(from, to, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    struct token_list list = rig_encode(t, text, strlen(text), false, true);
    for (size_t i = 0, n = 0; i < list.n && n < sizeof got; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%d", i ? " " : "", list.ids[i]);
    EXPECT_STR(got, ids);
    token_list_free(&list);
    tokenizer_close(t);
}

TEST(merges_go_by_rank_then_from_the_left)
{
    expect_ids("\"version\"", "\"version\"", "abb", "5"); /* a b first, then ab b */
    expect_ids("[\"a b\", [\"ab\", \"b\"], \"b b\"]", "[\"b b\", \"a b\"]", "abb", "2 7");
    expect_ids("\"version\"", "\"version\"", "bbb", "7 3");
    expect_ids("\"version\"", "\"version\"", "abab", "4 4");
    expect_ids("[\"a b\"", "[\"a b\", \"b b\"", "abb", "5"); /* named twice: the first rank holds */
    expect_ids("\"version\"", "\"version\"", "", "");
}

/* "a  b" of the tokens "a" and " b". */
TEST(tokens_that_hold_spaces_can_be_merged)
{
    expect_ids("\"c\": 6,  \"bb\": 7, \"\xE2\x96\x81\": 8},"
               " \"merges\": [\"a b\", [\"ab\", \"b\"], \"b b\"]",
               "\" b\": 6, \"a b\": 7, \" \": 8}, \"merges\": [\"  b\", \"a  b\"]", "aa b", "2 7");
}

static void *no_memory(size_t n)
{
    (void)n;
    return NULL;
}

TEST(a_lack_of_memory_is_no_malformed_file)
{
    struct err err = {0};
    json_set_alloc_funcs(no_memory, free);
    EXPECT(changed("null", "null", &err) == NULL);
    EXPECT_INT(err.code, ERR_NOMEM);
}

TEST(unknown_characters)
{
    expect_ids("\"version\"", "\"version\"", "aXYb", "2 0 0 3");
    expect_ids("\"unk_token\"", "\"fuse_unk\": true, \"unk_token\"", "aXYb", "2 0 3");
    expect_ids("\"unk_token\": \"<unk>\",", "", "aXYb",
               "4"); /* without a token for them: nothing */
}

TEST(added_tokens)
{
    expect_ids("\"version\"", "\"version\"", "a<a>b<s>", "2 9 3 1");
    expect_ids("\"special\": false", "\"special\": false, \"lstrip\": true", "c  <a> c", "6 9 0 6");
    expect_ids("\"special\": false", "\"special\": false, \"rstrip\": true",
               "c<a> \n\xE3\x80\x80"
               "c",
               "6 9 6");
    /* the longest that matches */
    expect_ids("\"content\": \"<a>\"", "\"content\": \"<s>a\"", "<s>ab", "9 3");
}

TEST(normalizers)
{
    expect_ids("\"normalizer\": null",
               "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\","
               "\"prepend\": \"\xE2\x96\x81\"}, {\"type\": \"Replace\", \"pattern\": {\"String\":"
               "\" \"}, \"content\": \"\xE2\x96\x81\"}]}",
               "a b<s>c", "8 2 8 3 1 8 6");
    expect_ids("\"normalizer\": null",
               "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"cc\"},"
               "\"content\": \"a\"}",
               "cccb", "2 6 3");
}

TEST(metaspace_schemes)
{
    static const char from[] = "\"pre_tokenizer\": null";
#define METASPACE "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\""
    expect_ids(from, METASPACE ", \"prepend_scheme\": \"first\"}", "a b<s>c", "8 2 8 3 1 6");
    expect_ids(from, METASPACE ", \"prepend_scheme\": \"always\"}", "a b<s>c", "8 2 8 3 1 8 6");
    expect_ids(from, METASPACE ", \"prepend_scheme\": \"never\"}", "a b<s>c", "2 8 3 1 6");
    expect_ids(from, METASPACE ", \"add_prefix_space\": false}", "a b<s>c", "2 8 3 1 6");
    expect_ids(from, METASPACE "}", "a b<s>c", "8 2 8 3 1 8 6");
#undef METASPACE
}

TEST(the_template_adds_tokens_around_a_text)
{
    struct err err;
    struct tokenizer *t =
        changed("{\"Sequence\": {\"id\": \"A\"}}]",
                "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"<s>\"}}]", &err);
    struct token_list ids = rig_encode(t, "a", 1, true, false);
    EXPECT_INT(ids.n, 3);
    EXPECT_INT(ids.ids[0], 1);
    EXPECT_INT(ids.ids[2], 1);
    EXPECT_INT(tokenizer_eos(t), 1);
    token_list_free(&ids);
    tokenizer_close(t);
}

TEST(ids_beyond_the_models_vocabulary_are_refused)
{
    struct err err = {0};
    struct source_file file = {"tokenizer.json", (const uint8_t *)base, sizeof base - 1};
    struct tokenizer *t = rig_open_memory(&file, 1, 8, &err);
    EXPECT(t == NULL);
    EXPECT(strstr(err.text, "model.vocab: id 8 of") != NULL);
    EXPECT(strstr(err.text, "is not below vocab_size 8") != NULL);
}

/* Gemma 3's text models have one token less than their tokenizer.json. */
TEST(added_tokens_beyond_the_models_vocabulary_are_plain_text)
{
    struct err err = {0};
    struct source_file file = {"tokenizer.json", (const uint8_t *)base, sizeof base - 1};
    struct tokenizer *t = rig_open_memory(&file, 1, 9, &err);
    EXPECT(t != NULL);
    EXPECT_INT(tokenizer_n_tokens(t), 9);
    struct token_list ids = rig_encode(t, "a<a>", 4, false, true);
    EXPECT_INT(ids.n, 4); /* a, and three characters of which one is known */
    EXPECT_INT(ids.ids[2], 2);
    token_list_free(&ids);
    tokenizer_close(t);
    t = rig_open_memory(&file, 1, 10, &err);
    EXPECT(t != NULL);
    EXPECT_INT(tokenizer_n_tokens(t), 10);
    tokenizer_close(t);
}

TEST(every_rule_of_the_reader_refuses_what_breaks_it)
{
    static const struct broken rows[] = {
        {NULL, "", "tokenizer.json: line 1 column 0"},
        {NULL, "[1]", "tokenizer.json: is not a JSON object"},
        {NULL, "{\"a\": 1, \"a\": 2}", "duplicate object key"},
        {NULL, "{}", "tokenizer.json: model is missing or malformed"},
        {"\"type\": \"BPE\"", "\"type\": \"WordPiece\"", "model.type 'WordPiece' is not supported"},
        {"\"type\": \"BPE\"", "\"type\": 7", "model.type is missing or malformed"},
        {"\"unk_token\"", "\"end_of_word_suffix\": \"</w>\", \"unk_token\"",
         "model.end_of_word_suffix is not supported"},
        {"\"unk_token\"", "\"continuing_subword_prefix\": \"##\", \"unk_token\"",
         "model.continuing_subword_prefix is not supported"},
        {"\"unk_token\": \"<unk>\"", "\"unk_token\": \"?\"",
         "model.unk_token '?' is not in model.vocab"},
        {"\"vocab\": {", "\"vocab\": 7, \"x\": {", "model.vocab is missing or malformed"},
        {"\"a\": 2", "\"a\": \"2\"", "model.vocab: the id of 'a' is not an integer"},
        {"\"a\": 2", "\"a\": 3", "id 3 is given to"},
        {"\"a\": 2", "\"a\": -1", "model.vocab: id -1 of 'a'"},
        {"\"a\": 2", "\"a\": 99999999999", "not below vocab_size"},
        {"\"a\": 2", "\"\": 2", "model.vocab: the text of id 2 has 0 bytes"},
        {"\"\xE2\x96\x81\": 8", "\"z\": 11", "no token has id 8"},
        {"\"merges\": [", "\"merges\": 5, \"x\": [", "model.merges is missing or malformed"},
        {"\"a b\"", "\"ab\"", "model.merges[0] is not a pair of tokens"},
        {"\"a b\"", "\"a z b\"", "model.merges[0] is not a pair of tokens"},
        {"\"a b\"", "\" b\"", "model.merges[0] is not a pair of tokens"},
        {"\"a b\"", "[\"a\", 7]", "model.merges[0] is not a pair of tokens"},
        {"\"a b\"", "[\"a\"]", "model.merges[0] is not a pair of tokens"},
        {"\"a b\"", "\"a z\"", "model.merges[0] names 'z', which is not in model.vocab"},
        {"\"a b\"", "\"a c\"", "model.merges[0] makes 'ac', which is not in model.vocab"},
        {"\"added_tokens\": [", "\"added_tokens\": 3, \"x\": [",
         "added_tokens is missing or malformed"},
        {"\"id\": 9,", "", "added_tokens[2]: id or content is missing or malformed"},
        {"\"content\": \"<a>\"", "\"content\": 5", "added_tokens[2]: id or content is missing"},
        {"\"content\": \"<a>\"", "\"content\": \"\"", "added_tokens[2]: the text of id 9 has 0"},
        {"\"id\": 9", "\"id\": 3", "added_tokens[2]: id 3 is given to 'b' and to '<a>'"},
        {"\"id\": 9", "\"id\": 16777216", "not below vocab_size"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"BertNormalizer\"}",
         "normalizer 'BertNormalizer' is not supported"},
        {"\"normalizer\": null", "\"normalizer\": {}", "normalizer '(no type)' is not supported"},
        {"\"normalizer\": null", "\"normalizer\": 5", "normalizers is missing or malformed"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\"}",
         "normalizers is missing or malformed"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Prepend\"}",
         "normalizer.prepend is missing or malformed"},
        {"\"normalizer\": null",
         "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": "
         "\"\"}",
         "normalizer.pattern is missing or malformed"},
        {"\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}",
         "pre_tokenizer 'BertPreTokenizer' is not supported"},
        {"\"pre_tokenizer\": null",
         "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\"}",
         "pre_tokenizer.replacement other than U+2581 is not supported"},
        {"\"pre_tokenizer\": null",
         "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\","
         "\"prepend_scheme\": \"last\"}",
         "pre_tokenizer.prepend_scheme is missing or malformed"},
        {"\"decoder\": null", "\"decoder\": {\"type\": \"WordPiece\"}",
         "decoder 'WordPiece' is not supported"},
        {"\"decoder\": null",
         "\"decoder\": {\"type\": \"Strip\", \"content\": \"x\", \"start\": 1, \"stop\": 0}",
         "decoder 'Strip of other than at most one leading space' is not supported"},
        {"\"decoder\": null",
         "\"decoder\": {\"type\": \"Replace\", \"pattern\": {\"String\": \"_\"}, \"content\": "
         "\"x\"}",
         "decoder 'Replace by other than a space' is not supported"},
        {"TemplateProcessing", "RobertaProcessing", "post_processor.cls is missing or malformed"},
        {"TemplateProcessing", "NewProcessing", "post_processor 'NewProcessing' is not supported"},
        {"\"single\"", "\"double\"", "post_processor.single is missing or malformed"},
        {"{\"Sequence\": {\"id\": \"A\"}}", "7", "post_processor.single is missing or malformed"},
        {"\"ids\": [1]", "\"ids\": 1", "post_processor.special_tokens is missing or malformed"},
        {"\"ids\": [1]", "\"ids\": [77]", "'<s>' has ids out of range"},
        {"\"ids\": [1]", "\"ids\": [1,1,1,1,1,1,1,1,1]", "'<s>' has ids out of range"},
    };
    rig_expect_refused("tokenizer.json", base, rows, sizeof rows / sizeof rows[0]);
}

TEST(a_sequence_nested_too_deeply_is_refused)
{
    struct buf text;
    struct err err = {0};
    buf_init(&text, 0);
    buf_text(&text, "\"normalizer\": ");
    for (int i = 0; i < 6; i++)
        buf_text(&text, "{\"type\": \"Sequence\", \"normalizers\": [");
    buf_text(&text, "null");
    for (int i = 0; i < 6; i++)
        buf_text(&text, "]}");
    EXPECT(changed("\"normalizer\": null", text.data, &err) == NULL);
    EXPECT(strstr(err.text, "normalizers is missing or malformed") != NULL);
    buf_free(&text);
}

/* ---- Unigram */

static const char unigram[] =
    "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\", \"special\": true}],"
    "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\","
    " \"prepend_scheme\": \"always\"}, \"decoder\": {\"type\": \"Metaspace\","
    " \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\"},"
    "\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0], [\"<s>\", 0],"
    "[\"\xE2\x96\x81\", -2], [\"a\", -3], [\"b\", -3.5], [\"ab\", -5], [\"bb\", -8],"
    "[\"\xE2\x96\x81\x61\", -4.5]]}}";

TEST(unigram_takes_the_likeliest_segmentation)
{
    static const struct {
        const char *text, *ids;
    } rows[] = {
        {"ab", "2 5"},                          /* -2 -5, against -4.5 -3.5 */
        {"abb", "2 5 4"},                       /* -10.5, against -2 -3 -8 */
        {"bb", "2 4 4"},                        /* -7, against -8 */
        {"a", "7"},                             /* -4.5, against -5 */
        {"a b", "7 2 4"},    {"axyb", "7 0 4"}, /* a run of unknown characters once */
        {"ax b", "7 0 2 4"}, {"<s>a", "1 7"},
    };
    struct source_file file = {"tokenizer.json", (const uint8_t *)unigram, sizeof unigram - 1};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    EXPECT_STR(tokenizer_kind(t), "tokenizer.json (Unigram)");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char got[64] = "";
        struct token_list ids = rig_encode(t, rows[i].text, strlen(rows[i].text), false, true);
        for (size_t k = 0, at = 0; k < ids.n && at < sizeof got; k++)
            at += (size_t)snprintf(got + at, sizeof got - at, "%s%d", k ? " " : "", ids.ids[k]);
        EXPECT_STR(got, rows[i].ids);
        token_list_free(&ids);
    }
    struct token_list plain = rig_encode(t, "<s>", 3, false, false);
    for (size_t k = 0; k < plain.n; k++)
        EXPECT(plain.ids[k] != 1);
    token_list_free(&plain);
    EXPECT(rig_round_trip(t, "ab a", 4));
    rig_expect_linear(t, "a");
    rig_expect_linear(t, "x");
    tokenizer_close(t);
}

TEST(broken_unigram_files_are_refused)
{
    static const struct broken rows[] = {
        {"\"vocab\": [", "\"vocab\": {}, \"x\": [", "model.vocab is missing or malformed"},
        {"[\"a\", -3]", "[\"a\"]", "model.vocab[3] is no pair of text and score"},
        {"[\"a\", -3]", "[7, -3]", "model.vocab[3] is no pair of text and score"},
        {"[\"a\", -3]", "[\"b\", -3]", "'b' is the text of ids 3 and 4"},
        {"[\"a\", -3]", "[\"a\", -3e300]", "model.vocab[3]: the score is out of range"},
        {"\"unk_id\": 0", "\"unk_id\": 8", "model.unk_id is not an id of model.vocab"},
        {"\"unk_id\": 0", "\"unk_id\": \"0\"", "model.unk_id is not an id of model.vocab"},
        {"\"added_tokens\"", "\"normalizer\": {\"type\": \"Precompiled\"}, \"added_tokens\"",
         "normalizer 'Precompiled' is not supported"},
    };
    rig_expect_refused("tokenizer.json", unigram, rows, sizeof rows / sizeof rows[0]);
}
