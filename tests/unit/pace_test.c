/* pace_test: machines of known costs are driven by what pace allows; how long their steps take. */
#include "engine/pace.h"

#include <limits.h>

#include "tests/test.h"

enum { MS = 1000000 };

struct machine {
    struct pace pace;
    double decode_ms, per_decode_ms, prompt_ms; /* a step: decode + n * per_decode + m * prompt */
    double longest_ms, total_ms;
    int n_prompt, n_probes;
};

static void drive(struct machine *m, int n_decodes, int steps)
{
    m->longest_ms = m->total_ms = 0;
    m->n_prompt = m->n_probes = 0;
    for (int i = 0; i < steps; i++) {
        int n = pace_prompt_tokens(&m->pace, n_decodes);
        double ms = m->decode_ms + n_decodes * m->per_decode_ms + n * m->prompt_ms;
        pace_took(&m->pace, n_decodes, n, (uint64_t)(ms * MS));
        m->n_prompt += n;
        m->n_probes += n == 0;
        m->total_ms += ms;
        m->longest_ms = ms > m->longest_ms ? ms : m->longest_ms;
    }
}

TEST(no_target_or_nobody_waiting_is_no_limit)
{
    struct pace p;
    pace_init(&p, 0);
    EXPECT_INT(pace_prompt_tokens(&p, 8), INT_MAX);
    pace_took(&p, 8, 100, 5 * MS);
    EXPECT_INT(pace_prompt_tokens(&p, 8), INT_MAX);
    pace_init(&p, 100 * MS);
    EXPECT_INT(pace_prompt_tokens(&p, 0), INT_MAX);
}

/* A large model on a slow machine: 200 ms a step for 8 sequences, 12 ms a prompt token. */
TEST(slow_steps_grow_by_half_at_most)
{
    struct machine m = {.decode_ms = 60, .per_decode_ms = 17.5, .prompt_ms = 12};
    pace_init(&m.pace, 100 * MS);
    drive(&m, 8, 3);
    EXPECT_INT(m.n_probes, 1); /* the first step shows what 8 take */
    drive(&m, 8, 200);
    EXPECT(m.longest_ms <= 1.5 * 200);
    EXPECT(m.n_prompt * 12 > 0.75 * 0.5 * 200 * 200 * 0.85); /* the room is used */
    EXPECT(m.n_probes >= 5 && m.n_probes <= 8);
}

/* A fast machine: the target is what counts, and large chunks are found in a few steps. */
TEST(fast_steps_use_the_target)
{
    struct machine m = {.decode_ms = 8, .per_decode_ms = 0.05, .prompt_ms = 0.022};
    pace_init(&m.pace, 100 * MS);
    drive(&m, 32, 12);
    EXPECT(m.longest_ms <= 100);
    drive(&m, 32, 33);
    EXPECT(m.longest_ms <= 100);
    EXPECT(m.n_prompt > 32 * 3000);
}

/* Few sequences do not inherit what many took: each class of counts is known by its own steps. */
TEST(counts_are_told_apart)
{
    struct machine m = {.decode_ms = 60, .per_decode_ms = 17.5, .prompt_ms = 3};
    pace_init(&m.pace, 10 * MS);
    drive(&m, 8, 40);
    drive(&m, 1, 40);
    EXPECT(m.longest_ms <= 1.5 * 77.5);
    EXPECT(m.n_prompt >= 38 * 10);
    m.prompt_ms = 300; /* prompts go on, whatever they cost */
    drive(&m, 1, 40);
    EXPECT_INT(m.n_prompt, (40 - m.n_probes) * 2 + 8 + 6 + 4 + 2 + 1);
}

/* One disturbed step is not taken for the rule; a lasting change is. */
TEST(noise_moves_little_and_change_is_followed)
{
    struct machine m = {.decode_ms = 200, .prompt_ms = 10};
    pace_init(&m.pace, 100 * MS);
    drive(&m, 8, 64);
    int before = pace_prompt_tokens(&m.pace, 8);
    EXPECT_INT(before, 8);
    m.pace.age[3] = 32;
    EXPECT_INT(pace_prompt_tokens(&m.pace, 8), 0);
    pace_took(&m.pace, 8, 0, 5000ull * MS);
    EXPECT(pace_prompt_tokens(&m.pace, 8) <= before * 5 / 4);
    m.decode_ms = 100;
    m.prompt_ms = 4;
    drive(&m, 8, 300);
    drive(&m, 8, 100);
    EXPECT(m.longest_ms <= 150);
    EXPECT(m.n_prompt >= 96 * 10);
}

/* Costs that no machine has are survived. */
TEST(strange_times_are_survived)
{
    struct pace p;
    pace_init(&p, 1);
    for (int i = 0; i < 200; i++) {
        int n = pace_prompt_tokens(&p, 1 + i % 5000);
        EXPECT(n >= 0);
        pace_took(&p, 1 + i % 5000, n, i % 3 ? 1 : UINT64_MAX);
        pace_took(&p, 0, 7, 3);
        pace_took(&p, INT_MAX, 7, 0);
    }
}
