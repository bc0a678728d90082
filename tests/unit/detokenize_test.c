/* detokenize_test: a property: tokens turned into text as they are generated, one by one (seq.c) or
 * in groups of any size (stream.c), give the text that the same ids give at once, and every part of
 * it is well-formed UTF-8 by itself. For ids of texts, of ill-formed bytes, and for ids at random.
 */
#include "engine/base/utf8.h"
#include "engine/seq.h"
#include "tests/unit/tokenizer_rig.h"

enum { N_TEXTS = 150, GROUP_MAX = 6 };

static uint64_t seed = 7;

static size_t below(size_t n)
{
    return rig_random(&seed) % n;
}

/* What a client gets of bytes: ill-formed parts replaced, an unfinished character at the end left
 * out. */
static struct buf sent(const struct buf *bytes)
{
    struct buf out;
    buf_init(&out, 0);
    for (size_t i = 0; i < bytes->size;) {
        uint32_t code;
        int length = utf8_decode(bytes->data + i, bytes->size - i, &code);
        if (length == 0)
            break;
        buf_add(&out, length < 0 ? "\xEF\xBF\xBD" : bytes->data + i,
                length < 0 ? 3 : (size_t)length);
        i += (size_t)(length < 0 ? -length : length);
    }
    return out;
}

/* Whether decoding takes a leading space off. */
static bool strips(const struct tokenizer *t)
{
    for (int32_t id = 0; id < tokenizer_n_tokens(t); id++) {
        size_t size;
        const char *piece = tokenizer_piece(t, id, false, &size);
        struct token_list one = {&id, 1, 1};
        if (size < 2 || piece[0] != ' ')
            continue;
        struct buf text = rig_decode(t, &one, false, true);
        bool shorter = text.size + 1 == size;
        buf_free(&text);
        return shorter;
    }
    return false;
}

static void take(struct buf *text, const char *out, size_t n)
{
    EXPECT(utf8_valid(out, n));
    buf_add(text, out, n);
}

/* As the engine does it. */
static struct buf by_seq(const struct tokenizer *t, const struct token_list *ids, bool strip)
{
    static const int32_t prompt[] = {0};
    struct engine_request r = {
        .tokens = prompt, .n_tokens = 1, .max_tokens = (int)ids->n, .prompt_logprobs = -1};
    struct seq_options o = {.block_size = 16, .strip_space = strip};
    struct seq s;
    struct buf text;
    size_t bytes, n;
    sample_params_init(&r.params);
    EXPECT(seq_bytes(&r, &o, &bytes));
    void *memory = malloc(bytes);
    char *out = malloc(seq_text_max(&r, tokenizer_piece_max(t)));
    EXPECT(memory && out);
    seq_init(&s, &r, &o, memory);
    buf_init(&text, 0);
    for (size_t i = 0; i < ids->n; i++) {
        size_t size;
        const char *piece = tokenizer_piece(t, ids->ids[i], false, &size);
        struct seq_stop stop = seq_append(&s, ids->ids[i], piece, size, out, &n);
        EXPECT_INT(stop.finish, i + 1 < ids->n ? FINISH_NONE : FINISH_LENGTH);
        take(&text, out, n);
    }
    n = seq_finish_text(&s, out);
    take(&text, out, n);
    free(memory);
    free(out);
    return text;
}

/* The bytes of several tokens at a time. */
static struct buf by_groups(const struct tokenizer *t, const struct token_list *ids, bool strip,
                            size_t group_max)
{
    struct stream s;
    struct buf text, bytes, out;
    buf_init(&text, 0);
    buf_init(&bytes, 0);
    buf_init(&out, 0);
    stream_init(&s, NULL, false);
    for (size_t i = 0; i < ids->n;) {
        size_t n = 1 + below(group_max);
        buf_clear(&bytes);
        for (size_t end = i + n; i < end && i < ids->n; i++) {
            size_t size;
            const char *piece = tokenizer_piece(t, ids->ids[i], false, &size);
            bool skip = strip && size && *piece == ' ';
            buf_add(&bytes, piece + skip, size - skip);
            strip = strip && !size;
        }
        EXPECT_INT(buf_reserve(&out, 3 * (bytes.size + sizeof s.held)), 0);
        take(&text, out.data, stream_add(&s, bytes.data, bytes.size, out.data));
    }
    EXPECT_INT(buf_reserve(&out, 3 * sizeof s.held), 0);
    take(&text, out.data, stream_finish(&s, out.data));
    buf_free(&bytes);
    buf_free(&out);
    return text;
}

static void expect_text(struct buf got, const struct buf *want)
{
    EXPECT_INT(got.size, want->size);
    EXPECT(!want->size || !memcmp(got.data, want->data, want->size));
    buf_free(&got);
}

static void check_ids(const struct tokenizer *t, const struct token_list *ids, bool strip)
{
    struct buf whole = rig_decode(t, ids, false, true), want = sent(&whole);
    if (ids->n)
        expect_text(by_seq(t, ids, strip), &want);
    expect_text(by_groups(t, ids, strip, 1), &want);
    for (int i = 0; i < 4; i++)
        expect_text(by_groups(t, ids, strip, GROUP_MAX), &want);
    expect_text(by_groups(t, ids, strip, ids->n + 1), &want);
    buf_free(&whole);
    buf_free(&want);
}

static void random_text(struct buf *text)
{
    static const char *const parts[] = {" ",
                                        "the",
                                        " caf\xC3\xA9",
                                        "\xE6\x97\xA5\xE6\x9C\xAC",
                                        "\xF0\x9F\x98\x80",
                                        "\n",
                                        "\xE2\x96\x81",
                                        "12",
                                        "\xCC\x81",
                                        "\xEF\xBF\xBD",
                                        "\xFF",
                                        "\xC3",
                                        "\x80",
                                        "\xE2\x82",
                                        "\xF0\x9F",
                                        "\xED\xA0",
                                        "<s>",
                                        "  ",
                                        "\xF0\x9F\x91\xA8\xE2\x80\x8D"};
    size_t kinds = below(2) ? sizeof parts / sizeof parts[0] : 10; /* well-formed alone */
    buf_clear(text);
    for (size_t n = below(40); n > 0; n--)
        buf_text(text, parts[below(kinds)]);
}

static void check_tokenizer(const struct tokenizer *t)
{
    struct buf text;
    bool strip = strips(t);
    buf_init(&text, 0);
    for (int i = 0; i < N_TEXTS; i++) {
        random_text(&text);
        struct token_list ids =
            rig_encode(t, text.data ? text.data : "", text.size, below(2), below(2));
        check_ids(t, &ids, strip);
        ids.n = 0;
        for (size_t n = below(60); n > 0; n--)
            EXPECT_INT(token_list_add(&ids, (int32_t)below((size_t)tokenizer_n_tokens(t))), 0);
        check_ids(t, &ids, strip);
        token_list_free(&ids);
    }
    buf_free(&text);
}

TEST_SECONDS(the_demo_model_streams_what_it_decodes, 120)
{
    static const char *const files[] = {"config/demo/tokenizer.json",
                                        "config/demo/tokenizer.model"};
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = rig_open_as(test_path(files[i]), strrchr(files[i], '/') + 1);
        EXPECT(strips(t));
        check_tokenizer(t);
        tokenizer_close(t);
    }
}

TEST_SECONDS(published_tokenizers_stream_what_they_decode, 240)
{
    static const char *const files[][2] = {
        {"tokenizers/tekken/tekken_v3.json.gz", "tekken.json"},
        {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model"},
        {"tokenizers/llama-2-spm/tokenizer.model", "tokenizer.model"},
        {"tokenizers/sentencepiece-unigram/test_model.model", "tokenizer.model"},
        {"tokenizers/hf-derived/llama-3/tokenizer.json.gz", "tokenizer.json"},
        {"tokenizers/hf/phi-2-gpt2-bpe/tokenizer.json", "tokenizer.json"},
        {"tokenizers/gguf-vocab/ggml-vocab-llama-spm.gguf", "v.gguf"},
        {"tokenizers/gguf-vocab/ggml-vocab-gpt-2.gguf", "v.gguf"}};
    int n = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct tokenizer *t = rig_open_data(files[i][0], files[i][1]);
        if (!t)
            continue;
        check_tokenizer(t);
        tokenizer_close(t);
        n++;
    }
    if (n < 8)
        SKIP("SIROCCO_TEST_DATA lacks some of the tokenizers");
}
