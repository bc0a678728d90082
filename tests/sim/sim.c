/* sim: a seeded simulator of the engine: the real step, scheduler, block pool, sequences, mailbox,
 * sampler and stream, over a fake model and a virtual clock. One seed is one world: pool, budget,
 * window, arrivals, cancels, readers. After every step the invariants are checked; every request's
 * events are compared with what it would have got alone. A failing seed prints itself.
 *
 *     sim [--seeds N] [--steps M] [--seed S]       last line: `N passed, N failed, N skipped` */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/fake.h"

enum {
    REQUESTS_MAX = 64, /* alive at a time */
    TOKENS_MAX = 160,
    TEXT_MAX = 4 * TOKENS_MAX,
    STALL_STEPS_MAX = 64,
    DRAIN_STEPS_MAX = 60000
};

enum reader { READER_FAST, READER_SLOW, READER_GONE };

/* What a request gets when it is alone in the world. */
struct expected {
    int32_t tokens[TOKENS_MAX];
    int n_tokens, n_prompt_events;
    char text[TEXT_MAX];
    size_t text_size;
    bool fails; /* by numbers that are not finite, after these tokens */
    enum finish_reason finish;
};

struct request {
    struct channel *channel; /* NULL: this place is free */
    struct engine_request asked;
    int32_t prompt[TOKENS_MAX];
    char stop[4];
    struct expected expected;
    enum reader reader;
    bool cancelled, was_running;
    int n_tokens, n_prompt_events;
    char text[TEXT_MAX];
    size_t text_size;
};

struct world {
    uint64_t seed, random;
    struct step step;
    struct fake fake;
    struct mailbox *mailbox;
    struct sampler *sampler; /* the oracle's own */
    int max_model_len, n_live_max, n_live, n_wakes;
    int32_t prefix[TOKENS_MAX]; /* prompts that share begin with it */
    struct request requests[REQUESTS_MAX];
    int32_t *refs;
    int n_stalled;
    uint64_t n_pauses, n_flights;
    uint64_t next_group;
    char failure[400];
};

/* What all worlds together lived through: a run that never met one of these proves little. */
static struct {
    const char *name;
    uint64_t n;
} seen[] = {{"steps", 0},       {"finished", 0},      {"cancelled", 0},
            {"failed", 0},      {"preemptions", 0},   {"cached tokens", 0},
            {"evictions", 0},   {"pauses", 0},        {"deaths", 0},
            {"in flight", 0}};

/* ---- chance */

static uint64_t draw(struct world *w)
{
    w->random = fake_mix(w->random, 1);
    return w->random;
}

static int between(struct world *w, int low, int high)
{
    return low + (int)(draw(w) % (uint64_t)(high - low + 1));
}

static bool one_in(struct world *w, int n)
{
    return draw(w) % (uint64_t)n == 0;
}

#define FAIL(w, ...)                                                                               \
    do {                                                                                           \
        if (!*(w)->failure)                                                                        \
            snprintf((w)->failure, sizeof(w)->failure, __VA_ARGS__);                               \
    } while (0)

/* ---- the oracle */

static int32_t next_token(struct world *w, const struct request *r, const int32_t *tokens, int n,
                          float *logits, const struct pick_result *pick)
{
    static const int32_t eos = FAKE_EOS;
    struct sample_result result;
    struct sample_input in = {.logits = logits, .pick = pick, .params = &r->asked.params,
                              .seed = (uint64_t)r->asked.params.seed, .tokens = tokens, .n = n,
                              .n_prompt = r->asked.n_tokens, .n_tokens_valid = FAKE_VOCAB,
                              .stop_ids = &eos, .n_stop_ids = r->asked.ignore_eos ? 0 : 1};
    if (sampler_draw(w->sampler, &in, &result))
        FAIL(w, "the oracle can not draw");
    return result.token;
}

/* True: the text ends here, before the stop string, which may begin at first. */
static bool cut_at_stop(const struct request *r, struct expected *e, size_t first)
{
    e->text[e->text_size] = 0;
    char *found = *r->stop ? strstr(e->text + first, r->stop) : NULL;
    if (found)
        e->text_size = (size_t)(found - e->text);
    return found != NULL;
}

static void expect(struct world *w, struct request *r)
{
    struct expected *e = &r->expected;
    struct pick_result pick;
    float logits[FAKE_VOCAB];
    int32_t tokens[TOKENS_MAX];
    uint64_t chain = fake_start();
    int n = r->asked.n_tokens;
    bool prompt_events = r->asked.prompt_logprobs >= 0;
    *e = (struct expected){.finish = FINISH_LENGTH, .n_prompt_events = prompt_events};
    memcpy(tokens, r->prompt, sizeof tokens);
    for (int i = 0; i < n; i++) {
        chain = fake_mix(chain, (uint64_t)tokens[i]);
        fake_row(&w->fake, chain, logits, &pick);
        if (prompt_events && i + 1 < n && pick.bad) {
            e->fails = true;
            return;
        }
        e->n_prompt_events += prompt_events && i + 1 < n;
    }
    if (!r->asked.max_tokens) { /* computed only for prompt events */
        e->fails = prompt_events && pick.bad;
        return;
    }
    size_t first = 0;
    while (e->n_tokens < r->asked.max_tokens) {
        size_t size;
        if (pick.bad) {
            e->fails = true;
            return;
        }
        int32_t token = next_token(w, r, tokens, n, logits, &pick);
        const char *piece = fake_piece(token, &size);
        tokens[n++] = e->tokens[e->n_tokens++] = token;
        memcpy(e->text + e->text_size, piece, size);
        e->text_size += size;
        if (!size && r->asked.special_breaks)
            first = e->text_size;
        e->finish = FINISH_STOP;
        if (cut_at_stop(r, e, first) || (token == FAKE_EOS && !r->asked.ignore_eos))
            return;
        e->finish = FINISH_LENGTH;
        chain = fake_mix(chain, (uint64_t)token);
        fake_row(&w->fake, chain, logits, &pick);
    }
}

/* ---- the loop's side */

static int size_near(struct world *w, int block_size, int most)
{
    int n = one_in(w, 3) ? between(w, 1, most)
                         : block_size * between(w, 0, 1 + most / block_size) + between(w, -1, 1);
    return n < 1 ? 1 : n > most ? most : n;
}

static void make_prompt(struct world *w, struct request *r, int n)
{
    int shared = one_in(w, 2) ? between(w, 0, n) : 0;
    for (int i = 0; i < n; i++)
        r->prompt[i] = i < shared ? w->prefix[i] : (int32_t)between(w, 1, 4);
    r->asked.tokens = r->prompt;
    r->asked.n_tokens = n;
}

static void make_request(struct world *w, struct request *r, int most)
{
    int bs = w->step.options.block_size;
    *r = (struct request){0};
    make_prompt(w, r, size_near(w, bs, most - 1));
    int left = most - r->asked.n_tokens;
    sample_params_init(&r->asked.params);
    r->asked.max_tokens = one_in(w, 12) ? 0 : one_in(w, 3) ? left : size_near(w, bs, left);
    r->asked.params.temperature = one_in(w, 3) ? 1 : 0;
    r->asked.params.typical_p = one_in(w, 10) ? 0.9f : 1; /* what no device draws */
    r->asked.params.presence_penalty = one_in(w, 5) ? 1.5f : 0;
    r->asked.params.frequency_penalty = one_in(w, 5) ? -0.5f : 0;
    r->asked.params.repetition_penalty = one_in(w, 5) ? 1.3f : 1;
    r->asked.params.has_seed = true;
    r->asked.params.seed = between(w, 0, 3);
    r->asked.params.logprobs = one_in(w, 3) ? 20 : -1;
    r->asked.params.min_tokens = one_in(w, 6) ? between(w, 0, 5) : 0;
    r->asked.prompt_logprobs = one_in(w, 5) ? (one_in(w, 2) ? 20 : between(w, 0, 20)) : -1;
    r->asked.ignore_eos = one_in(w, 3);
    r->asked.special_breaks = one_in(w, 2);
    r->asked.priority = one_in(w, 4) ? between(w, -1, 1) : 0;
    r->asked.cache_salt = one_in(w, 6);
    if (r->asked.params.min_tokens == 0 && one_in(w, 4)) {
        static const char stops[][4] = {"t", "et", "ao", "inS"};
        memcpy(r->stop, stops[between(w, 0, 3)], 4);
        r->asked.stops.n = 1;
        r->asked.stops.text[0] = r->stop;
        r->asked.stops.size[0] = strlen(r->stop);
    }
    r->reader = one_in(w, 12) ? READER_GONE : one_in(w, 2) ? READER_SLOW : READER_FAST;
}

/* Between submit and terminal event; a slow reader may not have seen that yet. */
static int n_under_way(const struct world *w)
{
    int n = 0;
    for (int i = 0; i < REQUESTS_MAX; i++)
        n += w->requests[i].channel && mailbox_seq(w->requests[i].channel)->state != SEQ_FINISHED;
    return n;
}

/* As engine_submit does. */
static void submit(struct world *w, struct request *r)
{
    static const int32_t eos = FAKE_EOS;
    const struct step_options *o = &w->step.options;
    struct seq_options so = {.eos = &eos, .n_eos = 1, .block_size = o->block_size};
    int n_top = r->asked.params.logprobs > r->asked.prompt_logprobs ? r->asked.params.logprobs
                                                                    : r->asked.prompt_logprobs;
    struct mailbox_sizes sizes = {.text_max = seq_text_max(&r->asked, o->piece_max),
                                  .n_top_max = n_top > 0 ? n_top : 0};
    expect(w, r);
    if (!seq_bytes(&r->asked, &so, &sizes.seq_bytes))
        FAIL(w, "seq_bytes refuses a small request");
    struct channel *c = mailbox_channel(w->mailbox, &sizes, r);
    seq_init(mailbox_seq(c), &r->asked, &so, mailbox_arrays(c));
    mailbox_seq(c)->submit_ns = w->fake.now_ns;
    int rc = mailbox_submit(c, w->n_live_max);
    int wanted = w->step.death.code ? ERR_DEAD : n_under_way(w) >= w->n_live_max ? ERR_FULL : 0;
    if (rc != wanted)
        FAIL(w, "submit gave %s, not %s", err_name(rc), err_name(wanted));
    if (rc) {
        mailbox_discard(c);
        return;
    }
    r->channel = c;
    w->n_live++;
}

static struct request *free_place(struct world *w)
{
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (!w->requests[i].channel)
            return &w->requests[i];
    return NULL;
}

static void arrive(struct world *w)
{
    const struct step_options *o = &w->step.options;
    int most = sched_tokens_max(w->max_model_len, o->n_blocks, o->block_size, o->sched.window);
    int n = one_in(w, 6) ? between(w, 2, 4) : 1; /* choices of one request */
    struct request *first = free_place(w);
    if (!first)
        return;
    make_request(w, first, most);
    first->asked.group = n > 1 ? ++w->next_group : 0;
    submit(w, first);
    for (int i = 1; i < n; i++) {
        struct request *r = free_place(w);
        if (!r)
            return;
        *r = *first;
        r->channel = NULL;
        r->cancelled = false;
        r->asked.tokens = r->prompt;
        r->asked.stops.text[0] = r->stop;
        r->asked.params.seed = i;
        submit(w, r);
    }
}

/* ---- events */

static bool same_float(float x, float y)
{
    return x == y || (isnan(x) && isnan(y));
}

static void on_done(struct world *w, struct request *r, const struct event *e)
{
    const struct expected *x = &r->expected;
    const struct engine_usage *u = &e->usage;
    bool may_cancel = r->cancelled || r->reader != READER_FAST;
    if (e->finish == FINISH_CANCELLED ? !may_cancel : x->fails || e->finish != x->finish)
        FAIL(w, "finish %d, expected %d%s", e->finish, x->finish, x->fails ? " (failed)" : "");
    if (e->finish == FINISH_CANCELLED)
        return;
    if (r->n_tokens != x->n_tokens || r->n_prompt_events != x->n_prompt_events)
        FAIL(w, "done with %d tokens of %d, %d prompt events of %d", r->n_tokens, x->n_tokens,
             r->n_prompt_events, x->n_prompt_events);
    if (r->text_size != x->text_size || memcmp(r->text, x->text, x->text_size))
        FAIL(w, "text '%.*s', expected '%.*s'", (int)r->text_size, r->text, (int)x->text_size,
             x->text);
    if (u->prompt_tokens != r->asked.n_tokens || u->output_tokens != x->n_tokens ||
        u->cached_tokens >= u->prompt_tokens || u->cached_tokens % w->step.options.block_size)
        FAIL(w, "usage %d, %d, %d", u->prompt_tokens, u->cached_tokens, u->output_tokens);
}

static void on_event(struct world *w, struct request *r, const struct event *e)
{
    const struct expected *x = &r->expected;
    if (e->kind == EVENT_PROMPT) {
        if (r->n_tokens || r->n_prompt_events >= r->asked.n_tokens ||
            e->token != r->prompt[r->n_prompt_events] ||
            isnan(e->logprob) != (r->n_prompt_events == 0))
            FAIL(w, "prompt event %d: token %d", r->n_prompt_events, e->token);
        r->n_prompt_events++;
    }
    if (e->kind == EVENT_TOKEN) {
        if (r->n_tokens >= x->n_tokens || e->token != x->tokens[r->n_tokens])
            FAIL(w, "token %d is %d, expected %d", r->n_tokens, e->token,
                 r->n_tokens < x->n_tokens ? x->tokens[r->n_tokens] : -1);
        if (same_float(e->logprob, NAN) != (r->asked.params.logprobs < 0))
            FAIL(w, "token %d has logprob %g", r->n_tokens, (double)e->logprob);
        r->n_tokens++;
    }
    if (e->text_size + r->text_size > sizeof r->text) {
        FAIL(w, "too much text");
        return;
    }
    memcpy(r->text + r->text_size, e->text, e->text_size);
    r->text_size += e->text_size;
    if (e->kind == EVENT_DONE)
        on_done(w, r, e);
    if (e->kind == EVENT_FAILED && e->error != ERR_DEAD &&
        !(e->error == ERR_INTERNAL && x->fails && r->n_tokens == x->n_tokens))
        FAIL(w, "failed: %s", e->error_text);
    if (e->kind == EVENT_FAILED && e->error == ERR_DEAD && !w->step.death.code)
        FAIL(w, "failed as dead while alive");
    if (e->kind == EVENT_DONE || e->kind == EVENT_FAILED) {
        struct event more;
        if (mailbox_next(r->channel, &more))
            FAIL(w, "an event after the terminal one");
        mailbox_release(r->channel);
        r->channel = NULL;
        w->n_live--;
    }
}

static void read_some(struct world *w, struct request *r, int most)
{
    struct event e;
    while (r->channel && most-- > 0 && mailbox_next(r->channel, &e))
        on_event(w, r, &e);
}

static void read_all(struct world *w, bool draining)
{
    void *user;
    while (mailbox_poll(w->mailbox, &user))
        if (((struct request *)user)->reader == READER_FAST)
            read_some(w, user, 1000);
    w->n_wakes = 0;
    for (int i = 0; i < REQUESTS_MAX; i++) {
        struct request *r = &w->requests[i];
        if (r->channel && draining)
            read_some(w, r, 1000);
        else if (r->channel && r->reader == READER_SLOW && one_in(w, 4))
            read_some(w, r, between(w, 1, 8));
        else if (r->channel && (r->cancelled || mailbox_seq(r->channel)->state == SEQ_FINISHED))
            read_some(w, r, 1000); /* even who is gone closes the books */
    }
}

static void cancel_some(struct world *w)
{
    struct request *r = &w->requests[between(w, 0, REQUESTS_MAX - 1)];
    if (!r->channel)
        return;
    r->cancelled = true;
    mailbox_cancel(r->channel);
    if (one_in(w, 2))
        mailbox_cancel(r->channel);
}

/* ---- the invariants */

static void check_pool(struct world *w)
{
    const struct kv_table *tables[REQUESTS_MAX];
    struct err err = {0};
    int n = 0;
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (w->requests[i].channel)
            tables[n++] = &mailbox_seq(w->requests[i].channel)->table;
    if (kv_check(&w->step.kv, tables, n, w->refs, &err) || sched_check(&w->step.sched, &err))
        FAIL(w, "%s", err.text);
}

static void check_request(struct world *w, struct request *r)
{
    const struct seq *seq = mailbox_seq(r->channel);
    bool paused_out = r->was_running && seq->state == SEQ_PREEMPTED && !seq->paused;
    if (r->cancelled && (seq->state != SEQ_FINISHED || seq->table.n))
        FAIL(w, "cancelled before the step, and still state %d with %d blocks", seq->state,
             seq->table.n);
    for (const struct seq *s = w->step.sched.running.first; s && paused_out; s = s->next)
        if (s->request.priority > seq->request.priority ||
            (s->request.priority == seq->request.priority && s->arrival > seq->arrival))
            FAIL(w, "sequence %d was preempted before %d", (int)seq->arrival, (int)s->arrival);
    if (seq->state == SEQ_RUNNING &&
        seq->table.n != (seq->n_computed + w->step.options.block_size - 1) /
                            w->step.options.block_size)
        FAIL(w, "%d entries for %d computed tokens", seq->table.n, seq->n_computed);
}

/* While someone could run, steps without work must stay few. */
static void check_progress(struct world *w, bool worked)
{
    bool someone = false;
    for (int i = 0; i < REQUESTS_MAX; i++) {
        const struct seq *seq =
            w->requests[i].channel ? mailbox_seq(w->requests[i].channel) : NULL;
        someone |= seq && seq->state != SEQ_FINISHED && !seq->paused && !seq->leader;
    }
    w->n_stalled = worked || !someone ? 0 : w->n_stalled + 1;
    if (w->n_stalled > STALL_STEPS_MAX)
        FAIL(w, "no progress in %d steps", STALL_STEPS_MAX);
}

static void check_stats(struct world *w)
{
    struct engine_stats stats;
    mailbox_stats(w->mailbox, &stats);
    if (stats.kv_blocks_used + w->step.kv.n_free != w->step.kv.n_blocks ||
        stats.running != w->step.sched.running.n || stats.waiting != w->step.sched.waiting.n ||
        stats.busy != (stats.running + stats.waiting > 0) || stats.dead != !!w->step.death.code)
        FAIL(w, "the published statistics are wrong");
}

static void turn(struct world *w)
{
    int sleep_ms;
    for (int i = 0; i < REQUESTS_MAX; i++)
        w->requests[i].was_running = w->requests[i].channel &&
            mailbox_seq(w->requests[i].channel)->state == SEQ_RUNNING;
    bool worked = step_once(&w->step, &sleep_ms);
    if (w->n_wakes > 1 + (w->step.death.code != 0)) /* dying wakes once more */
        FAIL(w, "%d wakes before the news were read", w->n_wakes);
    if (*w->fake.broken)
        FAIL(w, "%s", w->fake.broken);
    check_pool(w);
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (w->requests[i].channel)
            check_request(w, &w->requests[i]);
    check_progress(w, worked);
    check_stats(w);
    w->n_pauses += (uint64_t)w->step.stats.paused;
    w->n_flights += w->step.in_flight;
    w->fake.now_ns += (uint64_t)(one_in(w, 200) ? between(w, 100, 5000) : between(w, 1, 20)) *
                      1000000u;
}

/* ---- a world */

static void count_wake(void *user)
{
    ((struct world *)user)->n_wakes++;
}

static void open_world(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->random = fake_mix(seed, 99);
    struct step_options o = {
        .sched = {.max_seqs = between(w, 1, 8),
                  .step_ns_target = one_in(w, 2) ? (uint64_t)between(w, 1, 50) * 1000000u : 0,
                  .max_batch_tokens = one_in(w, 4) ? between(w, 32, 128) : between(w, 1, 32),
                  .window = one_in(w, 3) ? between(w, 2, 20) : 0, .prefix_cache = !one_in(w, 4)},
        .block_size = between(w, 1, 8),
        .n_blocks = one_in(w, 4) ? between(w, 16, 200) : between(w, 2, 16),
        .n_logits_max = between(w, 1, 8),
        .n_draws_max = one_in(w, 3) ? 0 : between(w, 1, 8),
        .vocab = FAKE_VOCAB, .n_tokens_valid = FAKE_VOCAB, .piece_max = 2,
        .pause_ms_max = one_in(w, 3) ? between(w, 0, 100) : between(w, 300, 3000),
        .key = {draw(w), draw(w)},
    };
    o.ahead = o.n_draws_max && !one_in(w, 3);
    w->max_model_len = between(w, 2, TOKENS_MAX);
    w->n_live_max = o.sched.max_seqs + between(w, 0, 40);
    for (int i = 0; i < TOKENS_MAX; i++)
        w->prefix[i] = (int32_t)between(w, 1, 4);
    w->refs = calloc((size_t)o.n_blocks, sizeof *w->refs);
    int rc = fake_open(&w->fake, o.n_blocks, o.block_size, o.sched.window,
                       o.sched.max_batch_tokens, o.n_logits_max, o.n_draws_max);
    struct step_ops ops = fake_ops(&w->fake);
    if (rc || !w->refs || mailbox_open(count_wake, w, &w->mailbox) ||
        sampler_open(FAKE_VOCAB, &w->sampler) || step_init(&w->step, &o, &ops, w->mailbox)) {
        fprintf(stderr, "sim: out of memory\n");
        exit(2);
    }
    w->fake.kv = &w->step.kv;
    w->fake.nan_one_in = one_in(w, 4) ? 300 : 0;
    w->fake.fails_at = one_in(w, 12) ? (uint64_t)between(w, 1, 300) : 0;
}

static void close_world(struct world *w)
{
    for (int i = 0; i < REQUESTS_MAX; i++) /* after a failure: not released in order */
        if (w->requests[i].channel && *w->failure)
            return;
    step_free(&w->step);
    mailbox_close(w->mailbox);
    sampler_close(w->sampler);
    fake_close(&w->fake);
    free(w->refs);
}

static void drain(struct world *w)
{
    int n = 0;
    while (w->n_live && n++ < DRAIN_STEPS_MAX && !*w->failure) {
        turn(w);
        read_all(w, true);
    }
    if (w->n_live)
        FAIL(w, "%d requests still alive after %d steps", w->n_live, n);
    if (!*w->failure && w->step.kv.n_free != w->step.kv.n_blocks)
        FAIL(w, "idle, and %d blocks are free of %d", w->step.kv.n_free, w->step.kv.n_blocks);
}

static void remember(const struct world *w)
{
    const struct engine_stats *s = &w->step.stats;
    const uint64_t n[] = {s->steps, s->requests_finished, s->requests_cancelled,
                          s->requests_failed, s->preemptions, s->prefix_hits,
                          w->step.kv.n_evicted, w->n_pauses, s->dead, w->n_flights};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        seen[i].n += n[i];
}

static bool live_through(uint64_t seed, int n_steps)
{
    static struct world w;
    open_world(&w, seed);
    int busy = between(&w, 1, 6);
    for (int i = 0; i < n_steps && !*w.failure; i++) {
        while (!one_in(&w, 3) && one_in(&w, busy))
            arrive(&w);
        if (one_in(&w, 20))
            cancel_some(&w);
        turn(&w);
        read_all(&w, false);
    }
    drain(&w);
    bool ok = !*w.failure;
    remember(&w);
    if (!ok)
        printf("    seed %llu, step %llu: %s\n    reproduce: sim --seed %llu --steps %d\n",
               (unsigned long long)seed, (unsigned long long)w.fake.n_steps, w.failure,
               (unsigned long long)seed, n_steps);
    close_world(&w);
    return ok;
}

int main(int argc, char **argv)
{
    int n_seeds = 1000, n_steps = 400, n_passed = 0;
    uint64_t first = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds"))
            n_seeds = (int)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--steps"))
            n_steps = (int)strtol(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed"))
            first = strtoull(argv[i + 1], NULL, 10), n_seeds = 1;
    }
    for (int i = 0; i < n_seeds; i++)
        n_passed += live_through(first + (uint64_t)i, n_steps);
    for (size_t i = 0; i < sizeof seen / sizeof *seen; i++)
        printf("%s%llu %s", i ? ", " : "    ", (unsigned long long)seen[i].n, seen[i].name);
    printf("\n%d passed, %d failed, 0 skipped\n", n_passed, n_seeds - n_passed);
    return n_passed != n_seeds;
}
