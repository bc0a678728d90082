/* draw: what a device that draws tokens itself (kernels.h, draw) is told of each row of logits.
 * Engine thread; all memory is taken by draw_plan_init (R4). */
#ifndef SIROCCO_DRAW_H
#define SIROCCO_DRAW_H

#include "engine/sample.h"

struct draw_plan {
    int vocab, n_rows, n_rows_max, n_changes;
    struct draw_row *rows;       /* [n_rows] */
    struct draw_change *changes; /* [n_changes] of all rows */
    int32_t *places;             /* [vocab] 1 + the place of a token's change in the row at work */
};

int draw_plan_init(struct draw_plan *p, int vocab, int n_rows_max); /* ERR_NOMEM */
void draw_plan_free(struct draw_plan *p); /* zeroed and NULL allowed */
void draw_plan_clear(struct draw_plan *p);

/* Add a row whose logits the host wants. */
void draw_plan_skip(struct draw_plan *p);

/* Add a row that the device draws as sampler_draw would (in's logits and pick are not looked at).
 * pending: -1, or a row of the batch: in->tokens[in->n - 1] is not known yet, it is the token of
 * that row. False: it asks for what the device has not (typical_p, more changes than there is room
 * for), and is added as one that the host wants. */
bool draw_plan_add(struct draw_plan *p, const struct sample_input *in, int pending);

#endif
