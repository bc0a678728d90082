/* draw_test: the engine's steps over a tiny model on a device that draws tokens itself: every
 * request gets the tokens and log-probabilities that the host's sampler gives it from the same
 * device's logits, delivered at once or a step later, in steps of one slice of rows and of several;
 * and what the CPU backend gives (the weights are F32, so that only the order of sums differs).
 * Steps of one size repeat, so that captured ones are among them. */
#include "engine/step.h"
#include "tests/golden/rig.h"

enum {
    REQUESTS = 12,
    PROMPT_MAX = 40,
    NEW_MAX = 24,
    VOCAB = 288,
    EOS = 2,
    TYPICAL = 7,
    TYPICAL_LATE = 19
};

struct got {
    struct channel *channel;
    int32_t tokens[NEW_MAX], tops[NEW_MAX];
    float logprobs[NEW_MAX];
    int n, n_prompt;
    enum finish_reason finish;
};

static int op_run(void *user, const struct batch *b, struct err *err)
{
    return forward_run(((struct rig *)user)->f, b, err);
}

static int op_logits(void *user, const struct batch *b, int first, int n, float **logits,
                     const struct draw_result **results, struct err *err)
{
    return forward_logits(((struct rig *)user)->f, b, first, n, logits, results, err);
}

static int op_send(void *user, int n, struct err *err)
{
    return forward_send(((struct rig *)user)->f, n, err);
}

static int op_collect(void *user, const struct draw_result **results, struct err *err)
{
    return forward_collect(((struct rig *)user)->f, results, err);
}

static const char *op_piece(void *user, int32_t token, bool with_special, size_t *size)
{
    (void)user;
    (void)token;
    (void)with_special;
    *size = 1;
    return "x";
}

static uint64_t op_now(void *user)
{
    (void)user;
    return 1;
}

/* Of every kind: greedy, filters one by one and together, penalties, bans, log-probabilities,
 * and what the host draws in every case. */
static void make_request(int i, int32_t *prompt, struct sample_bias *bias,
                         struct engine_request *q)
{
    int n = 3 + i * 7 % (PROMPT_MAX - 3);
    for (int j = 0; j < n; j++)
        prompt[j] = 3 + (i * 31 + j * (7 + i)) % (VOCAB - 3);
    *q = (struct engine_request){.tokens = prompt, .n_tokens = n, .max_tokens = NEW_MAX - i % 3,
                                 .prompt_logprobs = i == 5 ? 2 : -1};
    struct sample_params *p = &q->params;
    sample_params_init(p);
    p->has_seed = true;
    p->seed = i;
    p->temperature = i % 5 == 0 ? 0 : 0.4f + 0.2f * (float)(i % 4);
    p->top_k = i % 3 == 1 ? 20 + i : 0;
    p->top_p = i % 2 ? 0.9f : 1;
    p->min_p = i % 4 == 3 ? 0.05f : 0;
    p->repetition_penalty = i % 4 == 1 ? 1.3f : 1;
    p->presence_penalty = i % 4 == 2 ? 1.5f : 0;
    p->frequency_penalty = i % 6 == 5 ? 0.7f : 0;
    p->typical_p = i == TYPICAL || i == TYPICAL_LATE ? 0.9f : 1;
    p->min_tokens = i == 2 ? 20 : 0;
    p->logprobs = i % 3 == 0 ? i : -1;
    *bias = (struct sample_bias){40 + i, 3};
    p->bias = bias;
    p->n_bias = i % 2;
}

static void submit(struct mailbox *m, int i, struct got *g)
{
    static const int32_t eos = EOS;
    int32_t prompt[PROMPT_MAX];
    struct sample_bias bias;
    struct engine_request q;
    struct seq_options so = {.eos = &eos, .n_eos = 1, .block_size = 16};
    make_request(i, prompt, &bias, &q);
    struct mailbox_sizes sizes = {.text_max = seq_text_max(&q, 1), .n_top_max = 20};
    EXPECT(seq_bytes(&q, &so, &sizes.seq_bytes));
    *g = (struct got){.channel = mailbox_channel(m, &sizes, g)};
    EXPECT(g->channel != NULL);
    seq_init(mailbox_seq(g->channel), &q, &so, mailbox_arrays(g->channel));
    EXPECT_INT(mailbox_submit(g->channel, REQUESTS), 0);
}

static void on_event(struct got *g, const struct event *e)
{
    g->n_prompt += e->kind == EVENT_PROMPT;
    if (e->kind == EVENT_TOKEN) {
        EXPECT(g->n < NEW_MAX);
        g->tokens[g->n] = e->token;
        g->tops[g->n] = e->n_top ? e->top[e->n_top - 1].token : -1;
        g->logprobs[g->n++] = e->logprob;
    }
    EXPECT(e->kind != EVENT_FAILED);
    if (e->kind != EVENT_DONE)
        return;
    g->finish = e->finish;
    mailbox_release(g->channel);
    g->channel = NULL;
}

/* Requests first .. first + n on a device of the level; false: there is none. */
static bool run_all(const char *level, bool device_draws, bool ahead, int first, int n_requests,
                    struct got *got)
{
    struct rig r;
    struct step s;
    struct mailbox *m;
    struct event e;
    int sleep_ms, n_turns = 0, n_over = 0, n_flights = 0;
    if (!rig_open(&r, test_path("tests/golden/models/llama-tied"),
                  (struct rig_options){.isa = level, .kv_type = QUANT_F32}))
        return false;
    struct step_ops ops = {op_run, op_logits, op_send, op_collect, op_piece, op_now, &r};
    struct step_options o = {.sched = {.max_seqs = REQUESTS, .max_batch_tokens = 64},
                             .n_blocks = r.n_blocks, .block_size = r.block_size,
                             .n_logits_max = RIG_LOGITS,
                             .n_draws_max = device_draws ? RIG_DRAWS : 0, .vocab = VOCAB,
                             .ahead = ahead, .n_tokens_valid = VOCAB - 8,
                             .piece_max = 1, .pause_ms_max = 1000};
    EXPECT(!device_draws || forward_can_draw(r.m, r.k));
    EXPECT_INT(mailbox_open(NULL, NULL, &m), 0);
    EXPECT_INT(step_init(&s, &o, &ops, m), 0);
    for (int i = 0; i < n_requests; i++)
        submit(m, first + i, &got[i]);
    while (n_over < n_requests && n_turns++ < 400) {
        step_once(&s, &sleep_ms);
        EXPECT_INT(s.death.code, 0);
        n_flights += s.in_flight;
        n_over = 0;
        for (int i = 0; i < n_requests; i++) {
            while (got[i].channel && mailbox_next(got[i].channel, &e))
                on_event(&got[i], &e);
            n_over += !got[i].channel;
        }
    }
    EXPECT_INT(n_over, n_requests);
    bool host_rows = n_requests > RIG_LOGITS && first != TYPICAL + 1; /* in every step */
    EXPECT(!ahead || host_rows || n_flights > n_turns / 2);
    EXPECT_INT(s.kv.n_free, r.n_blocks);
    step_free(&s);
    mailbox_close(m);
    rig_close(&r);
    return true;
}

static struct got cpu[REQUESTS], host[REQUESTS], device[REQUESTS], ahead[REQUESTS];

static int n_common(const struct got *a, const struct got *b)
{
    int n = 0;
    while (n < a->n && n < b->n && a->tokens[n] == b->tokens[n])
        n++;
    return n;
}

static bool same_logprob(float a, float b)
{
    return (isnan(a) && isnan(b)) || fabsf(a - b) < 1e-4f;
}

/* What a device drew is what the host's sampler would have drawn from its logits. */
static void expect_same(const struct got *drawn, const struct got *sampled)
{
    EXPECT_INT(drawn->n, sampled->n);
    EXPECT_INT(n_common(drawn, sampled), sampled->n);
    EXPECT_INT(drawn->n_prompt, sampled->n_prompt);
    EXPECT_INT(drawn->finish, sampled->finish);
    for (int j = 0; j < sampled->n; j++) {
        EXPECT_INT(drawn->tops[j], sampled->tops[j]);
        EXPECT(same_logprob(drawn->logprobs[j], sampled->logprobs[j]));
        EXPECT(drawn->tokens[j] < VOCAB - 8);
    }
}

static void compare(int first, int n_requests)
{
    const char *cuda = rig_levels[RIG_CUDA];
    int n_same = 0, n_drawn = 0;
    if (!run_all(cuda, true, false, first, n_requests, device))
        SKIP("no plugin, or no GPU");
    EXPECT(run_all(cuda, true, true, first, n_requests, ahead));
    EXPECT(run_all(cuda, false, false, first, n_requests, host));
    EXPECT(run_all(rig_levels[0], false, false, first, n_requests, cpu));
    for (int i = 0; i < n_requests; i++) {
        expect_same(&device[i], &host[i]);
        expect_same(&ahead[i], &host[i]);
        n_drawn += host[i].n;
        n_same += n_common(&device[i], &cpu[i]) == cpu[i].n;
    }
    EXPECT(n_drawn > n_requests * 6);
    printf("    %d tokens; %d of %d requests as on the CPU\n", n_drawn, n_same, n_requests);
    EXPECT(n_same >= n_requests - 1); /* one may meet a tie */
}

TEST_SECONDS(draws_of_one_slice, 200)
{
    compare(0, 5);
}

/* More rows than one call of forward_logits has, drawn in one pass all the same. */
TEST_SECONDS(draws_of_one_pass, 200)
{
    compare(TYPICAL + 1, RIG_DRAWS);
}

/* The host asks for some rows of such a pass, too. */
TEST_SECONDS(draws_of_one_pass_and_of_the_host, 200)
{
    compare(0, RIG_DRAWS);
    compare(TYPICAL_LATE - RIG_DRAWS + 1, RIG_DRAWS); /* in the second slice */
}

TEST_SECONDS(draws_of_several_slices, 200)
{
    compare(0, REQUESTS);
}
