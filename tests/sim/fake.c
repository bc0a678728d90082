/* fake: the simulator's model and clock (fake.h). Single thread. */
#include "tests/sim/fake.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t fake_mix(uint64_t chain, uint64_t value)
{
    uint64_t z = (chain ^ value * 0x9e3779b97f4a7c15u) + 0x632be59bd9b4e019u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t fake_start(void)
{
    return 42;
}

void fake_row(const struct fake *f, uint64_t chain, float *logits, struct pick_result *pick)
{
    double sum = 0;
    *pick = (struct pick_result){0};
    for (int v = 0; v < FAKE_VOCAB; v++) {
        logits[v] = (float)(fake_mix(chain, (uint64_t)v + 1) % 10007) / 1000;
        sum += exp(logits[v]);
        if (logits[v] > logits[pick->best])
            pick->best = v;
    }
    pick->best_logit = logits[pick->best];
    pick->log_sum_exp = (float)log(sum);
    pick->bad = f->nan_one_in && fake_mix(chain, 777) % (uint64_t)f->nan_one_in == 0;
}

const char *fake_piece(int32_t token, size_t *size)
{
    static const char letters[] = "etaoin shrdluETAOINSHRDLU";
    *size = token == FAKE_EOS ? 0 : (size_t)(1 + token % 2);
    return letters + token % 20;
}

static void broken(struct fake *f, const char *what, int pos, int block)
{
    if (!*f->broken)
        snprintf(f->broken, sizeof f->broken, "%s (position %d, block %d)", what, pos, block);
}

static struct fake_slot *slot_at(struct fake *f, const struct attention_seq *s, int pos)
{
    int32_t block = s->blocks[pos / f->block_size];
    if (block < 0 || block >= f->kv->n_blocks) {
        broken(f, "a position in sight has no block", pos, block);
        return &f->slots[0];
    }
    return &f->slots[block * f->block_size + pos % f->block_size];
}

/* What attention would read for a query at pos must be this sequence's, in order. */
static void check_sight(struct fake *f, const struct attention_seq *s, int pos)
{
    int first = f->window > 0 && pos >= f->window ? pos - f->window + 1 : 0;
    for (int p = first; p < pos; p++) {
        const struct fake_slot *slot = slot_at(f, s, p);
        uint64_t before = p == 0 ? fake_start() : p > first ? slot_at(f, s, p - 1)->chain : 0;
        if (slot->pos != p ||
            ((p == 0 || p > first) && slot->chain != fake_mix(before, (uint64_t)slot->token)))
            broken(f, "a position in sight holds something else", p, s->blocks[p / f->block_size]);
    }
}

/* A token that the last draw left on the device, or the batch's own. */
static int32_t token_at(struct fake *f, const struct batch *b, int row)
{
    int32_t token = b->tokens[row];
    if (token >= 0)
        return token;
    if (~token >= f->n_drawn) {
        broken(f, "a token of no row", b->pos[row], ~token);
        return 0;
    }
    return f->drawn[~token].token < 0 ? 0 : f->drawn[~token].token;
}

static void store(struct fake *f, const struct batch *b, const struct attention_seq *s, int i)
{
    int pos = s->kv_len - s->q_len + i, row = s->q_start + i;
    struct fake_slot *slot = slot_at(f, s, pos);
    int32_t block = s->blocks[pos / f->block_size];
    const struct kv_block *owner = &f->kv->blocks[block];
    if (b->pos[row] != pos || b->slots[row] != slot - f->slots)
        broken(f, "the batch's position or slot is wrong", pos, block);
    if (owner->n_refs != 1 || owner->findable)
        broken(f, "a shared or sealed block is written", pos, block);
    if (slot->written == f->n_steps)
        broken(f, "a slot is written twice in a step", pos, block);
    uint64_t before = pos ? slot_at(f, s, pos - 1)->chain : fake_start();
    int32_t token = token_at(f, b, row);
    *slot = (struct fake_slot){token, pos, fake_mix(before, (uint64_t)token), f->n_steps};
    f->chains[row] = slot->chain;
    f->tokens[row] = token;
    check_sight(f, s, pos);
}

/* The draw op, for what the simulator's requests ask: all logits at temperature 0 or 1, changes,
 * alternatives. Written for its plainness, not as the sampler is. */
static void fake_draw(const struct fake *f, const struct draw_row *row,
                      const struct draw_change *changes, float *x, struct draw_result *result)
{
    float raw[FAKE_VOCAB];
    double sum = 0, total = 0;
    int best = 0, last = -1, pending = row->pending >= 0 ? f->tokens[row->pending] : -1;
    memcpy(raw, x, sizeof raw);
    for (; result->n_top < row->n_top; result->n_top++) {
        int top = -1;
        for (int v = 0; v < FAKE_VOCAB; v++) {
            bool told = false;
            for (int i = 0; i < result->n_top; i++)
                told |= result->top[i].token == v;
            top = !told && (top < 0 || raw[v] > raw[top]) ? v : top;
        }
        result->top[result->n_top] = (struct draw_top){top, raw[top]};
    }
    for (int v = 0; v < FAKE_VOCAB; v++) {
        struct draw_change c = {.count = v == pending, .in_text = v == pending};
        for (int i = 0; i < row->n_changes; i++) {
            const struct draw_change *own = &changes[row->first_change + i];
            if (own->token == v)
                c = (struct draw_change){v, own->bias, own->count + c.count,
                                         own->in_text || c.in_text, own->banned};
        }
        x[v] += c.bias;
        if (c.in_text)
            x[v] = x[v] > 0 ? x[v] / row->repetition : x[v] * row->repetition;
        if (c.count)
            x[v] -= row->presence + (float)c.count * row->frequency;
        x[v] = c.banned ? -INFINITY : x[v];
    }
    for (int v = 0; v < FAKE_VOCAB; v++)
        best = x[v] > x[best] ? v : best;
    for (int v = 0; v < FAKE_VOCAB; v++)
        total += exp((double)x[v] - (double)x[best]);
    for (int v = 0; v < FAKE_VOCAB && last < 0; v++) {
        sum += exp((double)x[v] - (double)x[best]);
        last = sum > row->uniform * total ? v : -1;
    }
    result->token = row->temperature > 0 ? last : best;
    result->logit = raw[result->token];
}

/* What the device computes of one row: its result, and its logits if the host wants them. */
static void make_row(const struct fake *f, const struct batch *b, int i, float *row,
                     struct draw_result *result)
{
    *result = (struct draw_result){.token = -1};
    fake_row(f, f->chains[b->rows[i]], row, &result->pick);
    if (!b->draws || !b->draws[i].wanted)
        return;
    if (!result->pick.bad)
        fake_draw(f, &b->draws[i], b->changes, row, result);
    for (int v = 0; v < FAKE_VOCAB; v++)
        row[v] = NAN; /* they stay on the device */
}

static int fake_run(void *user, const struct batch *b, struct err *err)
{
    struct fake *f = user;
    f->n_steps++;
    if (f->n_steps == f->fails_at)
        return err_set(err, ERR_DEVICE, "the fake device broke");
    for (int j = 0; j < b->n_seqs; j++)
        for (int i = 0; i < b->seqs[j].q_len; i++)
            store(f, b, &b->seqs[j], i);
    f->now_ns += 500000 + (uint64_t)b->n_tokens * 100000; /* what a step costs: pace learns it */
    f->n_drawn = b->draws && b->n_rows <= f->n_draws_max ? b->n_rows : 0;
    for (int i = 0; i < f->n_drawn; i++)
        make_row(f, b, i, f->logits, &f->drawn[i]);
    return 0;
}

static int fake_logits(void *user, const struct batch *b, int first, int n, float **logits,
                       const struct draw_result **results, struct err *err)
{
    struct fake *f = user;
    (void)err;
    for (int i = 0; i < n; i++) {
        const struct draw_row *draw = b->draws ? &b->draws[first + i] : NULL;
        if (draw && draw->wanted && draw->pending >= 0 && !f->n_drawn)
            broken(f, "a pending token outside the step", first + i, 0);
        make_row(f, b, first + i, f->logits + i * FAKE_VOCAB, &f->results[i]);
    }
    *logits = f->logits;
    *results = f->results;
    return 0;
}

static int fake_send(void *user, int n, struct err *err)
{
    struct fake *f = user;
    (void)err;
    if (n != f->n_drawn || f->n_sent)
        broken(f, "sent at the wrong time", n, f->n_sent);
    memcpy(f->results, f->drawn, (size_t)n * sizeof *f->results);
    f->n_sent = n;
    return 0;
}

/* The device may also fail while the host waits for it. */
static int fake_collect(void *user, const struct draw_result **results, struct err *err)
{
    struct fake *f = user;
    if (!f->n_sent)
        broken(f, "collected what was not sent", 0, 0);
    f->n_sent = 0;
    *results = f->results;
    if (f->fails_at && f->n_steps + 1 == f->fails_at && f->n_steps % 2)
        return err_set(err, ERR_DEVICE, "the fake device broke in flight");
    return 0;
}

static const char *fake_op_piece(void *user, int32_t token, bool with_special, size_t *size)
{
    (void)user;
    (void)with_special;
    return fake_piece(token, size);
}

static uint64_t fake_now(void *user)
{
    return ((struct fake *)user)->now_ns;
}

int fake_open(struct fake *f, int n_blocks, int block_size, int window, int n_tokens_max,
              int n_logits_max, int n_draws_max)
{
    size_t rows = (size_t)(n_logits_max > n_draws_max ? n_logits_max : n_draws_max);
    *f = (struct fake){.block_size = block_size, .window = window,
                       .n_logits_max = n_logits_max, .n_draws_max = n_draws_max,
                       .now_ns = 1000000000u};
    f->slots = calloc((size_t)n_blocks * (size_t)block_size, sizeof *f->slots);
    f->chains = calloc((size_t)n_tokens_max, sizeof *f->chains);
    f->tokens = calloc((size_t)n_tokens_max, sizeof *f->tokens);
    f->logits = calloc((size_t)n_logits_max * FAKE_VOCAB, sizeof *f->logits);
    f->results = calloc(rows, sizeof *f->results);
    f->drawn = calloc(rows, sizeof *f->drawn);
    return f->slots && f->chains && f->tokens && f->logits && f->results && f->drawn ? 0 : ERR_NOMEM;
}

void fake_close(struct fake *f)
{
    free(f->slots);
    free(f->chains);
    free(f->tokens);
    free(f->logits);
    free(f->results);
    free(f->drawn);
    *f = (struct fake){0};
}

struct step_ops fake_ops(struct fake *f)
{
    return (struct step_ops){fake_run, fake_logits, fake_send, fake_collect, fake_op_piece,
                             fake_now, f};
}
