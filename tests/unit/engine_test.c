/* engine_test: the whole engine on the demo model, through the public door: goldens, equality of
 * solo, mixed, prefix-cached and preempted runs, cancels, limits, and a step path that does not
 * allocate. */
#include "engine/engine.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

static _Thread_local bool on_engine_thread; /* set by the wake callback */
static atomic_bool counting;
static atomic_int n_allocations;

#if COUNTS_ALLOCATIONS
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);
void free(void *p);

static void count_allocation(void)
{
    if (on_engine_thread && atomic_load(&counting))
        atomic_fetch_add(&n_allocations, 1);
}

void *malloc(size_t n)
{
    count_allocation();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count_allocation();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count_allocation();
    return __libc_realloc(p, n);
}

void free(void *p)
{
    if (p)
        count_allocation();
    __libc_free(p);
}
#endif

/* ---- a rig: one engine, and a loop that waits for its wakes */

enum { TOKENS_MAX = 600, CHOICES_MAX = 64 };

struct rig {
    struct engine *engine;
    struct source *source;
    sem_t news;
};

struct got { /* what one request got */
    struct channel *channel;
    int32_t tokens[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    int32_t top[TOKENS_MAX];
    int n, n_prompt;
    double prompt_logprob_sum;
    char text[8192];
    size_t text_size;
    struct event end; /* its text pointer is not to be used */
    bool over, gone;  /* gone: does not read */
};

static void woken(void *user)
{
    on_engine_thread = true;
    sem_post(&((struct rig *)user)->news);
}

/* The goldens were computed in float32: no level that rounds. */
static struct engine_options standard(void)
{
    return (struct engine_options){.device = "cpu", .cpu_isa = "avx512", .threads = 2,
                                   .max_seqs = 32, .max_batch_tokens = 256, .block_size = 16,
                                   .kv_cache_bytes = 48 << 20, .kv_cache_type = "f32",
                                   .max_queue = 64, .pause_ms_max = 20000, .prefix_cache = true,
                                   .wake = woken};
}

static void rig_open(struct rig *r, struct engine_options o)
{
    struct err err = {0};
    memset(r, 0, sizeof *r);
    sem_init(&r->news, 0, 0);
    EXPECT_INT(source_open(test_path("config/demo"), &r->source, &err), 0);
    o.source = r->source;
    o.user = r;
    int rc = engine_open(&o, &r->engine, &err);
    if (rc)
        printf("    %s\n", err.text);
    EXPECT_INT(rc, 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->engine);
    source_close(r->source);
    sem_destroy(&r->news);
}

static void on_event(struct got *g, const struct event *e)
{
    if (e->kind == EVENT_PROMPT) {
        if (g->n_prompt++)
            g->prompt_logprob_sum += (double)e->logprob;
    } else if (e->kind == EVENT_TOKEN) {
        EXPECT(g->n < TOKENS_MAX);
        g->tokens[g->n] = e->token;
        g->logprobs[g->n] = e->logprob;
        g->top[g->n++] = e->n_top ? e->top[e->n_top - 1].token : -1;
    }
    EXPECT(g->text_size + e->text_size < sizeof g->text);
    memcpy(g->text + g->text_size, e->text, e->text_size + 1);
    g->text_size += e->text_size;
    if (e->kind == EVENT_DONE || e->kind == EVENT_FAILED) {
        g->end = *e;
        g->over = true;
        engine_release(g->channel);
    }
}

static void take(struct got *g)
{
    struct event e;
    while (!g->over && engine_next(g->channel, &e))
        on_event(g, &e);
}

/* Until all n are over, or for so many seconds. */
static bool wait_all(struct rig *r, struct got *got, int n, int seconds)
{
    struct timespec until;
    void *user;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    for (;;) {
        bool all = true;
        while (engine_poll(r->engine, &user))
            if (!((struct got *)user)->gone)
                take(user);
        for (int i = 0; i < n; i++)
            all &= got[i].over;
        if (all || sem_timedwait(&r->news, &until))
            return all;
    }
}

static int submit(struct rig *r, const struct engine_request *request, struct got *g)
{
    struct err err = {0};
    memset(g, 0, sizeof *g);
    return engine_submit(r->engine, request, g, &g->channel, &err);
}

static struct engine_request greedy(const int32_t *tokens, int n, int max_tokens)
{
    struct engine_request q = {.tokens = tokens, .n_tokens = n, .max_tokens = max_tokens,
                               .prompt_logprobs = -1};
    sample_params_init(&q.params);
    q.params.temperature = 0;
    return q;
}

static void expect_idle(struct rig *r)
{
    struct engine_stats s;
    for (int i = 0; i < 200; i++) {
        engine_stats(r->engine, &s);
        if (!s.busy)
            break;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    EXPECT(!s.busy);
    EXPECT_INT(s.kv_blocks_used, 0);
    EXPECT_INT(s.running + s.waiting + s.paused, 0);
}

/* ---- goldens */

struct golden {
    char name[64], text[4096];
    int32_t prompt[TOKENS_MAX], greedy[TOKENS_MAX];
    int n_prompt, n_greedy;
    double mean_logprob;
};

static int read_ids(const json_t *array, int32_t *ids)
{
    int n = (int)json_array_size(array);
    EXPECT(n <= TOKENS_MAX);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    return n;
}

static int read_goldens(struct golden *goldens, int most)
{
    struct dirent *entry;
    int n = 0;
    char folder[1024], path[1400];
    snprintf(folder, sizeof folder, "%s", test_path("tests/golden/demo"));
    DIR *dir = opendir(folder);
    EXPECT(dir != NULL);
    while ((entry = readdir(dir)) && n < most) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        json_t *j = json_load_file(path, 0, NULL);
        json_t *prompt = json_object_get(j, "prompt_ids"), *ids = json_object_get(j, "greedy_ids");
        if (json_is_array(prompt) && json_is_array(ids) && json_array_size(ids) &&
            json_array_size(prompt) < TOKENS_MAX) {
            struct golden *g = &goldens[n++];
            memset(g, 0, sizeof *g);
            snprintf(g->name, sizeof g->name, "%s", entry->d_name);
            g->n_prompt = read_ids(prompt, g->prompt);
            g->n_greedy = read_ids(ids, g->greedy);
            g->mean_logprob = json_number_value(json_object_get(j, "prompt_mean_logprob"));
            const char *text = json_string_value(json_object_get(j, "greedy_text"));
            const char *hidden = "[TOOL_CALLS]"; /* a control token at the start */
            if (!strncmp(text, hidden, strlen(hidden)))
                text += strlen(hidden);
            snprintf(g->text, sizeof g->text, "%s", text);
            char *end = strstr(g->text, "</s>");
            if (end)
                *end = 0;
        }
        json_decref(j);
    }
    closedir(dir);
    EXPECT(n >= 10);
    return n;
}

static struct golden goldens[32];
static struct got got[CHOICES_MAX], again[CHOICES_MAX];

TEST_SECONDS(goldens_all_in_one_batch, 120)
{
    struct rig r;
    int n = read_goldens(goldens, 32);
    rig_open(&r, standard());
    for (int i = 0; i < n; i++) {
        struct engine_request q = greedy(goldens[i].prompt, goldens[i].n_prompt,
                                         goldens[i].n_greedy);
        EXPECT_INT(submit(&r, &q, &got[i]), 0);
    }
    EXPECT(wait_all(&r, got, n, 100));
    for (int i = 0; i < n; i++) {
        struct golden *g = &goldens[i];
        bool eos = g->greedy[g->n_greedy - 1] == 2;
        if (memcmp(got[i].tokens, g->greedy, (size_t)g->n_greedy * sizeof *g->greedy))
            printf("    %s\n", g->name);
        EXPECT_INT(got[i].n, g->n_greedy);
        EXPECT(!memcmp(got[i].tokens, g->greedy, (size_t)g->n_greedy * sizeof *g->greedy));
        /* after a control token a text begins; after ordinary text it goes on, space and all */
        bool begins = tokenizer_is_special(engine_tokenizer(r.engine), g->prompt[g->n_prompt - 1]);
        EXPECT(begins || got[i].text[0] == ' ');
        EXPECT_STR(got[i].text + !begins, g->text);
        EXPECT_INT(got[i].end.finish, eos ? FINISH_STOP : FINISH_LENGTH);
        EXPECT(got[i].end.stop_is_eos == eos);
        EXPECT_INT(got[i].end.usage.prompt_tokens, g->n_prompt);
        EXPECT_INT(got[i].end.usage.output_tokens, g->n_greedy);
        EXPECT(got[i].end.usage.first_token_ms > 0);
    }
    expect_idle(&r);
    rig_close(&r);
}

/* The beginnings of two short answers from the plugin, which takes its time where it is emulated. */
TEST_SECONDS(a_plugin_serves_too, 300)
{
    struct engine_options o = standard();
    struct rig r;
    int n = read_goldens(goldens, 32), n_asked = 0;
    o.cuda_plugin = getenv("SIROCCO_TEST_PLUGIN");
    if (!o.cuda_plugin || !*o.cuda_plugin)
        SKIP("SIROCCO_TEST_PLUGIN names no plugin");
    o.device = "cuda";
    o.gpu_memory_fraction = 0.2;
    o.kv_cache_type = "f16";
    rig_open(&r, o);
    EXPECT(!strncmp(engine_info(r.engine)->device, "cuda", 4));
    for (int i = 0; i < n; i++) {
        struct engine_request q = greedy(goldens[i].prompt, goldens[i].n_prompt, 4);
        if (n_asked < 2 && goldens[i].n_prompt < 40 && goldens[i].n_greedy > 4) {
            goldens[n_asked] = goldens[i];
            EXPECT_INT(submit(&r, &q, &got[n_asked++]), 0);
        }
    }
    EXPECT(n_asked == 2 && wait_all(&r, got, 2, 280));
    for (int i = 0; i < 2; i++)
        EXPECT(!memcmp(got[i].tokens, goldens[i].greedy, 4 * sizeof *got[i].tokens));
    expect_idle(&r);
    rig_close(&r);
}

TEST_SECONDS(prompt_logprobs_match_the_goldens, 120)
{
    struct rig r;
    int n = read_goldens(goldens, 32);
    struct engine_options o = standard();
    o.max_batch_tokens = 24; /* prompts come in chunks, rows in slices */
    o.max_seqs = 4;
    rig_open(&r, o);
    for (int i = 0; i < n; i++) {
        struct engine_request q = greedy(goldens[i].prompt, goldens[i].n_prompt, i % 2);
        q.prompt_logprobs = i % 3;
        EXPECT_INT(submit(&r, &q, &got[i]), 0);
    }
    EXPECT(wait_all(&r, got, n, 100));
    for (int i = 0; i < n; i++) {
        double mean = got[i].prompt_logprob_sum / (goldens[i].n_prompt - 1);
        EXPECT_INT(got[i].n_prompt, goldens[i].n_prompt);
        EXPECT_INT(got[i].n, i % 2);
        EXPECT_NEAR(mean, goldens[i].mean_logprob, 2e-3);
        EXPECT_INT(got[i].end.usage.cached_tokens, 0);
    }
    rig_close(&r);
}

/* ---- the same, whatever happens around it */

enum { MIX = 24 };

static struct engine_request mixed_request(int i)
{
    struct golden *g = &goldens[i % 12];
    struct engine_request q = greedy(g->prompt, g->n_prompt, 30 + i);
    q.params.temperature = i % 3 ? 0.9f : 0;
    q.params.top_p = i % 2 ? 0.9f : 1;
    q.params.repetition_penalty = i % 4 ? 1 : 1.2f;
    q.params.has_seed = true;
    q.params.seed = i;
    q.params.logprobs = 3;
    q.ignore_eos = true;
    return q;
}

static void run_mix(struct engine_options o, bool one_by_one, struct got *out,
                    struct engine_stats *stats)
{
    struct rig r;
    rig_open(&r, o);
    for (int i = 0; i < MIX; i++) {
        struct engine_request q = mixed_request(i);
        EXPECT_INT(submit(&r, &q, &out[i]), 0);
        if (one_by_one)
            EXPECT(wait_all(&r, &out[i], 1, 60));
    }
    EXPECT(wait_all(&r, out, MIX, 100));
    expect_idle(&r);
    engine_stats(r.engine, stats);
    rig_close(&r);
}

static void expect_same(const struct got *x, const struct got *y)
{
    for (int i = 0; i < MIX; i++) {
        EXPECT_INT(x[i].n, y[i].n);
        EXPECT(!memcmp(x[i].tokens, y[i].tokens, (size_t)x[i].n * sizeof *x[i].tokens));
        EXPECT(!memcmp(x[i].logprobs, y[i].logprobs, (size_t)x[i].n * sizeof *x[i].logprobs));
        EXPECT(!memcmp(x[i].top, y[i].top, (size_t)x[i].n * sizeof *x[i].top));
        EXPECT_STR(x[i].text, y[i].text);
    }
}

TEST_SECONDS(solo_mixed_cached_and_preempted_are_bit_identical, 300)
{
    struct engine_stats stats;
    struct engine_options o = standard();
    read_goldens(goldens, 32);
    o.prefix_cache = false;
    run_mix(o, true, got, &stats);
    EXPECT_INT((int)stats.prefix_hits, 0);

    run_mix(o, false, again, &stats); /* mixed */
    expect_same(got, again);

    o.max_batch_tokens = 19; /* mixed, in odd chunks */
    o.threads = 1;
    run_mix(o, false, again, &stats);
    expect_same(got, again);

    o = standard(); /* cached */
    run_mix(o, true, again, &stats);
    EXPECT(stats.prefix_hits > 100);
    expect_same(got, again);

    o.kv_cache_bytes = (int64_t)6 * 2 * 64 * 2 * 4 * 16 * 60; /* 60 blocks for all: preempted */
    run_mix(o, false, again, &stats);
    EXPECT(stats.preemptions > 0);
    expect_same(got, again);
}

TEST_SECONDS(steps_do_not_allocate, 120)
{
    struct rig r;
    if (!COUNTS_ALLOCATIONS)
        SKIP("a sanitizer owns malloc");
    read_goldens(goldens, 32);
    struct engine_options o = standard();
    o.kv_cache_bytes = (int64_t)6 * 2 * 64 * 2 * 4 * 16 * 60;
    rig_open(&r, o);
    for (int round = 0; round < 2; round++) { /* the first round: the thread makes itself known */
        for (int i = 0; i < MIX; i++) {
            struct engine_request q = mixed_request(i);
            q.prompt_logprobs = i % 5 ? -1 : 2;
            q.params.typical_p = i % 7 ? 1 : 0.9f;
            q.params.min_p = i % 6 ? 0 : 0.05f;
            q.params.top_k = i % 5 ? 0 : 40;
            EXPECT_INT(submit(&r, &q, &got[i]), 0);
            if (i % 8 == 7)
                engine_cancel(got[i].channel);
        }
        EXPECT(wait_all(&r, got, MIX, 100));
        EXPECT(round || atomic_load(&n_allocations) == 0);
        atomic_store(&counting, true);
    }
    EXPECT_INT(atomic_load(&n_allocations), 0);
    rig_close(&r);
}

TEST(the_counter_of_allocations_counts)
{
    if (!COUNTS_ALLOCATIONS)
        SKIP("a sanitizer owns malloc");
    on_engine_thread = true;
    atomic_store(&counting, true);
    void *volatile p = malloc(10);
    free(p);
    EXPECT_INT(atomic_load(&n_allocations), 2);
}

/* ---- cancels, readers, limits */

TEST(cancelled_ones_end_once_and_free_their_blocks)
{
    struct rig r;
    read_goldens(goldens, 32);
    rig_open(&r, standard());
    for (int i = 0; i < 20; i++) {
        struct engine_request q = greedy(goldens[0].prompt, goldens[0].n_prompt, 500);
        q.ignore_eos = true;
        EXPECT_INT(submit(&r, &q, &got[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        if (i == 10)
            nanosleep(&(struct timespec){0, 30000000}, NULL);
        engine_cancel(got[i].channel);
        engine_cancel(got[i].channel);
    }
    EXPECT(wait_all(&r, got, 20, 20));
    for (int i = 0; i < 20; i++)
        EXPECT_INT(got[i].end.finish, FINISH_CANCELLED);
    expect_idle(&r);
    rig_close(&r);
}

TEST_SECONDS(who_does_not_read_is_cancelled_and_hurts_nobody, 60)
{
    struct rig r;
    struct engine_options o = standard();
    o.pause_ms_max = 300;
    o.max_seqs = 1;
    read_goldens(goldens, 32);
    rig_open(&r, o);
    struct engine_request q = greedy(goldens[0].prompt, goldens[0].n_prompt, 550);
    q.ignore_eos = true;
    q.params.logprobs = 20;
    EXPECT_INT(submit(&r, &q, &got[0]), 0);
    got[0].gone = true;
    q = greedy(goldens[1].prompt, goldens[1].n_prompt, 20);
    EXPECT_INT(submit(&r, &q, &got[1]), 0);
    EXPECT(wait_all(&r, &got[1], 1, 20));
    EXPECT(!memcmp(got[1].tokens, goldens[1].greedy, (size_t)got[1].n * sizeof(int32_t)));
    nanosleep(&(struct timespec){0, 900000000}, NULL);
    take(&got[0]);
    EXPECT(got[0].over);
    EXPECT_INT(got[0].end.finish, FINISH_CANCELLED);
    expect_idle(&r);
    rig_close(&r);
}

TEST(a_slow_reader_gets_everything)
{
    struct rig r;
    read_goldens(goldens, 32);
    rig_open(&r, standard());
    struct engine_request q = greedy(goldens[0].prompt, goldens[0].n_prompt, 300);
    q.ignore_eos = true;
    q.params.logprobs = 20;
    EXPECT_INT(submit(&r, &q, &got[0]), 0);
    EXPECT(wait_all(&r, got, 1, 30));
    EXPECT_INT(submit(&r, &q, &again[0]), 0);
    again[0].gone = true;
    for (int i = 0; i < 5000 && !again[0].over; i++) { /* the ring is full most of the time */
        struct event e;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        if (engine_next(again[0].channel, &e))
            on_event(&again[0], &e);
    }
    EXPECT_INT(again[0].n, 300);
    EXPECT(!memcmp(got[0].tokens, again[0].tokens, 300 * sizeof(int32_t)));
    rig_close(&r);
}

TEST(what_can_not_be_run_is_refused)
{
    struct rig r;
    static int32_t tokens[8192];
    int32_t bad[] = {1, 4096};
    struct engine_options o = standard();
    struct sample_bias bias = {4096, 1};
    for (int i = 0; i < 8192; i++)
        tokens[i] = 5;
    o.max_model_len = 1024;
    o.max_seqs = 2;
    o.max_queue = 3;
    rig_open(&r, o);
    struct engine_request q = greedy(tokens, 1024, 5);
    EXPECT_INT(submit(&r, &q, &got[0]), ERR_CONTEXT);
    q = greedy(bad, 2, 5);
    EXPECT_INT(submit(&r, &q, &got[0]), ERR_VALUE);
    q = greedy(tokens, 0, 5);
    EXPECT_INT(submit(&r, &q, &got[0]), ERR_VALUE);
    q = greedy(tokens, 4, 5);
    q.params.bias = &bias;
    q.params.n_bias = 1;
    EXPECT_INT(submit(&r, &q, &got[0]), ERR_VALUE);
    q.params.n_bias = 0;
    q.params.temperature = NAN;
    EXPECT(submit(&r, &q, &got[0]) < 0);

    q = greedy(tokens, 1023, 500); /* one more fits: max_tokens is clamped */
    EXPECT_INT(submit(&r, &q, &got[0]), 0);
    EXPECT(wait_all(&r, got, 1, 30));
    EXPECT_INT(got[0].n, 1);
    EXPECT_INT(got[0].end.finish, FINISH_LENGTH);

    q = greedy(tokens, 4, 0); /* nothing to do is done at once */
    EXPECT_INT(submit(&r, &q, &got[0]), 0);
    EXPECT(wait_all(&r, got, 1, 30));
    EXPECT_INT(got[0].end.finish, FINISH_LENGTH);

    q = greedy(tokens, 4, 500);
    q.ignore_eos = true;
    for (int i = 0; i < 5; i++) /* two run, three queue */
        EXPECT_INT(submit(&r, &q, &got[i]), 0);
    EXPECT_INT(submit(&r, &q, &got[5]), ERR_FULL);
    for (int i = 0; i < 5; i++)
        engine_cancel(got[i].channel);
    EXPECT(wait_all(&r, got, 5, 30));
    EXPECT_INT(submit(&r, &q, &got[5]), 0);
    engine_cancel(got[5].channel);
    EXPECT(wait_all(&r, &got[5], 1, 30));
    rig_close(&r);
}

TEST(choices_of_one_request_share_its_prompt)
{
    struct rig r;
    read_goldens(goldens, 32);
    struct golden *longest = &goldens[0];
    for (int i = 1; i < 12; i++)
        if (goldens[i].n_prompt > longest->n_prompt)
            longest = &goldens[i];
    rig_open(&r, standard());
    for (int i = 0; i < 8; i++) {
        struct engine_request q = greedy(longest->prompt, longest->n_prompt, 4);
        q.group = 1;
        EXPECT_INT(submit(&r, &q, &got[i]), 0);
    }
    EXPECT(wait_all(&r, got, 8, 30));
    EXPECT_INT(got[0].end.usage.cached_tokens, 0);
    for (int i = 1; i < 8; i++)
        EXPECT_INT(got[i].end.usage.cached_tokens, (longest->n_prompt - 1) / 16 * 16);
    rig_close(&r);
}

TEST(an_idle_engine_takes_no_time)
{
    struct rig r;
    struct timespec before, after;
    read_goldens(goldens, 32);
    rig_open(&r, standard());
    struct engine_request q = greedy(goldens[0].prompt, goldens[0].n_prompt, 4);
    EXPECT_INT(submit(&r, &q, &got[0]), 0);
    EXPECT(wait_all(&r, got, 1, 30));
    nanosleep(&(struct timespec){0, 100000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){0, 500000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    EXPECT((after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec < 5000000);
    rig_close(&r);
}
