/* sched_test: the policy, step by step: budget, order, admission, preemption, groups, pauses. The
 * simulator (tests/sim) covers what happens when all of it meets. */
#include "engine/sched.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

enum { BS = 4, SEQS = 8 };

static const struct kv_key key = {1, 2};

struct bench {
    struct kv kv;
    struct sched sched;
    struct seq seqs[SEQS];
    void *memory[SEQS];
    uint64_t now;
};

static void bench_open(struct bench *b, int n_blocks, int max_seqs, int budget, int window)
{
    memset(b, 0, sizeof *b);
    struct sched_options o = {.max_seqs = max_seqs, .max_batch_tokens = budget, .window = window,
                              .prefix_cache = true};
    EXPECT_INT(kv_init(&b->kv, n_blocks, BS, key), 0);
    EXPECT_INT(sched_init(&b->sched, &b->kv, &o), 0);
}

static void bench_close(struct bench *b)
{
    for (int i = 0; i < SEQS; i++)
        free(b->memory[i]);
    sched_free(&b->sched);
    kv_free(&b->kv);
}

/* Tokens first.. of a request; asked may carry group, priority, salt. */
static struct seq *submit(struct bench *b, int i, int first, int n, struct engine_request asked)
{
    int32_t tokens[256];
    struct seq_options so = {.block_size = BS};
    size_t bytes;
    for (int j = 0; j < n; j++)
        tokens[j] = first + j;
    sample_params_init(&asked.params);
    asked.tokens = tokens;
    asked.n_tokens = n;
    asked.max_tokens = 40;
    asked.prompt_logprobs = -1;
    EXPECT(seq_bytes(&asked, &so, &bytes));
    b->memory[i] = malloc(bytes);
    seq_init(&b->seqs[i], &asked, &so, b->memory[i]);
    sched_add(&b->sched, &b->seqs[i]);
    return &b->seqs[i];
}

static int planned(const struct seq *seq, const struct bench *b)
{
    return seq->item < 0 ? 0 : b->sched.items[seq->item].n;
}

static void check(struct bench *b)
{
    const struct kv_table *tables[SEQS];
    int32_t refs[256];
    struct err err = {0};
    int n = 0;
    for (int i = 0; i < SEQS; i++)
        if (b->memory[i])
            tables[n++] = &b->seqs[i].table;
    kv_check(&b->kv, tables, n, refs, &err);
    EXPECT_STR(err.text, "");
    sched_check(&b->sched, &err);
    EXPECT_STR(err.text, "");
}

/* Plan; what was planned is computed, and whoever is complete gets a token. */
static int step(struct bench *b)
{
    int n = sched_plan(&b->sched, b->now += 1000000);
    check(b);
    sched_commit(&b->sched);
    for (int i = 0; i < b->sched.n_items; i++) {
        struct seq *seq = b->sched.items[i].seq;
        if (seq->n_computed == seq->n_tokens) {
            seq->tokens[seq->n_tokens] = 1000 + seq->n_tokens;
            seq->n_tokens++;
        }
    }
    return n;
}

static const struct engine_request plain;

TEST(decodes_run_before_prompt_chunks_within_the_budget)
{
    static struct bench b;
    bench_open(&b, 64, 4, 8, 0);
    struct seq *x = submit(&b, 0, 0, 5, plain);
    EXPECT_INT(step(&b), 5);
    struct seq *y = submit(&b, 1, 100, 20, plain);
    EXPECT_INT(step(&b), 8);
    EXPECT_INT(planned(x, &b), 1);
    EXPECT_INT(planned(y, &b), 7);
    EXPECT_INT(step(&b), 8);
    EXPECT_INT(y->n_computed, 14);
    EXPECT_INT(step(&b), 7);
    EXPECT_INT(y->n_computed, 20);
    EXPECT_INT(step(&b), 2);
    EXPECT_INT(x->n_tokens, 10);
    bench_close(&b);
}

TEST(first_come_first_served_within_a_priority)
{
    static struct bench b;
    bench_open(&b, 64, 1, 64, 0);
    struct seq *x = submit(&b, 0, 0, 5, (struct engine_request){.priority = 1});
    struct seq *y = submit(&b, 1, 100, 5, (struct engine_request){.priority = 0});
    struct seq *z = submit(&b, 2, 200, 5, (struct engine_request){.priority = 0});
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    sched_finish(&b.sched, y, true);
    step(&b);
    EXPECT_INT(z->state, SEQ_RUNNING);
    EXPECT_INT(x->state, SEQ_WAITING);
    bench_close(&b);
}

TEST(a_whole_prompt_must_fit_to_be_admitted)
{
    static struct bench b;
    bench_open(&b, 10, 4, 4, 0);
    struct seq *x = submit(&b, 0, 0, 8, plain);
    struct seq *y = submit(&b, 1, 100, 32, plain); /* 8 blocks; x holds 2 and may want one more */
    struct seq *z = submit(&b, 2, 200, 4, plain);
    for (int i = 0; i < 8; i++)
        step(&b);
    EXPECT_INT(y->state, SEQ_WAITING);
    EXPECT_INT(z->state, SEQ_WAITING); /* never before the one ahead of it */
    sched_finish(&b.sched, x, true);
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    EXPECT_INT(z->state, SEQ_WAITING); /* the rest of y's prompt is spoken for */
    bench_close(&b);
}

TEST(the_newest_gives_way_and_comes_back_first)
{
    static struct bench b;
    bench_open(&b, 8, 4, 64, 0);
    struct seq *x = submit(&b, 0, 0, 10, plain);
    struct seq *y = submit(&b, 1, 100, 10, plain);
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    struct seq *z = submit(&b, 2, 200, 4, plain);
    for (int i = 0; i < 20 && y->state == SEQ_RUNNING; i++)
        step(&b);
    EXPECT_INT(y->state, SEQ_PREEMPTED);
    EXPECT_INT(x->state, SEQ_RUNNING);
    EXPECT_INT((int)b.sched.n_preemptions, 1);
    EXPECT_INT(y->n_computed, 0);
    EXPECT(b.sched.waiting.first == y && y->next == z);
    EXPECT_INT(z->state, SEQ_WAITING); /* nothing is admitted under pressure */
    int known = y->n_tokens;
    sched_finish(&b.sched, x, false);
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    EXPECT_INT(y->n_tokens, known + 1);
    EXPECT_INT((int)b.sched.n_prefix_queries, 24); /* y counts once, z is in now */
    bench_close(&b);
}

TEST(worse_priority_gives_way_before_the_newer)
{
    static struct bench b;
    bench_open(&b, 8, 4, 64, 0);
    struct seq *x = submit(&b, 0, 0, 10, (struct engine_request){.priority = 5});
    struct seq *y = submit(&b, 1, 100, 10, plain);
    for (int i = 0; i < 20 && x->state != SEQ_PREEMPTED && y->state != SEQ_PREEMPTED; i++)
        step(&b);
    EXPECT_INT(x->state, SEQ_PREEMPTED);
    EXPECT_INT(y->state, SEQ_RUNNING);
    bench_close(&b);
}

TEST(followers_wait_for_their_leader_and_share_its_prompt)
{
    static struct bench b;
    bench_open(&b, 64, 8, 8, 0);
    struct engine_request group = {.group = 9};
    struct seq *x = submit(&b, 0, 0, 13, group);
    struct seq *y = submit(&b, 1, 0, 13, group);
    struct seq *z = submit(&b, 2, 0, 13, group);
    struct seq *other = submit(&b, 3, 500, 3, plain);
    step(&b);
    EXPECT_INT(planned(x, &b), 8);
    EXPECT_INT(y->state, SEQ_WAITING);
    step(&b);
    EXPECT_INT(x->n_computed, 13);
    EXPECT_INT(other->state, SEQ_RUNNING); /* it is held up by nobody */
    EXPECT(!y->leader && !z->leader);
    step(&b);
    EXPECT_INT(y->n_cached, 12);
    EXPECT_INT(z->n_cached, 12);
    EXPECT_INT(y->table.blocks[2], x->table.blocks[2]);
    bench_close(&b);
}

TEST(followers_of_a_cancelled_leader_are_free)
{
    static struct bench b;
    bench_open(&b, 64, 8, 8, 0);
    struct engine_request group = {.group = 9};
    struct seq *x = submit(&b, 0, 0, 13, group);
    struct seq *y = submit(&b, 1, 0, 13, group);
    step(&b);
    EXPECT(y->leader == x);
    sched_finish(&b.sched, x, true);
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    sched_finish(&b.sched, y, true);
    EXPECT_INT(b.kv.n_free, 64);
    bench_close(&b);
}

TEST(paused_ones_wait_and_give_way)
{
    static struct bench b;
    bench_open(&b, 8, 2, 64, 0);
    struct seq *x = submit(&b, 0, 0, 10, plain);
    struct seq *y = submit(&b, 1, 100, 10, plain);
    step(&b);
    x->paused = true;
    x->pause_ns = b.now;
    step(&b);
    EXPECT_INT(planned(x, &b), 0);
    EXPECT_INT(planned(y, &b), 1);
    EXPECT_INT(kv_held(&x->table), 3); /* no need yet */
    struct seq *z = submit(&b, 2, 200, 4, plain);
    step(&b);
    EXPECT_INT(x->state, SEQ_RUNNING); /* it may only be late */
    b.now += 200000000;
    step(&b);
    EXPECT_INT(x->state, SEQ_PREEMPTED);
    step(&b);
    EXPECT_INT(z->state, SEQ_RUNNING);
    EXPECT_INT(x->state, SEQ_PREEMPTED); /* not admitted while paused */
    sched_finish(&b.sched, z, true);
    x->paused = false;
    for (int i = 0; i < 4; i++)
        step(&b);
    EXPECT_INT(x->state, SEQ_RUNNING);
    bench_close(&b);
}

TEST(window_models_need_few_blocks)
{
    static struct bench b;
    bench_open(&b, 4, 2, 8, 8); /* 3 blocks hold any 8 positions in a row */
    EXPECT_INT(sched_blocks_min(1000, BS, 8), 3);
    EXPECT_INT(sched_blocks_min(7, BS, 8), 2);
    EXPECT_INT(sched_blocks_min(1000, BS, 0), 250);
    EXPECT_INT(sched_tokens_max(1000, 4, BS, 8), 1000);
    EXPECT_INT(sched_tokens_max(1000, 4, BS, 0), 16);
    EXPECT_INT(sched_tokens_max(1000, 2, BS, 8), 8);
    struct seq *x = submit(&b, 0, 0, 60, plain);
    for (int i = 0; i < 40; i++)
        EXPECT(step(&b) > 0);
    EXPECT(x->n_tokens > 80);
    EXPECT(kv_held(&x->table) <= 4);
    EXPECT_INT(x->table.blocks[0], KV_NONE);
    bench_close(&b);
}

TEST(hits_in_the_free_list_are_not_counted_as_room)
{
    static struct bench b;
    bench_open(&b, 6, 4, 64, 0);
    struct seq *x = submit(&b, 0, 0, 12, plain);
    step(&b);
    sched_finish(&b.sched, x, true);
    struct seq *y = submit(&b, 1, 500, 7, plain); /* two blocks, and one spoken for */
    struct seq *z = submit(&b, 2, 0, 14, plain);  /* four: three are cached and free */
    step(&b);
    EXPECT_INT(y->state, SEQ_RUNNING);
    EXPECT_INT(z->state, SEQ_WAITING);
    bench_close(&b);
}

/* Two sequences generate at 10 ms a step and a prompt token takes 1 ms: the others' prompt goes on
 * in pieces that fit into 20 ms, and the second sequence's start costs the first nothing more. */
TEST(prompts_go_on_at_the_pace_of_who_generates)
{
    static struct bench b;
    int longest = 0, steps = 0;
    bench_open(&b, 200, 4, 256, 0);
    pace_init(&b.sched.pace, 20 * 1000000);
    struct seq *x = submit(&b, 0, 0, 5, plain);
    EXPECT_INT(step(&b), 5); /* nobody waits for this prompt: no limit */
    struct seq *y = submit(&b, 1, 100, 200, plain);
    for (; y->n_tokens == 200; steps++) {
        int n = step(&b);
        EXPECT_INT(planned(x, &b), 1);
        EXPECT_INT(b.sched.n_decodes, 1);
        EXPECT_INT(b.sched.n_prompt, n - 1);
        longest = n - 1 > longest ? n - 1 : longest;
        sched_took(&b.sched, 1, n - 1, (uint64_t)(10 + n - 1) * 1000000);
    }
    EXPECT(longest == 8); /* 0.85 of the 10 ms that are left */
    EXPECT(steps >= 200 / 8 && steps <= 200 / 8 + 3);
    bench_close(&b);
}
