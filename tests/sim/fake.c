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
    *slot = (struct fake_slot){b->tokens[row], pos, fake_mix(before, (uint64_t)b->tokens[row]),
                               f->n_steps};
    f->chains[row] = slot->chain;
    check_sight(f, s, pos);
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
    return 0;
}

/* The draw op, for what the simulator's requests ask: all logits at temperature 0 or 1, changes,
 * alternatives. Written for its plainness, not as the sampler is. */
static void fake_draw(const struct draw_row *row, const struct draw_change *changes, float *x,
                      struct draw_result *result)
{
    float raw[FAKE_VOCAB];
    double sum = 0, total = 0;
    int best = 0, last = -1;
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
    for (int i = 0; i < row->n_changes; i++) {
        const struct draw_change *c = &changes[row->first_change + i];
        float y = x[c->token] + c->bias;
        if (c->in_text)
            y = y > 0 ? y / row->repetition : y * row->repetition;
        if (c->count)
            y -= row->presence + (float)c->count * row->frequency;
        x[c->token] = c->banned ? -INFINITY : y;
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

static int fake_logits(void *user, const struct batch *b, int first, int n, float **logits,
                       const struct draw_result **results, struct err *err)
{
    struct fake *f = user;
    (void)err;
    for (int i = 0; i < n; i++) {
        float *row = f->logits + i * FAKE_VOCAB;
        f->results[i] = (struct draw_result){.token = -1};
        fake_row(f, f->chains[b->rows[first + i]], row, &f->results[i].pick);
        if (!b->draws || !b->draws[first + i].wanted)
            continue;
        if (!f->results[i].pick.bad)
            fake_draw(&b->draws[first + i], b->changes, row, &f->results[i]);
        for (int v = 0; v < FAKE_VOCAB; v++)
            row[v] = NAN; /* they stay on the device */
    }
    *logits = f->logits;
    *results = f->results;
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
              int n_logits_max)
{
    *f = (struct fake){.block_size = block_size, .window = window, .now_ns = 1000000000u};
    f->slots = calloc((size_t)n_blocks * (size_t)block_size, sizeof *f->slots);
    f->chains = calloc((size_t)n_tokens_max, sizeof *f->chains);
    f->logits = calloc((size_t)n_logits_max * FAKE_VOCAB, sizeof *f->logits);
    f->results = calloc((size_t)n_logits_max, sizeof *f->results);
    return f->slots && f->chains && f->logits && f->results ? 0 : ERR_NOMEM;
}

void fake_close(struct fake *f)
{
    free(f->slots);
    free(f->chains);
    free(f->logits);
    free(f->results);
    *f = (struct fake){0};
}

struct step_ops fake_ops(struct fake *f)
{
    return (struct step_ops){fake_run, fake_logits, fake_op_piece, fake_now, f};
}
