/* seq_test: copying of a request, stop reasons, the text a sequence sends. */
#include "engine/seq.h"

#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static const int32_t eos[] = {2, 3};

struct made {
    struct seq s;
    void *memory;
    char out[4096], text[4096];
    size_t n;
};

static void make(struct made *m, const struct engine_request *r, bool strip)
{
    struct seq_options o = {.eos = eos, .n_eos = 2, .block_size = 4, .strip_space = strip,
                            .seed = 99};
    size_t bytes;
    EXPECT(seq_bytes(r, &o, &bytes));
    m->memory = malloc(bytes + 1);
    ((char *)m->memory)[bytes] = 77; /* a guard */
    seq_init(&m->s, r, &o, m->memory);
    m->n = 0;
    EXPECT_INT(((char *)m->memory)[bytes], 77);
}

static struct seq_stop add(struct made *m, int32_t token, const char *piece)
{
    size_t n;
    struct seq_stop stop = seq_append(&m->s, token, piece, strlen(piece), m->out, &n);
    memcpy(m->text + m->n, m->out, n);
    m->n += n;
    m->text[m->n] = 0;
    return stop;
}

static struct engine_request asked(const int32_t *tokens, int n, int max_tokens)
{
    struct engine_request r = {.tokens = tokens, .n_tokens = n, .max_tokens = max_tokens,
                               .prompt_logprobs = -1};
    sample_params_init(&r.params);
    return r;
}

static const int32_t prompt[] = {10, 11, 12, 13, 14};

TEST(everything_the_request_points_to_is_copied)
{
    struct made m;
    int32_t tokens[] = {10, 11, 12}, ids[] = {40, 41};
    struct sample_bias bias[] = {{5, 1.5f}, {6, -2}};
    char stop[] = "END";
    struct engine_request r = asked(tokens, 3, 5);
    r.params.bias = bias;
    r.params.n_bias = 2;
    r.stop_token_ids = ids;
    r.n_stop_token_ids = 2;
    r.stops = (struct stream_stops){.n = 1, .text = {stop}, .size = {3}};
    make(&m, &r, false);
    memset(tokens, 0, sizeof tokens);
    memset(ids, 0, sizeof ids);
    memset(bias, 0, sizeof bias);
    memset(stop, 0, sizeof stop);
    EXPECT_INT(m.s.tokens[2], 12);
    EXPECT_INT(m.s.n_stop_ids, 4);
    EXPECT_INT(m.s.stop_ids[1], 3);
    EXPECT_INT(m.s.stop_ids[3], 41);
    EXPECT_INT(m.s.request.params.bias[1].token, 6);
    EXPECT_STR(m.s.request.stops.text[0], "END");
    EXPECT_INT(m.s.table.capacity, 2);
    EXPECT_INT((int)m.s.seed, 99);
    free(m.memory);
}

TEST(eos_stops_and_has_no_text)
{
    struct made m;
    struct engine_request r = asked(prompt, 5, 5);
    r.show_special = true;
    make(&m, &r, false);
    EXPECT_INT(add(&m, 20, "a").finish, FINISH_NONE);
    struct seq_stop stop = add(&m, 3, "</s>");
    EXPECT_INT(stop.finish, FINISH_STOP);
    EXPECT_INT(stop.stop_token, 3);
    EXPECT(stop.stop_is_eos);
    EXPECT_STR(m.text, "a");
    EXPECT_INT(seq_n_output(&m.s), 2);
    free(m.memory);
}

TEST(ignored_eos_goes_on_until_max_tokens)
{
    struct made m;
    struct engine_request r = asked(prompt, 5, 2);
    r.ignore_eos = true;
    make(&m, &r, false);
    EXPECT_INT(add(&m, 2, "").finish, FINISH_NONE);
    struct seq_stop stop = add(&m, 2, "");
    EXPECT_INT(stop.finish, FINISH_LENGTH);
    EXPECT_INT(stop.stop_token, -1);
    free(m.memory);
}

TEST(stop_tokens_show_only_when_special_ones_do)
{
    for (int show = 0; show < 2; show++) {
        struct made m;
        int32_t id = 30;
        struct engine_request r = asked(prompt, 5, 5);
        r.stop_token_ids = &id;
        r.n_stop_token_ids = 1;
        r.show_special = show;
        make(&m, &r, false);
        struct seq_stop stop = add(&m, 30, "[X]");
        EXPECT_INT(stop.finish, FINISH_STOP);
        EXPECT(!stop.stop_is_eos);
        EXPECT_STR(m.text, show ? "[X]" : "");
        free(m.memory);
    }
}

TEST(min_tokens_defers_every_stop)
{
    struct made m;
    struct engine_request r = asked(prompt, 5, 9);
    r.stops = (struct stream_stops){.n = 1, .text = {"b"}, .size = {1}};
    r.params.min_tokens = 2;
    make(&m, &r, false);
    EXPECT_INT(add(&m, 2, "").finish, FINISH_NONE);
    EXPECT_INT(add(&m, 21, "b").finish, FINISH_NONE);
    struct seq_stop stop = add(&m, 21, "b");
    EXPECT_INT(stop.finish, FINISH_STOP);
    EXPECT_INT(stop.stop_index, 0);
    EXPECT_STR(m.text, "b");
    free(m.memory);
}

TEST(a_text_begins_without_one_space)
{
    struct made m;
    struct engine_request r = asked(prompt, 5, 9);
    make(&m, &r, true);
    add(&m, 20, "");
    add(&m, 21, "  The");
    add(&m, 22, " cat");
    EXPECT_STR(m.text, " The cat");
    free(m.memory);
    make(&m, &r, true);
    add(&m, 21, "The");
    add(&m, 22, " cat");
    EXPECT_STR(m.text, "The cat");
    free(m.memory);
    make(&m, &r, false);
    add(&m, 21, " The");
    EXPECT_STR(m.text, " The");
    free(m.memory);
}

TEST(held_back_text_comes_at_the_end)
{
    struct made m;
    struct engine_request r = asked(prompt, 5, 2);
    r.stops = (struct stream_stops){.n = 1, .text = {"xyz"}, .size = {3}};
    make(&m, &r, false);
    add(&m, 20, "ax");
    EXPECT_INT(add(&m, 21, "y").finish, FINISH_LENGTH);
    EXPECT_STR(m.text, "a");
    size_t n = seq_finish_text(&m.s, m.out);
    EXPECT_INT((int)n, 2);
    EXPECT(memcmp(m.out, "xy", 2) == 0);
    free(m.memory);
}

TEST(plain_greedy_is_only_that)
{
    struct made m;
    struct sample_bias bias = {1, 1};
    struct engine_request r = asked(prompt, 5, 5), plain;
    r.params.temperature = 0;
    plain = r;
    make(&m, &r, false);
    EXPECT(seq_is_plain_greedy(&m.s));
    free(m.memory);
    for (int i = 0; i < 7; i++) {
        r = plain;
        r.params.temperature = i == 0 ? 0.5f : 0;
        r.params.logprobs = i == 1 ? 0 : -1;
        r.params.repetition_penalty = i == 2 ? 1.1f : 1;
        r.params.presence_penalty = i == 3 ? 1 : 0;
        r.params.frequency_penalty = i == 4 ? 1 : 0;
        r.params.min_tokens = i == 5;
        r.params.n_bias = i == 6;
        r.params.bias = &bias;
        make(&m, &r, false);
        EXPECT(!seq_is_plain_greedy(&m.s));
        free(m.memory);
    }
}
