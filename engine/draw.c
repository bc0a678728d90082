/* draw: the rows of a step as the device's draw op takes them (draw.h). Owned and filled by the
 * engine thread.
 *
 * Invariant: places[] is all zero between rows. */
#include "engine/draw.h"

#include <stdlib.h>

_Static_assert((int)SAMPLE_TOP_MAX == (int)DRAW_TOP_MAX, "as many alternatives on every device");

int draw_plan_init(struct draw_plan *p, int vocab, int n_rows_max)
{
    *p = (struct draw_plan){.vocab = vocab, .n_rows_max = n_rows_max};
    CHECK(vocab > 0 && n_rows_max > 0);
    p->rows = calloc((size_t)n_rows_max, sizeof *p->rows);
    p->changes = calloc(DRAW_CHANGES_MAX, sizeof *p->changes);
    p->places = calloc((size_t)vocab, sizeof *p->places);
    if (p->rows && p->changes && p->places)
        return 0;
    draw_plan_free(p);
    return ERR_NOMEM;
}

void draw_plan_free(struct draw_plan *p)
{
    if (!p)
        return;
    free(p->rows);
    free(p->changes);
    free(p->places);
    *p = (struct draw_plan){0};
}

void draw_plan_clear(struct draw_plan *p)
{
    p->n_rows = p->n_changes = 0;
}

void draw_plan_skip(struct draw_plan *p)
{
    CHECK(p->n_rows < p->n_rows_max);
    p->rows[p->n_rows++] = (struct draw_row){.wanted = false};
}

/* The change of a token; NULL: an id that is never drawn, or no room (then *full). */
static struct draw_change *touch(struct draw_plan *p, const struct draw_row *row, int32_t token,
                                 bool *full)
{
    if (token < 0 || token >= row->n_valid)
        return NULL;
    if (!p->places[token]) {
        if (p->n_changes == DRAW_CHANGES_MAX) {
            *full = true;
            return NULL;
        }
        p->changes[p->n_changes] = (struct draw_change){.token = token};
        p->places[token] = ++p->n_changes;
    }
    return &p->changes[p->places[token] - 1];
}

/* As engine/sampler.c does it: the prompt's tokens count for the repetition penalty alone. */
static void add_text(struct draw_plan *p, struct draw_row *row, const struct sample_input *in,
                     int pending, bool *full)
{
    bool repetition = row->repetition != 1.0f;
    if (!repetition && row->presence == 0 && row->frequency == 0)
        return;
    row->pending = pending;
    for (int i = repetition ? 0 : in->n_prompt; i < in->n - (pending >= 0); i++) {
        struct draw_change *c = touch(p, row, in->tokens[i], full);
        if (!c)
            continue;
        c->in_text = true;
        c->count += i >= in->n_prompt;
    }
}

/* False: no room; the changes begun are taken back. */
static bool add_changes(struct draw_plan *p, struct draw_row *row, const struct sample_input *in,
                        int pending)
{
    bool full = false;
    for (int i = 0; i < in->params->n_bias; i++) {
        struct draw_change *c = touch(p, row, in->params->bias[i].token, &full);
        if (c)
            c->bias += in->params->bias[i].bias;
    }
    add_text(p, row, in, pending, &full);
    for (int i = 0; in->n - in->n_prompt < in->params->min_tokens && i < in->n_stop_ids; i++) {
        struct draw_change *c = touch(p, row, in->stop_ids[i], &full);
        if (c)
            c->banned = true;
    }
    for (int i = row->first_change; i < p->n_changes; i++)
        p->places[p->changes[i].token] = 0;
    if (full)
        p->n_changes = row->first_change;
    row->n_changes = p->n_changes - row->first_change;
    return !full;
}

bool draw_plan_add(struct draw_plan *p, const struct sample_input *in, int pending)
{
    const struct sample_params *from = in->params;
    struct draw_row row = {
        .wanted = true,
        .temperature = from->temperature,
        .top_p = from->top_p,
        .min_p = from->min_p,
        .repetition = from->repetition_penalty,
        .presence = from->presence_penalty,
        .frequency = from->frequency_penalty,
        .top_k = from->top_k > 0 ? from->top_k : 0,
        .n_valid = in->n_tokens_valid < p->vocab ? in->n_tokens_valid : p->vocab,
        .n_top = from->logprobs > 0 ? from->logprobs : 0,
        .first_change = p->n_changes,
        .pending = -1,
        .uniform = sample_uniform(in->seed, (uint64_t)in->n),
    };
    if (row.n_valid < 1 || from->typical_p < 1.0f || !add_changes(p, &row, in, pending)) {
        draw_plan_skip(p);
        return false;
    }
    CHECK(p->n_rows < p->n_rows_max);
    p->rows[p->n_rows++] = row;
    return true;
}
