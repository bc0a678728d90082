/* Published lists of texts with their ids, and whole texts, of SIROCCO_TEST_DATA. */
#ifndef SIROCCO_TOKENIZER_CASES_H
#define SIROCCO_TOKENIZER_CASES_H

#include "tests/unit/tokenizer_rig.h"

static const char *const corpora[] = {
    "text/tinyshakespeare.txt",
    "text/promessi_sposi-it.txt.gz",
    "text/wagahaiwa_nekodearu-ja.txt",
    "text/wikitext-2-test.txt",
    "text/tinystories_sample.txt",
    "text/udhr/udhr.jsonl",
    "text/unicode/UTF-8-test.txt",
    "text/unicode/emoji-test.txt",
    "text/blns/blns.json",
};
enum { N_CORPORA = sizeof corpora / sizeof corpora[0], PART = 300 << 10 };

UNUSED static json_t *read_json(const char *relative)
{
    const char *path = test_data(relative);
    return path ? json_load_file(path, JSON_ALLOW_NUL, NULL) : NULL;
}

/* The published tokenizer.json of Llama 2 has plain spaces where the model has U+00A0. */
UNUSED static void drop_no_break_spaces(char *text, size_t n)
{
    for (char *at = text; (at = memmem(at, (size_t)(text + n - at), "\xC2\xA0", 2));)
        memcpy(at, "nb", 2);
}

/* Two forms of one vocabulary on the first part of every corpus. */
UNUSED static void expect_agreement(const struct tokenizer *a, const struct tokenizer *b)
{
    for (int i = 0; i < N_CORPORA; i++) {
        const char *path = test_data(corpora[i]);
        size_t n;
        char *text = path ? rig_read(path, &n) : NULL;
        if (!text)
            continue;
        n = n < PART ? n : PART;
        drop_no_break_spaces(text, n);
        struct token_list left = rig_encode(a, text, n, true, false);
        struct token_list right = rig_encode(b, text, n, true, false);
        if (!rig_same(&left, &right))
            fprintf(stderr, "%s: %s and %s differ\n", corpora[i], tokenizer_kind(a),
                    tokenizer_kind(b));
        EXPECT(rig_same(&left, &right));
        EXPECT(left.n > 100);
        token_list_free(&left);
        token_list_free(&right);
        free(text);
    }
}

/* ---- lists of texts with ids */

UNUSED static void expect_plain(const struct tokenizer *t, const char *key)
{
    const char *path = test_data("tokenizers/expected/mistral-plain/encode.jsonl");
    FILE *lines = path ? fopen(path, "r") : NULL;
    static char line[1 << 16];
    int n = 0, right = 0;
    EXPECT(lines != NULL);
    while (fgets(line, sizeof line, lines)) {
        json_t *item = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, key);
        n++;
        right += rig_gives(t, json_string_value(text), json_string_length(text), false, false, ids);
        right -= !rig_round_trip(t, json_string_value(text), json_string_length(text));
        json_decref(item);
    }
    fclose(lines);
    EXPECT(n > 70);
    EXPECT_INT(right, n);
}

/* The cases of a GGUF vocabulary: texts in .inp between marker lines, ids in .out line by line. */
UNUSED static void expect_gguf_cases(const struct tokenizer *t, const char *name)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char relative[128];
    size_t n_in, n_out;
    snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf.inp", name);
    char *in = test_read(test_data(relative), &n_in);
    snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf.out", name);
    char *out = test_read(test_data(relative), &n_out);
    int n = 0, wrong = 0;
    EXPECT(in && out);
    for (char *at = in, *line = out; at; n++) {
        char *end = strstr(at, mark), *next = strchr(line, '\n');
        if (!next) /* after the last marker */
            break;
        struct token_list want = {0};
        for (char *p = line; p < next;) {
            char *stop;
            long id = strtol(p, &stop, 10);
            if (stop == p || stop > next)
                break;
            EXPECT_INT(token_list_add(&want, (int32_t)id), 0);
            p = stop;
        }
        size_t size = end ? (size_t)(end - at) : (size_t)(in + n_in - at);
        struct token_list got = rig_encode(t, at, size, false, false);
        if (!rig_same(&got, &want)) {
            fprintf(stderr, "%s, case %d: %.*s\n", name, n, (int)size, at);
            rig_print("got ", &got);
            rig_print("want", &want);
            wrong++;
        }
        token_list_free(&got);
        token_list_free(&want);
        at = end ? end + strlen(mark) : NULL;
        line = next + 1;
    }
    EXPECT(n >= 40);
    EXPECT_INT(wrong, 0);
    free(in);
    free(out);
}

/* {case: {text, ids, decoded}}; add_special: the ids have what the tokenizer adds around a text. */
UNUSED static void expect_cases(const struct tokenizer *t, const char *family, const char *model,
                                bool add_special)
{
    json_t *root = read_json("tokenizers/expected/transformers.js/tokenization.json");
    json_t *cases = json_object_get(json_object_get(root, family), model), *item;
    const char *name;
    int n = 0, right = 0;
    if (!root)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/expected/transformers.js");
    json_object_foreach(cases, name, item)
    {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        n++;
        right +=
            rig_gives(t, json_string_value(text), json_string_length(text), add_special, true, ids);
    }
    EXPECT(n >= 10);
    EXPECT_INT(right, n);
    json_decref(root);
}

/* [{input, encoded.input_ids, decoded_...}]. The first and last ids that t itself does not add around
 * a text are left out. */
UNUSED static void expect_swift(const struct tokenizer *t, const char *model, size_t n_first,
                                size_t n_last)
{
    json_t *root = read_json("tokenizers/expected/swift-transformers/tokenizer_tests.json"), *item;
    json_t *cases = json_object_get(root, model);
    size_t i;
    int right = 0;
    if (!root)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/expected/swift-transformers");
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "input");
        json_t *ids = json_object_get(json_object_get(item, "encoded"), "input_ids");
        for (size_t k = 0; k < n_first; k++)
            EXPECT_INT(json_array_remove(ids, 0), 0);
        for (size_t k = 0; k < n_last; k++)
            EXPECT_INT(json_array_remove(ids, json_array_size(ids) - 1), 0);
        right += rig_gives(t, json_string_value(text), json_string_length(text), true, true, ids);
    }
    EXPECT(json_array_size(cases) >= 10);
    EXPECT_INT(right, json_array_size(cases));
    json_decref(root);
}

/* One long text: {text, token_ids}. */
UNUSED static void expect_encoded(const struct tokenizer *t, const char *name)
{
    char relative[96];
    snprintf(relative, sizeof relative, "tokenizers/expected/swift-transformers/%s.json", name);
    json_t *root = read_json(relative);
    const json_t *text = json_object_get(root, "text");
    if (!root)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/expected/swift-transformers");
    EXPECT(rig_gives(t, json_string_value(text), json_string_length(text), true, true,
                     json_object_get(root, "token_ids")));
    json_decref(root);
}

/* Ids separated by commas up to the end of the line. */
UNUSED static struct token_list read_id_line(char **at)
{
    struct token_list ids = {0};
    for (char *end; **at && **at != '\n'; *at = end + strspn(end, ", \r")) {
        EXPECT_INT(token_list_add(&ids, (int32_t)strtol(*at, &end, 10)), 0);
        EXPECT(end > *at);
    }
    *at += **at == '\n';
    return ids;
}

UNUSED static char *read_lines(const char *relative)
{
    size_t size;
    const char *path = test_data(relative);
    char *file = path ? test_read(path, &size) : NULL;
    EXPECT(file != NULL);
    if (!strncmp(file, "\xEF\xBB\xBF", 3))
        memmove(file, file + 3, size - 2); /* and its NUL */
    return file;
}

/* A text, which may have several lines, and its ids on the next line; `most` of them. Returns how
 * many there were. */
UNUSED static int expect_lines(const struct tokenizer *t, const char *relative, int most)
{
    char *file = read_lines(relative), *at = file;
    int n = 0;
    for (char *end; n < most && (end = strchr(at, '\n')); n++) {
        while (strchr(end + 1, '\n') && (end[1] < '0' || end[1] > '9' ||
                                         end[1 + strspn(end + 1, "0123456789, ")] != '\n'))
            end = strchr(end + 1, '\n');
        char *line = end + 1;
        struct token_list want = read_id_line(&line);
        struct token_list got = rig_encode(t, at, (size_t)(end - at), false, true);
        if (!rig_same(&got, &want)) {
            fprintf(stderr, "%s, case %d: %.*s\n", relative, n, (int)(end - at), at);
            rig_print("got ", &got);
            rig_print("want", &want);
        }
        EXPECT(rig_same(&got, &want));
        token_list_free(&got);
        token_list_free(&want);
        at = line;
    }
    free(file);
    return n;
}

#endif
