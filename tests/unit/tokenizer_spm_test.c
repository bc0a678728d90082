/* tokenizer.model: a small model written field by field, every rule of its reader against a file
 * that breaks it, and what stands in tokenizer_config.json beside it. */
#include "engine/tokenizer/spm_model.h"
#include "engine/tokenizer/vocab.h"
#include "tests/unit/tokenizer_rig.h"

/* ---- protobuf wire format */

static void varint(struct buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buf_byte(out, (char)(value | 0x80));
    buf_byte(out, (char)value);
}

static void number(struct buf *out, uint32_t field, uint64_t value)
{
    varint(out, field << 3);
    varint(out, value);
}

static void bytes(struct buf *out, uint32_t field, const void *data, size_t n)
{
    varint(out, field << 3 | 2);
    varint(out, n);
    buf_add(out, data, n);
}

static void message(struct buf *out, uint32_t field, struct buf *body)
{
    bytes(out, field, body->data, body->size);
    buf_free(body);
}

static void piece(struct buf *out, const char *text, float score, int type)
{
    struct buf body;
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    buf_init(&body, 0);
    bytes(&body, 1, text, strlen(text));
    varint(&body, 2 << 3 | 5);
    for (int i = 0; i < 4; i++)
        buf_byte(&body, (char)(bits >> 8 * i));
    number(&body, 3, (uint64_t)type);
    message(out, 1, &body);
}

/* What a case changes of the model below; 0 and NULL: nothing. */
struct change {
    int model_type, no_unk, n_bytes, byte_fallback;
    const char *extra; /* one more piece of type NORMAL */
    int extra_type;
    float extra_score;
    const void *trainer, *normalizer, *top, *charsmap; /* raw fields added to each message */
    size_t trainer_size, normalizer_size, top_size, charsmap_size;
};

static struct buf build(const struct change *c)
{
    static const char *const texts[] = {"\xE2\x96\x81", "a", "b", "ab",
                                        "\xE2\x96\x81"
                                        "a"};
    struct buf out, trainer, normalizer;
    buf_init(&out, 0);
    buf_init(&trainer, 0);
    buf_init(&normalizer, 0);
    if (!c->no_unk)
        piece(&out, "<unk>", 0, VOCAB_UNKNOWN);
    piece(&out, "<s>", 0, VOCAB_CONTROL);
    piece(&out, "</s>", 0, VOCAB_CONTROL);
    for (int i = 0; i < 5; i++)
        piece(&out, texts[i], (float)-i, VOCAB_NORMAL);
    for (int i = 0; i < c->n_bytes; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i & 0xff);
        piece(&out, text, 0, VOCAB_BYTE);
    }
    if (c->extra)
        piece(&out, c->extra, c->extra_score, c->extra_type ? c->extra_type : VOCAB_NORMAL);
    number(&trainer, 3, c->model_type ? (uint64_t)c->model_type : SPM_BPE);
    number(&trainer, 35, (uint64_t)c->byte_fallback);
    buf_add(&trainer, c->trainer, c->trainer_size);
    message(&out, 2, &trainer);
    bytes(&normalizer, 2, c->charsmap, c->charsmap_size);
    number(&normalizer, 4, 0);
    buf_add(&normalizer, c->normalizer, c->normalizer_size);
    message(&out, 3, &normalizer);
    buf_add(&out, c->top, c->top_size);
    return out;
}

static struct tokenizer *open_changed(const struct change *c, struct err *err)
{
    struct buf proto = build(c);
    struct source_file file = {"tokenizer.model", (const uint8_t *)proto.data, proto.size};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, err);
    buf_free(&proto);
    return t;
}

TEST(a_small_model_encodes)
{
    struct err err = {0};
    struct change plain = {0}, with_bytes = {.n_bytes = 256, .byte_fallback = 1};
    struct tokenizer *t = open_changed(&plain, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    struct token_list ids = rig_encode(t, "aab", 3, true, false);
    static const int32_t want[] = {1, 7, 6}; /* <s> _a ab */
    EXPECT_INT(ids.n, 3);
    EXPECT(!memcmp(ids.ids, want, sizeof want));
    EXPECT_INT(tokenizer_bos(t), 1);
    EXPECT_INT(tokenizer_eos(t), 2);
    EXPECT(rig_round_trip(t, "ab a", 4));
    token_list_free(&ids);
    tokenizer_close(t);

    t = open_changed(&with_bytes, &err);
    EXPECT(t != NULL);
    EXPECT(rig_round_trip(t, "xyz \xFF\xC3\xA9", 7));
    tokenizer_close(t);
}

/* A user-defined piece is taken first, wherever it stands once the text is normalized. */
TEST(no_merge_crosses_a_users_piece)
{
    struct change change = {
        .n_bytes = 256, .byte_fallback = 1, .extra = "ba", .extra_type = VOCAB_USER};
    struct err err = {0};
    struct tokenizer *t = open_changed(&change, &err);
    EXPECT(t != NULL);
    struct token_list ids = rig_encode(t, "baabab", 6, false, false);
    static const int32_t want[] = {3, 264, 4, 264, 5}; /* _ ba a ba b */
    EXPECT_INT(ids.n, 5);
    EXPECT(!memcmp(ids.ids, want, sizeof want));
    EXPECT(rig_round_trip(t, "baabab", 6));
    token_list_free(&ids);
    tokenizer_close(t);
}

TEST(every_rule_of_the_reader_refuses_what_breaks_it)
{
    static const char charsmap[] = "\4\0\0\0"
                                   "\xFF\xFF\xFF\xFF"
                                   "x"; /* one unit, leading outside */
    static char long_text[VOCAB_TEXT_MAX + 2];
    memset(long_text, 'x', sizeof long_text - 1);
    float infinite = 1e38f * 10;
    const struct {
        struct change change;
        const char *reason;
    } rows[] = {
        {{.model_type = SPM_WORD}, "model_type WORD is not supported"},
        {{.model_type = SPM_CHAR}, "model_type CHAR is not supported"},
        {{.model_type = 9}, "trainer_spec has a field of wrong type or value"},
        {{.no_unk = 1}, "pieces: 0 are of type UNKNOWN"},
        {{.extra = "<u2>", .extra_type = VOCAB_UNKNOWN}, "pieces: 2 are of type UNKNOWN"},
        {{.byte_fallback = 1}, "pieces: 0 are of type BYTE, with byte_fallback true"},
        {{.n_bytes = 256}, "pieces: 256 are of type BYTE, with byte_fallback false"},
        {{.n_bytes = 255, .byte_fallback = 1}, "pieces: 255 are of type BYTE"},
        {{.n_bytes = 257, .byte_fallback = 1}, "pieces: 257 are of type BYTE"},
        {{.extra = "zz", .extra_type = VOCAB_BYTE},
         "pieces[8]: a piece of type BYTE is not <0x00>"},
        {{.extra = "zz", .extra_type = 7}, "pieces[8]: unknown type"},
        {{.extra = ""}, "pieces[8]: piece is empty or too long"},
        {{.extra = long_text}, "pieces[8]: piece is empty or too long"},
        {{.extra = "\xC3"}, "pieces[8]: piece is not UTF-8 text"},
        {{.extra = "a"}, "pieces: 'a' is the text of ids"},
        {{.extra = "c", .extra_score = infinite}, "pieces[8]: score is not finite"},
        {{.trainer = "\x1A\0", .trainer_size = 2}, "trainer_spec has a field of wrong type"},
        {{.trainer = "\xC0", .trainer_size = 1}, "trainer_spec is malformed"},
        {{.trainer = "\x0B", .trainer_size = 1}, "trainer_spec is malformed"}, /* a group */
        {{.normalizer = "\x1A\0", .normalizer_size = 2},
         "normalizer_spec has a field of wrong type"},
        {{.normalizer = "\x12\x7F", .normalizer_size = 2}, "normalizer_spec is malformed"},
        {{.top = "\x10\1", .top_size = 2}, "field 2 is not a message"},
        {{.top = "\x0A\x7F", .top_size = 2}, "not a sentencepiece model?"},
        {{.top = "\x0A\2\x08\1", .top_size = 4}, "pieces[8]: piece is not a string"},
        {{.top = "\x0A\2\x10\1", .top_size = 4}, "pieces[8]: score is not a float"},
        {{.top = "\x0A\1\xFF", .top_size = 3}, "pieces[8]: malformed"},
        {{.charsmap = "abc", .charsmap_size = 3}, "precompiled_charsmap: has 3 bytes"},
        {{.charsmap = "\xFF\xFF\0\0x", .charsmap_size = 5}, "bytes of double array do not fit"},
        {{.charsmap = "\3\0\0\0abcx", .charsmap_size = 8}, "bytes of double array do not fit"},
        {{.charsmap = charsmap, .charsmap_size = 9},
         "precompiled_charsmap: its root leads outside"},
        {{.charsmap = "\4\0\0\0\0\0\0\0x", .charsmap_size = 9}, "an index leads outside"},
    };
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        struct tokenizer *t = open_changed(&rows[i].change, &err);
        if (t || !strstr(err.text, rows[i].reason) || !strstr(err.text, "tokenizer.model")) {
            fprintf(stderr, "%zu (%s): %s\n", i, rows[i].reason, t ? "accepted" : err.text);
            wrong++;
        }
        tokenizer_close(t);
    }
    EXPECT_INT(wrong, 0);
}

TEST(every_shorter_file_is_refused_or_read)
{
    struct buf proto = build(&(struct change){.n_bytes = 256, .byte_fallback = 1});
    int opened = 0;
    for (size_t n = 0; n < proto.size; n += 7) {
        char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a byte read beyond */
        EXPECT(exact != NULL);
        memcpy(exact, proto.data, n);
        struct source_file file = {"tokenizer.model", (const uint8_t *)exact, n};
        struct err err = {0};
        struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
        EXPECT(t || err.text[0]);
        opened += t != NULL;
        tokenizer_close(t);
        free(exact);
    }
    EXPECT(opened < 3); /* a file that ends between two messages may still be whole */
    buf_free(&proto);
}

TEST(what_is_written_for_the_library_reads_back_the_same)
{
    size_t n;
    char *file = test_read(test_path("config/demo/tokenizer.model"), &n);
    struct spm_model a = {0}, b = {0};
    struct err err;
    struct buf again;
    buf_init(&again, 0);
    EXPECT(file != NULL);
    EXPECT_INT(spm_model_open(&a, (const uint8_t *)file, n, "a", &err), 0);
    EXPECT_INT(spm_model_write(&a, a.dummy_prefix, &again), 0);
    EXPECT_INT(spm_model_open(&b, (const uint8_t *)again.data, again.size, "b", &err), 0);
    EXPECT_INT(a.n_pieces, 4096);
    EXPECT_INT(b.n_pieces, a.n_pieces);
    for (size_t i = 0; i < a.n_pieces; i++) {
        EXPECT(a.pieces[i].score == b.pieces[i].score && a.pieces[i].type == b.pieces[i].type);
        EXPECT(a.pieces[i].text.size == b.pieces[i].text.size &&
               !memcmp(a.pieces[i].text.data, b.pieces[i].text.data, a.pieces[i].text.size));
    }
    EXPECT(a.type == b.type && a.byte_fallback == b.byte_fallback);
    EXPECT(a.dummy_prefix == b.dummy_prefix && a.remove_extra_spaces == b.remove_extra_spaces);
    EXPECT(a.escape_spaces == b.escape_spaces && a.charsmap.size == b.charsmap.size);
    spm_model_close(&a);
    spm_model_close(&b);
    buf_free(&again);
    free(file);
}

static struct tokenizer *open_with(const char *config, struct err *err)
{
    struct buf proto = build(&(struct change){0});
    struct source_file files[2] = {
        {"tokenizer.model", (const uint8_t *)proto.data, proto.size},
        {"tokenizer_config.json", (const uint8_t *)config, strlen(config)}};
    struct tokenizer *t = rig_open_memory(files, 2, 0, err);
    buf_free(&proto);
    return t;
}

TEST(added_tokens_of_tokenizer_config)
{
    static const char config[] =
        "{\"legacy\": false, \"added_tokens_decoder\": {"
        "\"8\": {\"content\": \"[X]\", \"special\": true, \"rstrip\": true},"
        "\"9\": {\"content\": \"ba\", \"special\": false},"
        "\"4\": {\"content\": \"a\", \"special\": true}}}";
    struct err err = {0};
    struct tokenizer *t = open_with(config, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    EXPECT_INT(tokenizer_n_tokens(t), 10);
    EXPECT(tokenizer_is_special(t, 8) && !tokenizer_is_special(t, 9));
    EXPECT(tokenizer_is_special(t, 4)); /* a piece that became special is not made of text */
    struct token_list ids = rig_encode(t, "[X]  ba", 7, false, true);
    static const int32_t want[] = {8, 9};
    EXPECT_INT(ids.n, 2);
    EXPECT(!memcmp(ids.ids, want, sizeof want));
    token_list_free(&ids);
    ids = rig_encode(t, "a", 1, false, false);
    EXPECT(ids.n > 0);
    for (size_t i = 0; i < ids.n; i++)
        EXPECT(ids.ids[i] != 4);
    token_list_free(&ids);
    tokenizer_close(t);
}

TEST(legacy_puts_a_prefix_in_front_of_every_segment)
{
    for (int legacy = 0; legacy < 2; legacy++) {
        struct err err = {0};
        struct tokenizer *t = open_with(legacy ? "{}" : "{\"legacy\": false}", &err);
        EXPECT(t != NULL);
        struct token_list ids = rig_encode(t, "a<s>a", 5, false, true);
        EXPECT_INT(ids.n, 3);
        EXPECT_INT(ids.ids[0], 7);
        EXPECT_INT(ids.ids[2], legacy ? 7 : 4);
        token_list_free(&ids);
        tokenizer_close(t);
    }
}

TEST(broken_added_tokens_are_refused)
{
    static const struct {
        const char *config, *reason;
    } rows[] = {
        {"{\"added_tokens_decoder\": []}", "added_tokens_decoder is not an object"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"q\"}}}", "'x' is malformed"},
        {"{\"added_tokens_decoder\": {\"8\": {\"content\": 5}}}", "'8' is malformed"},
        {"{\"added_tokens_decoder\": {\"8\": {\"content\": \"\"}}}",
         "the text of id 8 has 0 bytes"},
        {"{\"added_tokens_decoder\": {\"-1\": {\"content\": \"q\"}}}", "id -1 of 'q'"},
        {"{\"added_tokens_decoder\": {\"9\": {\"content\": \"q\"}}}", "no token has id 8"},
        {"{\"added_tokens_decoder\": {\"3\": {\"content\": \"q\"}}}", "id 3 is given to"},
        {"{\"added_tokens_decoder\": {\"99999999\": {\"content\": \"q\"}}}",
         "not below vocab_size"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        EXPECT(open_with(rows[i].config, &err) == NULL);
        if (!strstr(err.text, rows[i].reason))
            fprintf(stderr, "%zu: %s\n", i, err.text);
        EXPECT(strstr(err.text, rows[i].reason) != NULL);
    }
}
