/* engine: the public door, and the engine's thread behind it.
 *
 * Owns all parts of a running engine. submit, cancel, poll, next and release run on the loop;
 * engine_run is the thread: it steps while there is work and sleeps in mailbox_wait when there is
 * none, so an idle engine takes no CPU. Loop and thread meet in mailbox.c alone; what submit reads
 * of the engine (info, options, tokenizer) is immutable after open.
 *
 *     open --pthread_create--> running --device error--> dead (still fails what comes in)
 *                                 \--mailbox_stop--> joined <--/       (engine_close) */
#include "engine/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "engine/base/log.h"
#include "engine/engine_open.h"
#include "engine/step.h"

enum { STOP_IDS_MAX = 4096 };

struct engine {
    struct engine_parts parts;
    struct mailbox *mailbox;
    struct step step; /* the thread's, from its start to its end */
    pthread_t thread;
    bool started;
    int n_live_max;
    uint64_t seed_key, n_seeds; /* loop */
};

/* ---- what a step needs */

static int op_run(void *user, const struct batch *b, struct err *err)
{
    return forward_run(((struct engine *)user)->parts.forward, b, err);
}

static int op_logits(void *user, const struct batch *b, int first, int n, float **logits,
                     const struct draw_result **results, struct err *err)
{
    return forward_logits(((struct engine *)user)->parts.forward, b, first, n, logits, results,
                          err);
}

static int op_send(void *user, int n, struct err *err)
{
    return forward_send(((struct engine *)user)->parts.forward, n, err);
}

static int op_collect(void *user, const struct draw_result **results, struct err *err)
{
    return forward_collect(((struct engine *)user)->parts.forward, results, err);
}

static const char *op_piece(void *user, int32_t token, bool with_special, size_t *size)
{
    return tokenizer_piece(((struct engine *)user)->parts.tokenizer, token, with_special, size);
}

static uint64_t op_now(void *user)
{
    struct timespec t;
    (void)user;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the thread */

static void *engine_run(void *user)
{
    struct engine *e = user;
    bool was_dead = false;
    pthread_setname_np(pthread_self(), "sirocco-engine");
    while (!mailbox_stopping(e->mailbox)) {
        int sleep_ms;
        uint64_t ticket = mailbox_ticket(e->mailbox);
        bool worked = step_once(&e->step, &sleep_ms);
        if (e->step.death.code && !was_dead)
            log_event(LOG_ERROR, "the engine stopped: %s", e->step.death.text);
        was_dead = e->step.death.code != 0;
        if (!worked)
            mailbox_wait(e->mailbox, ticket, sleep_ms);
    }
    return NULL;
}

/* Signals are the main thread's business. */
static int start_thread(struct engine *e, struct err *err)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* blocked, it would end the process without main.c's line */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&e->thread, NULL, engine_run, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return err_set(err, ERR_NOMEM, "the engine's thread can not be started");
    e->started = true;
    return 0;
}

/* ---- open and close */

static int random_bytes(void *out, size_t n, struct err *err)
{
    return getrandom(out, n, 0) == (ssize_t)n
               ? 0
               : err_set(err, ERR_IO, "the system gives no random numbers");
}

static int open_step(struct engine *e, const struct engine_options *o, struct err *err)
{
    const struct engine_parts *p = &e->parts;
    const struct step_ops ops = {op_run, op_logits, op_send, op_collect, op_piece, op_now, e};
    struct step_options so = {
        .sched = {.max_seqs = p->info.max_seqs,
                  .max_batch_tokens = p->info.max_batch_tokens,
                  .step_ns_target = (uint64_t)o->itl_target_ms * 1000000u,
                  .window = p->model->window_max,
                  .prefix_cache = o->prefix_cache},
        .n_blocks = p->info.n_blocks,
        .block_size = o->block_size,
        .n_logits_max = p->forward_options.n_logits_max,
        .n_draws_max = p->forward_options.n_draws_max,
        .vocab = p->model->vocab,
        .ahead = p->forward_options.n_draws_max > 0,
        .n_tokens_valid = tokenizer_n_tokens(p->tokenizer),
        .piece_max = tokenizer_piece_max(p->tokenizer),
        .pause_ms_max = o->pause_ms_max,
    };
    int rc = random_bytes(&so.key, sizeof so.key, err);
    if (!rc)
        rc = random_bytes(&e->seed_key, sizeof e->seed_key, err);
    if (!rc && mailbox_open(o->wake, o->user, &e->mailbox))
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (!rc && step_init(&e->step, &so, &ops, e->mailbox))
        rc = err_set(err, ERR_NOMEM, "out of memory");
    return rc;
}

int engine_open(const struct engine_options *o, struct engine **out, struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e)
        return err_set(err, ERR_NOMEM, "out of memory");
    int rc = engine_open_parts(o, &e->parts, err);
    int max_seqs = e->parts.info.max_seqs;
    e->n_live_max = o->max_queue > INT32_MAX - max_seqs ? INT32_MAX : max_seqs + o->max_queue;
    if (!rc)
        rc = open_step(e, o, err);
    if (!rc)
        rc = start_thread(e, err);
    if (rc) {
        engine_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    if (e->started) {
        mailbox_stop(e->mailbox);
        pthread_join(e->thread, NULL);
    }
    mailbox_close(e->mailbox);
    step_free(&e->step);
    engine_open_free(&e->parts);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->parts.info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->parts.tokenizer;
}

const struct chat *engine_chat(const struct engine *e)
{
    return e->parts.chat;
}

int engine_memory_plan(const struct engine *e, struct buf *out)
{
    return engine_open_describe(&e->parts, out);
}

/* ---- submit */

static int check_ids(const char *what, const int32_t *ids, int n, int vocab, struct err *err)
{
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_param(err, ERR_VALUE, what, "token id %d is not in [0, %d)", ids[i], vocab);
    return 0;
}

static int check_request(const struct engine *e, const struct engine_request *r, struct err *err)
{
    const struct sample_params *p = &r->params;
    int vocab = e->parts.info.vocab_size;
    if (r->n_tokens < 1 || r->max_tokens < 0 || r->n_stop_token_ids < 0 ||
        r->n_stop_token_ids > STOP_IDS_MAX || r->prompt_logprobs < -1 ||
        r->prompt_logprobs > SAMPLE_TOP_MAX || p->logprobs < -1 || p->logprobs > SAMPLE_TOP_MAX ||
        p->n_bias < 0 || p->n_bias > SAMPLE_BIAS_MAX || r->stops.n < 0 ||
        r->stops.n > STREAM_STOPS_MAX)
        return err_set(err, ERR_VALUE, "a count of the request is out of range");
    for (int i = 0; i < r->stops.n; i++)
        if (r->stops.size[i] < 1 || r->stops.size[i] > STREAM_STOP_BYTES_MAX)
            return err_param(err, ERR_VALUE, "stop", "a stop string must have 1 to %d bytes",
                             STREAM_STOP_BYTES_MAX);
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias[i].token < 0 || p->bias[i].token >= vocab)
            return err_param(err, ERR_VALUE, "logit_bias", "token id %d is not in [0, %d)",
                             p->bias[i].token, vocab);
    int rc = sample_params_check(p, err);
    if (!rc)
        rc = check_ids("stop_token_ids", r->stop_token_ids, r->n_stop_token_ids, vocab, err);
    return rc ? rc : check_ids("prompt", r->tokens, r->n_tokens, vocab, err);
}

/* splitmix64's finisher (Steele, Lea, Flood 2014) over a random start: no two requests of a process
 * share a seed, and none can be foretold. */
static uint64_t next_seed(struct engine *e)
{
    uint64_t z = e->seed_key + ++e->n_seeds * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int engine_submit(struct engine *e, const struct engine_request *request, void *user,
                  struct channel **out, struct err *err)
{
    const struct engine_parts *p = &e->parts;
    struct engine_request r = *request;
    int most = sched_tokens_max(p->info.max_model_len, p->info.n_blocks, p->info.block_size,
                                p->model->window_max);
    *out = NULL;
    int rc = check_request(e, &r, err);
    if (rc)
        return rc;
    if (r.n_tokens >= most)
        return err_set(err, ERR_CONTEXT, "the prompt has %d tokens, and a sequence at most %d",
                       r.n_tokens, most);
    if (r.max_tokens > most - r.n_tokens)
        r.max_tokens = most - r.n_tokens;

    int n_top = r.params.logprobs > r.prompt_logprobs ? r.params.logprobs : r.prompt_logprobs;
    struct seq_options so = {
        .eos = p->info.eos,
        .n_eos = p->info.n_eos,
        .block_size = p->info.block_size,
        .strip_space = p->strips_first_space &&
                       tokenizer_is_special(p->tokenizer, r.tokens[r.n_tokens - 1]),
        .seed = next_seed(e)};
    struct mailbox_sizes sizes = {
        .text_max = seq_text_max(&r, tokenizer_piece_max(p->tokenizer)),
        .n_top_max = n_top > 0 ? n_top : 0};
    struct channel *c = NULL;
    if (seq_bytes(&r, &so, &sizes.seq_bytes))
        c = mailbox_channel(e->mailbox, &sizes, user);
    if (!c)
        return err_set(err, ERR_NOMEM, "out of memory for a sequence of %d tokens",
                       r.n_tokens + r.max_tokens);
    seq_init(mailbox_seq(c), &r, &so, mailbox_arrays(c));
    mailbox_seq(c)->submit_ns = op_now(e);
    rc = mailbox_submit(c, e->n_live_max);
    if (rc) {
        mailbox_discard(c);
        return err_set(err, rc, "%s", err_text(rc));
    }
    *out = c;
    return 0;
}

/* ---- the rest of the loop's side */

void engine_cancel(struct channel *c)
{
    mailbox_cancel(c);
}

struct channel *engine_poll(struct engine *e, void **user)
{
    return mailbox_poll(e->mailbox, user);
}

int engine_next(struct channel *c, struct event *event)
{
    return mailbox_next(c, event);
}

void engine_release(struct channel *c)
{
    mailbox_release(c);
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    mailbox_stats(e->mailbox, out);
}
