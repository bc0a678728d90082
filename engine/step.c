/* step: the loop's body. Owns the scheduler, the block pool, the batch and the sampler; reaches the
 * model through ops. Runs on the engine's thread (or wherever a test drives it), never two at once.
 *
 * One step:
 *   take     new sequences from the mailbox into the scheduler
 *   reap     the cancelled, and those whose reader has been gone for too long
 *   plan     sched.c
 *   run      fill the batch, one forward pass
 *   deliver  logits in slices: prompt events, or a token is drawn (by the device, where it can, or
 *            by the sampler here), appended, turned into text
 *   flush    events become visible, at most one wake; statistics are published
 *
 * Ahead, on a device that runs while the host goes on: a step whose rows the device all draws is in
 * flight when `run` has enqueued it, and the next one is planned and enqueued before its tokens are
 * delivered, each of its sequences running on with a token that only the device knows (n_pending):
 *
 *   plan t+1, run t+1 (enqueue) -> wait for t, deliver t -> t+1 is in flight -> plan t+2 ...
 *
 * What ends by t's token has a row too many in t+1: it is computed into a block that t+1 still
 * owned in the order of the device's work, and nobody reads it. A step with rows for the host is
 * delivered at once, as are all without `ahead`.
 *
 * A device error latches (R6): everything live fails with ERR_DEAD, and so does what is taken from
 * then on. A sequence whose own numbers are bad fails alone, and its blocks are forgotten. */
#include "engine/step.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDLE_MS = 500 }; /* sleep at most so long while paused sequences live: a sign of life */

int step_init(struct step *s, const struct step_options *o, const struct step_ops *ops,
              struct mailbox *mailbox)
{
    size_t text_max = 3 * (o->piece_max + STREAM_STOP_BYTES_MAX + 8) + 1;
    *s = (struct step){.options = *o, .ops = *ops, .mailbox = mailbox};
    s->rows = calloc((size_t)o->sched.max_batch_tokens, sizeof *s->rows);
    s->flight = calloc((size_t)o->sched.max_batch_tokens, sizeof *s->flight);
    s->text = malloc(text_max);
    if (!s->rows || !s->flight || !s->text || kv_init(&s->kv, o->n_blocks, o->block_size, o->key) ||
        sched_init(&s->sched, &s->kv, &o->sched) || sampler_open(o->vocab, &s->sampler) ||
        batch_init(&s->batch, o->sched.max_batch_tokens, o->sched.max_seqs) ||
        (o->n_draws_max && draw_plan_init(&s->draws, o->vocab, o->sched.max_batch_tokens))) {
        step_free(s);
        return ERR_NOMEM;
    }
    s->stats.kv_blocks_total = o->n_blocks;
    s->stats.heartbeat_ns = ops->now_ns(ops->user);
    mailbox_publish(mailbox, &s->stats);
    return 0;
}

void step_free(struct step *s)
{
    if (!s)
        return;
    batch_free(&s->batch);
    draw_plan_free(&s->draws);
    sampler_close(s->sampler);
    sched_free(&s->sched);
    kv_free(&s->kv);
    free(s->rows);
    free(s->flight);
    free(s->text);
    *s = (struct step){0};
}

static uint64_t now_ns(const struct step *s)
{
    return s->ops.now_ns(s->ops.user);
}

/* ---- endings */

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

static struct engine_usage usage_of(const struct seq *seq, uint64_t now)
{
    return (struct engine_usage){
        .prompt_tokens = seq->n_prompt,
        .cached_tokens = seq->n_cached,
        .output_tokens = seq_n_output(seq),
        .queue_ms = ms_between(seq->submit_ns, seq->admitted ? seq->admit_ns : now),
        .first_token_ms =
            seq->first_token_ns ? ms_between(seq->submit_ns, seq->first_token_ns) : -1,
        .total_ms = ms_between(seq->submit_ns, now),
    };
}

static struct event terminal_event(const struct step *s, const struct seq *seq,
                                   enum event_kind kind)
{
    return (struct event){.kind = kind, .token = -1, .logprob = NAN, .text = "", .stop_index = -1,
                          .stop_token = -1, .usage = usage_of(seq, now_ns(s))};
}

static void forget_rows(struct step_row *rows, int n, const struct seq *seq)
{
    for (int i = 0; i < n; i++)
        if (rows[i].seq == seq)
            rows[i].seq = NULL;
}

/* From here on the sequence may be freed by the loop as soon as the flush is done. */
static void end(struct step *s, struct seq *seq, const struct event *event, bool findable)
{
    struct channel *channel = seq->channel;
    sched_finish(&s->sched, seq, findable);
    forget_rows(s->rows, s->batch.n_rows, seq);
    forget_rows(s->flight, s->n_flight, seq);
    s->stats.requests_finished += event->finish == FINISH_STOP || event->finish == FINISH_LENGTH;
    s->stats.requests_cancelled += event->finish == FINISH_CANCELLED;
    s->stats.requests_failed += event->kind == EVENT_FAILED;
    mailbox_put(channel, event);
}

static void done(struct step *s, struct seq *seq, struct seq_stop stop)
{
    struct event event = terminal_event(s, seq, EVENT_DONE);
    event.finish = stop.finish;
    event.stop_index = stop.stop_index;
    event.stop_token = stop.stop_token;
    event.stop_is_eos = stop.stop_is_eos;
    event.text = s->text;
    event.text_size = seq_finish_text(seq, s->text);
    end(s, seq, &event, true);
}

static void fail(struct step *s, struct seq *seq, int code, const char *text)
{
    struct event event = terminal_event(s, seq, EVENT_FAILED);
    event.finish = FINISH_ERROR;
    event.error = code;
    snprintf(event.error_text, sizeof event.error_text, "%s", text);
    end(s, seq, &event, false);
}

static void fail_all(struct step *s)
{
    while (s->sched.running.first)
        fail(s, s->sched.running.first, ERR_DEAD, s->death.text);
    while (s->sched.waiting.first)
        fail(s, s->sched.waiting.first, ERR_DEAD, s->death.text);
}

static void die(struct step *s, const struct err *err)
{
    s->death = *err;
    if (!s->death.code)
        err_set(&s->death, ERR_DEVICE, "%s", err_text(ERR_DEVICE));
    s->stats.dead = true;
    snprintf(s->stats.dead_text, sizeof s->stats.dead_text, "%s", s->death.text);
    mailbox_die(s->mailbox);
    s->in_flight = false;
    s->n_flight = 0;
    fail_all(s);
}

/* ---- take and reap */

static void take(struct step *s)
{
    struct seq *next;
    for (struct seq *seq = mailbox_take(s->mailbox); seq; seq = next) {
        next = seq->next;
        s->stats.requests_submitted++;
        sched_add(&s->sched, seq);
    }
    if (s->death.code)
        fail_all(s);
}

/* Room for the events of this step; none: paused. Prompt events are as many as the chunk is long,
 * and one more for the first token, which has no logits of its own. A pending token has its room,
 * and the one after it waits when that is the last. */
static void look_for_room(struct seq *seq, uint64_t now)
{
    int room = mailbox_room(seq->channel);
    bool was_paused = seq->paused;
    bool prompt_events = seq->request.prompt_logprobs >= 0 && seq->n_prompt_sent < seq->n_prompt;
    seq->paused = room < (prompt_events ? 2 : 1);
    seq->n_chunk_max = prompt_events ? room - 1 : room > seq->n_pending ? INT_MAX : 0;
    if (seq->paused && !was_paused)
        seq->pause_ns = now;
}

/* True if any ended. */
static bool reap(struct step *s, struct sched_list *list, uint64_t now, int *n_paused)
{
    const struct seq_stop cancelled = {FINISH_CANCELLED, -1, -1, false};
    const struct seq_stop nothing_asked = {FINISH_LENGTH, -1, -1, false};
    uint64_t patience = (uint64_t)s->options.pause_ms_max * 1000000u;
    bool any = false;
    struct seq *next;
    for (struct seq *seq = list->first; seq; seq = next) {
        next = seq->next;
        bool ended = true;
        look_for_room(seq, now);
        if (mailbox_cancelled(seq->channel) || (seq->paused && now - seq->pause_ns >= patience))
            done(s, seq, cancelled);
        else if (seq->n_tokens == seq->n_tokens_max && seq->request.prompt_logprobs < 0)
            done(s, seq, nothing_asked); /* max_tokens 0 */
        else
            ended = false;
        any |= ended;
        *n_paused += !ended && seq->paused;
    }
    return any;
}

/* ---- run */

/* Row `pos` of an item is wanted when it gives the next token, or a prompt token's logprob. */
static bool wants_logits(const struct seq *seq, int pos)
{
    if (pos == seq->n_tokens + seq->n_pending - 1)
        return true;
    return seq->request.prompt_logprobs >= 0 && pos + 1 < seq->n_prompt &&
           pos + 1 >= seq->n_prompt_sent;
}

static struct sample_input sample_input(const struct step *s, const struct seq *seq)
{
    return (struct sample_input){.params = &seq->request.params,
                                 .seed = seq->seed,
                                 .tokens = seq->tokens,
                                 .n = seq->n_tokens + seq->n_pending,
                                 .n_prompt = seq->n_prompt,
                                 .n_tokens_valid = s->options.n_tokens_valid,
                                 .stop_ids = seq->stop_ids,
                                 .n_stop_ids = seq->n_stop_ids};
}

/* Rows of prompt tokens, and of sequences that draw none, are read by the host; and those behind a
 * pending token where rows are drawn in slices, when the device has left the step. */
static void plan_draws(struct step *s)
{
    bool sliced = s->batch.n_rows > s->options.n_draws_max;
    draw_plan_clear(&s->draws);
    for (int i = 0; i < s->batch.n_rows; i++) {
        const struct seq *seq = s->rows[i].seq;
        const struct sample_input in = sample_input(s, seq);
        if (s->rows[i].pos + 1 < seq->n_prompt || seq->n_tokens == seq->n_tokens_max ||
            (sliced && seq->n_pending))
            draw_plan_skip(&s->draws);
        else
            draw_plan_add(&s->draws, &in, seq->n_pending ? s->batch.rows[i] : -1);
    }
    s->batch.draws = s->draws.rows;
    s->batch.changes = s->draws.changes;
}

static void fill(struct step *s)
{
    struct batch *b = &s->batch;
    batch_clear(b);
    for (int i = 0; i < s->sched.n_items; i++) {
        struct seq *seq = s->sched.items[i].seq;
        int n = s->sched.items[i].n, first = seq->n_computed;
        const int32_t pending = ~seq->pending_row; /* batch.h */
        int row = batch_add(b, seq->n_pending ? &pending : seq->tokens + first, n, first,
                            seq->table.blocks, s->options.block_size);
        for (int j = 0; j < n; j++) {
            if (!wants_logits(seq, first + j))
                continue;
            s->rows[b->n_rows] = (struct step_row){seq, first + j};
            batch_want_logits(b, row + j);
        }
    }
    if (s->options.n_draws_max)
        plan_draws(s);
}

static void count(struct step *s)
{
    int bucket = 0;
    for (int64_t bound = 1; bucket < ENGINE_STEP_BUCKETS && s->sched.n_planned > bound; bucket++)
        bound = bound == 1 ? 8 : bound * 2;
    s->stats.steps++;
    s->stats.step_tokens_sum += (uint64_t)s->sched.n_planned;
    if (bucket < ENGINE_STEP_BUCKETS)
        s->stats.step_tokens_bucket[bucket]++;
}

/* ---- deliver */

static void put_prompt_event(struct seq *seq, const struct sample_result *result)
{
    struct event event = {.kind = EVENT_PROMPT, .token = result->token,
                          .logprob = result->logprob, .n_top = result->n_top, .text = ""};
    memcpy(event.top, result->top, (size_t)result->n_top * sizeof *event.top);
    mailbox_put(seq->channel, &event);
    seq->n_prompt_sent++;
}

/* Before the first chunk's other events: the first token is given, nothing predicts it. */
static void put_first_prompt_events(struct step *s)
{
    for (int i = 0; i < s->sched.n_items; i++) {
        struct seq *seq = s->sched.items[i].seq;
        if (seq->request.prompt_logprobs >= 0 && seq->n_prompt_sent == 0)
            put_prompt_event(seq, &(struct sample_result){.token = seq->tokens[0],
                                                         .logprob = NAN});
    }
}

static void deliver_prompt(struct step *s, struct seq *seq, int pos, const float *logits,
                           const struct pick_result *pick)
{
    struct sample_result result;
    sampler_logprobs(s->sampler, logits, pick, seq->tokens[pos + 1], seq->request.prompt_logprobs,
                     &result);
    put_prompt_event(seq, &result);
}

/* The row's token: what the device drew, or else what the sampler draws from its logits. */
static int draw(struct step *s, struct seq *seq, float *logits, const struct draw_result *from,
                bool on_device, struct sample_result *result)
{
    struct sample_input in = sample_input(s, seq);
    in.logits = logits;
    in.pick = &from->pick;
    *result = (struct sample_result){.token = from->pick.best, .logprob = NAN};
    if (!on_device && seq_is_plain_greedy(seq) && from->pick.best < s->options.n_tokens_valid)
        return 0;
    int rc = on_device ? sampler_drawn(from, result) : sampler_draw(s->sampler, &in, result);
    if (seq->request.params.logprobs < 0) {
        result->logprob = NAN;
        result->n_top = 0;
    }
    return rc;
}

static void deliver_token(struct step *s, struct seq *seq, float *logits,
                          const struct draw_result *from, bool on_device)
{
    struct sample_result result;
    struct event event = {.kind = EVENT_TOKEN, .text = s->text};
    if (seq->n_tokens == seq->n_tokens_max) { /* max_tokens 0: the prompt was all */
        done(s, seq, (struct seq_stop){FINISH_LENGTH, -1, -1, false});
        return;
    }
    if (draw(s, seq, logits, from, on_device, &result)) {
        fail(s, seq, ERR_VALUE, "logit_bias and min_tokens leave no token to choose");
        return;
    }
    if (!seq->first_token_ns)
        seq->first_token_ns = now_ns(s);
    size_t size = 0;
    const char *piece = s->ops.piece(s->ops.user, result.token, seq->request.show_special, &size);
    struct seq_stop stop = seq_append(seq, result.token, size ? piece : "", size, s->text,
                                      &event.text_size);
    event.token = result.token;
    event.logprob = result.logprob;
    event.n_top = result.n_top;
    memcpy(event.top, result.top, (size_t)result.n_top * sizeof *event.top);
    mailbox_put(seq->channel, &event);
    s->stats.output_tokens++;
    if (stop.finish != FINISH_NONE)
        done(s, seq, stop);
}

static void deliver_row(struct step *s, const struct step_row *row, float *logits,
                        const struct draw_result *result, bool on_device)
{
    struct seq *seq = row->seq;
    if (!seq) /* ended by an earlier row or, in flight, by an earlier step */
        return;
    if (result->pick.bad)
        fail(s, seq, ERR_INTERNAL, "the model computed numbers that are not finite");
    else if (row->pos + 1 < seq->n_prompt)
        deliver_prompt(s, seq, row->pos, logits, &result->pick);
    else
        deliver_token(s, seq, logits, result, on_device);
}

/* Are these rows' picks all that is needed: is each the next token of a greedy sequence? */
static bool picks_suffice(const struct step *s, int first, int n)
{
    if (s->batch.draws || s->options.n_tokens_valid < s->options.vocab)
        return false; /* a pick may be no token, and the next best is wanted */
    for (int i = first; i < first + n; i++) {
        const struct seq *seq = s->rows[i].seq;
        if (seq && (s->rows[i].pos + 1 < seq->n_prompt || !seq_is_plain_greedy(seq)))
            return false;
    }
    return true;
}

static int deliver(struct step *s, struct err *err)
{
    const struct draw_result *results;
    float *logits;
    put_first_prompt_events(s);
    for (int first = 0; first < s->batch.n_rows; first += s->options.n_logits_max) {
        int n = s->batch.n_rows - first;
        if (n > s->options.n_logits_max)
            n = s->options.n_logits_max;
        s->batch.picks_only = picks_suffice(s, first, n);
        int rc = s->ops.logits(s->ops.user, &s->batch, first, n, &logits, &results, err);
        if (rc)
            return rc;
        for (int i = 0; i < n; i++)
            deliver_row(s, &s->rows[first + i], logits + (size_t)i * (size_t)s->options.vocab,
                        &results[i], s->batch.draws && s->batch.draws[first + i].wanted);
    }
    return 0;
}

/* ---- the step */

static void publish(struct step *s, int n_paused)
{
    struct engine_stats *stats = &s->stats;
    stats->running = s->sched.running.n;
    stats->waiting = s->sched.waiting.n;
    stats->paused = n_paused;
    stats->kv_blocks_used = s->kv.n_blocks - s->kv.n_free;
    stats->kv_blocks_cached = s->kv.n_cached;
    stats->preemptions = s->sched.n_preemptions;
    stats->prefix_queries = s->sched.n_prefix_queries;
    stats->prefix_hits = s->sched.n_prefix_hits;
    stats->cached_tokens = s->sched.n_prefix_hits;
    stats->prompt_tokens = s->sched.n_prefix_queries;
    stats->heartbeat_ns = now_ns(s);
    stats->busy = stats->running + stats->waiting > 0;
    mailbox_publish(s->mailbox, stats);
}

/* ---- ahead */

/* Can the step that was filled be in flight: are its tokens all the device's own business? */
static bool can_fly(const struct step *s)
{
    if (!s->options.ahead || !s->batch.n_rows || s->batch.n_rows > s->options.n_draws_max)
        return false;
    for (int i = 0; i < s->batch.n_rows; i++)
        if (!s->batch.draws[i].wanted)
            return false;
    return true;
}

/* The step that was enqueued is in flight. Blocks of sequences with rows are sealed when these have
 * been found good. */
static int take_off(struct step *s, struct err *err)
{
    struct step_row *rows = s->rows;
    put_first_prompt_events(s);
    for (int i = 0; i < s->batch.n_rows; i++)
        if (rows[i].seq) {
            rows[i].seq->n_pending = 1;
            rows[i].seq->pending_row = i;
        }
    sched_advance(&s->sched);
    s->rows = s->flight;
    s->flight = rows;
    s->n_flight = s->batch.n_rows;
    s->batch.n_rows = 0;
    s->in_flight = true;
    return s->ops.send(s->ops.user, s->n_flight, err);
}

/* Wait for the step in flight and deliver its tokens. */
static int land(struct step *s, struct err *err)
{
    const struct draw_result *results;
    int rc = s->ops.collect(s->ops.user, &results, err);
    if (rc)
        return rc;
    sched_took(&s->sched, s->flight_decodes, s->flight_prompt, now_ns(s) - s->flight_ns);
    for (int i = 0; i < s->n_flight; i++) {
        struct seq *seq = s->flight[i].seq;
        if (!seq)
            continue;
        seq->n_pending = 0;
        if (!results[i].pick.bad && seq->state == SEQ_RUNNING)
            sched_seal(&s->sched, seq);
        deliver_row(s, &s->flight[i], NULL, &results[i], true);
    }
    s->in_flight = false;
    s->n_flight = 0;
    return 0;
}

static void run(struct step *s, uint64_t start)
{
    struct err err = {0};
    count(s);
    fill(s);
    bool flies = can_fly(s);
    int n_decodes = s->sched.n_decodes, n_prompt = s->sched.n_prompt;
    int rc = s->ops.run(s->ops.user, &s->batch, &err);
    if (!rc && s->in_flight) {
        rc = land(s, &err);
        start = now_ns(s);
    }
    if (!rc && flies) {
        s->flight_ns = start;
        s->flight_decodes = n_decodes;
        s->flight_prompt = n_prompt;
        rc = take_off(s, &err);
    } else if (!rc) {
        sched_commit(&s->sched);
        rc = deliver(s, &err);
        sched_took(&s->sched, n_decodes, n_prompt, now_ns(s) - start);
    }
    if (rc)
        die(s, &err);
}

static void land_now(struct step *s)
{
    struct err err = {0};
    if (land(s, &err))
        die(s, &err);
}

bool step_once(struct step *s, int *sleep_ms)
{
    int n_paused = 0;
    uint64_t now = now_ns(s);
    take(s);
    bool worked = reap(s, &s->sched.running, now, &n_paused);
    worked |= reap(s, &s->sched.waiting, now, &n_paused);
    if (sched_plan(&s->sched, now)) {
        publish(s, n_paused); /* busy is seen while a long step runs */
        run(s, now);
        worked = true;
    } else if (s->in_flight) {
        land_now(s);
        worked = true;
    }
    mailbox_flush(s->mailbox);
    publish(s, n_paused);
    *sleep_ms = s->stats.busy ? (s->options.pause_ms_max < IDLE_MS ? s->options.pause_ms_max
                                                                     : IDLE_MS)
                              : -1;
    return worked;
}
