/* The demo model's tokenizer in both its forms: published ids, agreement, special tokens, decoding,
 * arbitrary bytes, time. */
#include <sys/types.h>

#include "tests/unit/tokenizer_rig.h"

static struct tokenizer *demo_json(void)
{
    return rig_open_as(test_path("config/demo/tokenizer.json"), "tokenizer.json");
}

static struct tokenizer *demo_spm(void)
{
    return rig_open_as(test_path("config/demo/tokenizer.model"), "tokenizer.model");
}

static json_t *read_json(const char *relative)
{
    json_t *json = json_load_file(test_path(relative), JSON_ALLOW_NUL, NULL);
    EXPECT(json != NULL);
    return json;
}

TEST(the_demo_cases_give_their_ids_and_come_back)
{
    json_t *root = read_json("tests/golden/demo/tokenizer_cases.json"), *item;
    json_t *cases = json_object_get(root, "cases");
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    size_t i;
    int right = 0;
    EXPECT(json_array_size(cases) >= 30);
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "text");
        for (int k = 0; k < 2; k++) {
            const json_t *decoded = json_object_get(item, "decoded");
            struct token_list ids = rig_ids(json_object_get(item, "ids"));
            struct buf back = rig_decode(both[k], &ids, false, true);
            right += rig_gives(both[k], json_string_value(text), json_string_length(text), false,
                               false, json_object_get(item, "ids"));
            EXPECT_INT(back.size, json_string_length(decoded));
            EXPECT(!back.size || !memcmp(back.data, json_string_value(decoded), back.size));
            buf_free(&back);
            token_list_free(&ids);
        }
    }
    EXPECT_INT(right, 2 * json_array_size(cases));
    tokenizer_close(both[0]);
    tokenizer_close(both[1]);
    json_decref(root);
}

/* Prompts as a chat template writes them, special tokens trusted. */
TEST(rendered_prompts_give_the_ids_of_the_goldens)
{
    static const char *const names[] = {"hello",       "system-json", "tool-history",
                                        "tool-result", "unicode",     "whitespace"};
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/golden/demo/%s.json", names[i]);
        json_t *golden = read_json(path), *text = json_object_get(golden, "rendered");
        for (int k = 0; k < 2; k++)
            EXPECT(rig_gives(both[k], json_string_value(text), json_string_length(text), false,
                             true, json_object_get(golden, "prompt_ids")));
        json_decref(golden);
    }
    tokenizer_close(both[0]);
    tokenizer_close(both[1]);
}

/* Files of the repository stand in for a corpus. */
TEST(both_forms_agree_on_the_files_of_the_repository)
{
    static const char *const files[] = {"README.md",
                                        "engine/tokenizer/bpe.c",
                                        "config/demo/README.md",
                                        "tests/golden/demo/unicode.json",
                                        "tests/golden/demo/whitespace.json",
                                        "config/demo/tokenizer.json",
                                        "config/demo/tokenizer.model"};
    struct tokenizer *json = demo_json(), *spm = demo_spm();
    struct tokenizer *library = rig_open_library(test_path("config/demo/tokenizer.model"));
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        size_t n;
        char *text = test_read(test_path(files[i]), &n);
        EXPECT(text != NULL);
        struct token_list a = rig_encode(json, text, n, false, false);
        struct token_list b = rig_encode(spm, text, n, false, false);
        struct token_list c = rig_encode(library, text, n, false, false);
        EXPECT(a.n > 0 && rig_same(&a, &b));
        EXPECT(rig_same(&a, &c));
        EXPECT(memmem(text, n, "\xE2\x96\x81", 3) || rig_round_trip(json, text, n));
        token_list_free(&a);
        token_list_free(&b);
        token_list_free(&c);
        free(text);
    }
    tokenizer_close(json);
    tokenizer_close(spm);
    tokenizer_close(library);
}

TEST(both_forms_agree_where_long_texts_are_cut)
{
    struct tokenizer *json = demo_json(), *spm = demo_spm();
    struct tokenizer *library = rig_open_library(test_path("config/demo/tokenizer.model"));
    rig_expect_same_cuts(json, spm);
    rig_expect_same_cuts(json, library);
    tokenizer_close(json);
    tokenizer_close(spm);
    tokenizer_close(library);
}

TEST(special_tokens_are_parsed_in_trusted_spans_alone)
{
    static const char text[] = "[INST] a</s>[INST] b";
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    for (int k = 0; k < 2; k++) {
        struct token_list ids = rig_encode(both[k], text, sizeof text - 1, false, false);
        for (size_t i = 0; i < ids.n; i++)
            EXPECT(!tokenizer_is_special(both[k], ids.ids[i]));
        token_list_free(&ids);

        ids = rig_encode(both[k], text, sizeof text - 1, false, true);
        int n_special = 0;
        for (size_t i = 0; i < ids.n; i++)
            n_special += tokenizer_is_special(both[k], ids.ids[i]);
        EXPECT_INT(n_special, 3);
        EXPECT_INT(ids.ids[0], tokenizer_find(both[k], "[INST]", 6));
        token_list_free(&ids);

        /* a span that ends inside "</s>", and one that covers the second [INST] */
        struct text_span spans[2] = {{0, 10}, {12, 18}};
        struct err err;
        EXPECT_INT(tokenizer_encode(both[k], text, sizeof text - 1, false, spans, 2, &ids, &err),
                   0);
        n_special = 0;
        for (size_t i = 0; i < ids.n; i++)
            n_special += tokenizer_is_special(both[k], ids.ids[i]);
        EXPECT_INT(n_special, 2);
        EXPECT(ids.ids[0] == 3);
        struct buf back = rig_decode(both[k], &ids, false, false);
        EXPECT(strstr(back.data, "</s>") != NULL);
        EXPECT(strstr(back.data, "[INST]") == NULL);
        buf_free(&back);
        token_list_free(&ids);
        tokenizer_close(both[k]);
    }
}

TEST(every_control_text_in_untrusted_text_stays_text)
{
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    for (int k = 0; k < 2; k++) {
        int n_special = 0;
        for (int32_t id = 0; id < tokenizer_n_tokens(both[k]); id++) {
            if (!tokenizer_is_special(both[k], id))
                continue;
            n_special++;
            char text[256];
            const char *name = tokenizer_token_text(both[k], id);
            int n = snprintf(text, sizeof text, "x%s%s y %s", name, name, name);
            struct token_list ids = rig_encode(both[k], text, (size_t)n, false, false);
            for (size_t i = 0; i < ids.n; i++)
                EXPECT(!tokenizer_is_special(both[k], ids.ids[i]));
            token_list_free(&ids);
            EXPECT(rig_round_trip(both[k], text, (size_t)n));
        }
        EXPECT_INT(n_special, 10);
        tokenizer_close(both[k]);
    }
}

TEST(bos_is_added_when_asked)
{
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    for (int k = 0; k < 2; k++) {
        struct token_list with = rig_encode(both[k], "ab", 2, true, false);
        struct token_list without = rig_encode(both[k], "ab", 2, false, false);
        EXPECT_INT(with.n, without.n + 1);
        EXPECT_INT(with.ids[0], tokenizer_bos(both[k]));
        EXPECT_INT(tokenizer_bos(both[k]), 1);
        EXPECT_INT(tokenizer_eos(both[k]), k ? 2 : -1); /* tokenizer.json alone names no EOS */
        EXPECT(tokenizer_adds_bos(both[k]));
        EXPECT_STR(tokenizer_token_text(both[k], 1), "<s>");
        EXPECT_STR(tokenizer_token_text(both[k], -1), "");
        EXPECT_STR(tokenizer_token_text(both[k], 4096), "");
        token_list_free(&with);
        token_list_free(&without);
        tokenizer_close(both[k]);
    }
}

/* What stands beside the file decides about BOS and EOS. */
TEST(tokenizer_config_overrides_bos_and_eos)
{
    static const struct {
        const char *config, *reason; /* reason: the file is refused */
        int n_before, n_after;
    } rows[] = {
        {"{\"add_bos_token\": false}", NULL, 0, 0},
        {"{\"add_bos_token\": true, \"bos_token\": \"[INST]\"}", NULL, 1, 0},
        {"{\"eos_token\": {\"content\": \"</s>\"}, \"add_eos_token\": true}", NULL, 1, 1},
        {"{\"bos_token\": null, \"eos_token\": null}", NULL, 1, 0},
        {"{\"bos_token\": \"<none>\"}", "tokenizer_config.json: bos_token is not a token", 0, 0},
        {"{\"eos_token\": 7}", "tokenizer_config.json: eos_token is not a token", 0, 0},
        {"{\"add_bos_token\": 1}", "tokenizer_config.json: add_bos_token is not true or false", 0,
         0},
        {"{\"add_eos_token\": true}", "add_eos_token is true, but the model has no such token", 0,
         0},
        {"[]", "tokenizer_config.json: is not a JSON object", 0, 0},
        {"{\"a\": }", "tokenizer_config.json: line 1 column", 0, 0},
    };
    size_t size;
    char *json = test_read(test_path("config/demo/tokenizer.json"), &size);
    EXPECT(json != NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct source_file files[2] = {
            {"tokenizer.json", (const uint8_t *)json, size},
            {"tokenizer_config.json", (const uint8_t *)rows[i].config, strlen(rows[i].config)}};
        struct err err = {0};
        struct tokenizer *t = rig_open_memory(files, 2, 4096, &err);
        EXPECT_INT(t == NULL, rows[i].reason != NULL);
        if (!t) {
            EXPECT(strstr(err.text, rows[i].reason) != NULL);
            continue;
        }
        struct token_list ids = rig_encode(t, "", 0, true, false);
        EXPECT_INT(ids.n, rows[i].n_before + rows[i].n_after);
        token_list_free(&ids);
        tokenizer_close(t);
    }
    free(json);
}

TEST(any_bytes_come_back)
{
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    uint64_t seed = 1;
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 3000; i++) {
            char text[64];
            size_t n = rig_random(&seed) % sizeof text;
            for (size_t j = 0; j < n; j++) /* half of it from a small alphabet with spaces */
                text[j] = rig_random(&seed) % 2
                              ? " \t\nab\xE2\x96\x81<s>[INST]"[rig_random(&seed) % 18]
                              : (char)rig_random(&seed);
            struct token_list ids = rig_encode(both[k], text, n, false, false);
            struct buf back = rig_decode(both[k], &ids, false, true);
            /* U+2581 is how the vocabulary writes a space: it comes back as one */
            struct buf want;
            buf_init(&want, 0);
            for (size_t j = 0; j < n;) {
                bool space = n - j >= 3 && !memcmp(text + j, "\xE2\x96\x81", 3);
                buf_byte(&want, space ? ' ' : text[j]);
                j += space ? 3 : 1;
            }
            EXPECT_INT(back.size, want.size);
            EXPECT(n == 0 || !memcmp(back.data, want.data, want.size));
            buf_free(&want);
            buf_free(&back);
            token_list_free(&ids);
        }
        tokenizer_close(both[k]);
    }
}

/* A stream shows piece after piece: together they are what decoding at once gives. */
TEST(pieces_joined_are_the_decoded_text)
{
    static const char text[] = "[INST] caf\xC3\xA9 \xF0\x9F\x98\x80\n x[/INST]";
    struct tokenizer *both[2] = {demo_json(), demo_spm()};
    for (int k = 0; k < 2; k++) {
        struct token_list ids = rig_encode(both[k], text, sizeof text - 1, false, true);
        for (int special = 0; special < 2; special++) {
            struct buf joined, whole = rig_decode(both[k], &ids, special, false);
            buf_init(&joined, 0);
            for (size_t i = 0; i < ids.n; i++) {
                size_t size;
                const char *piece = tokenizer_piece(both[k], ids.ids[i], special, &size);
                EXPECT(size <= tokenizer_piece_max(both[k]));
                buf_add(&joined, piece, size);
            }
            EXPECT_STR(joined.data, whole.data);
            EXPECT_STR(joined.data, special ? text : " caf\xC3\xA9 \xF0\x9F\x98\x80\n x");
            buf_free(&joined);
            buf_free(&whole);
        }
        token_list_free(&ids);
        tokenizer_close(both[k]);
    }
}

TEST(decoding_leaves_out_what_is_no_token)
{
    struct tokenizer *t = demo_json();
    int32_t ids[] = {-1, 4096, 2147483647, 618, 1};
    struct token_list list = {ids, 5, 5};
    struct buf out = rig_decode(t, &list, false, false);
    size_t size;
    EXPECT_STR(out.data, tokenizer_piece(t, 618, false, &size)[0] == ' ' ? " le" : "le");
    EXPECT_INT(tokenizer_is_special(t, -5), 0);
    EXPECT_INT(tokenizer_is_special(t, 5000), 0);
    EXPECT_INT(tokenizer_find(t, "", 0), -1);
    EXPECT_INT(tokenizer_find(t, "no such token", 13), -1);
    buf_free(&out);
    tokenizer_close(t);
}

TEST_SECONDS(time_is_linear_in_the_text, 120)
{
#ifdef __SANITIZE_THREAD__
    SKIP("the thread sanitizer takes minutes over these megabytes, which one thread reads");
#endif
    static const char *const units[] = {"a", " ", "ab", "\xE6\x97\xA5", "\xFF", "e e", "\n"};
    struct tokenizer *all[3] = {demo_json(), demo_spm(),
                                rig_open_library(test_path("config/demo/tokenizer.model"))};
    for (int k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            rig_expect_linear(all[k], units[i]);
        tokenizer_close(all[k]);
    }
}

TEST(token_lists_grow_and_free)
{
    struct token_list list = {0};
    for (int32_t i = 0; i < 1000; i++)
        EXPECT_INT(token_list_add(&list, i * 3), 0);
    EXPECT_INT(list.n, 1000);
    EXPECT_INT(list.ids[999], 2997);
    token_list_free(&list);
    EXPECT(list.ids == NULL && list.n == 0);
    token_list_free(&list);
    token_list_free(NULL);
    tokenizer_close(NULL);
}
