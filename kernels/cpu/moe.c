/* moe: mixture of experts (Jiang et al. 2024), written as calls of the plain ops. Engine thread.
 *
 * The experts run one after the other in index order, each over the rows that chose it. A row's
 * result does not depend on its neighbours because every op called here is exact per row. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { EXPERTS_MAX = 1024 };

/* The parts of the workspace, each a multiple of 64 bytes, in this order. */
struct parts {
    float *logits;            /* [n][n_experts]; later: the row's weight of each expert, or 0 */
    float *in, *gate, *up, *out; /* [n][dim], [n][ffn], [n][ffn], [n][dim]: one expert's rows */
    int32_t *rows;            /* [n] */
};

static size_t take(size_t *at, size_t count, size_t size)
{
    size_t here = *at, bytes;

    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, (size_t)63, &bytes) ||
        __builtin_add_overflow(here, bytes & ~(size_t)63, at))
        *at = SIZE_MAX;
    return here;
}

static size_t lay_out(struct parts *p, char *base, size_t n, size_t dim, size_t ffn, size_t experts)
{
    size_t at = 0, offsets[6];

    offsets[0] = take(&at, n * experts, sizeof(float));
    offsets[1] = take(&at, n * dim, sizeof(float));
    offsets[2] = take(&at, n * ffn, sizeof(float));
    offsets[3] = take(&at, n * ffn, sizeof(float));
    offsets[4] = take(&at, n * dim, sizeof(float));
    offsets[5] = take(&at, n, sizeof(int32_t));
    if (base)
        *p = (struct parts){(float *)(base + offsets[0]), (float *)(base + offsets[1]),
                            (float *)(base + offsets[2]), (float *)(base + offsets[3]),
                            (float *)(base + offsets[4]), (int32_t *)(base + offsets[5])};
    return at;
}

size_t moe_workspace(int n_max, int dim, int ffn, int n_experts, int n_used)
{
    (void)n_used;
    return lay_out(NULL, NULL, (size_t)n_max, (size_t)dim, (size_t)ffn, (size_t)n_experts);
}

/* Replace a row's logits by the weights of its n_used best experts and 0 for the others. A row with
 * a NaN chooses the first experts with NaN weights: the guard of pick sees it. */
static void route(float *logits, const struct moe_args *a)
{
    bool chosen[EXPERTS_MAX] = {false};
    float most = -INFINITY, all = 0, used = 0;

    for (int e = 0; e < a->n_experts; e++)
        most = logits[e] > most ? logits[e] : most;
    for (int e = 0; e < a->n_experts; e++)
        all += expf(logits[e] - most);
    for (int k = 0; k < a->n_used; k++) {
        int best = -1;
        for (int e = 0; e < a->n_experts; e++)
            if (!chosen[e] && (best < 0 || logits[e] > logits[best]))
                best = e;
        chosen[best] = true;
    }
    for (int e = 0; e < a->n_experts; e++) {
        logits[e] = chosen[e] ? expf(logits[e] - most) / all : 0;
        used += logits[e];
    }
    for (int e = 0; e < a->n_experts && a->renorm; e++)
        logits[e] /= used;
}

static int run_expert(struct device *d, const struct moe_args *a, const struct parts *p, int e,
                      int n)
{
    struct gather_args gather = {p->in, a->in, p->rows, n, a->dim};
    struct linear_args in = {.in = p->in, .n = n, .n_jobs = 2,
                             .jobs = {{&a->gate[e], NULL, p->gate}, {&a->up[e], NULL, p->up}}};
    struct act_mul_args act = {p->gate, p->up, n, a->ffn, a->act, {0}};
    struct linear_args out = {.in = p->gate, .n = n, .n_jobs = 1,
                              .jobs = {{&a->down[e], NULL, p->out}}};

    if (gather_run(d, &gather) || linear_run(d, &in) || act_mul_run(d, &act) ||
        linear_run(d, &out))
        return -1;
    for (int i = 0; i < n; i++) {
        float weight = p->logits[(size_t)p->rows[i] * (size_t)a->n_experts + (size_t)e];
        float *to = a->out + (size_t)p->rows[i] * (size_t)a->dim;
        const float *from = p->out + (size_t)i * (size_t)a->dim;
        for (int j = 0; j < a->dim; j++)
            to[j] += weight * from[j];
    }
    return 0;
}

int moe_run(struct device *d, const struct moe_args *a)
{
    struct parts p = {0};
    size_t experts = (size_t)a->n_experts;

    if (cpu_failed(d))
        return -1;
    if (!a->workspace || a->n_experts < 1 || a->n_experts > EXPERTS_MAX || a->n_used < 1 ||
        a->n_used > a->n_experts)
        return cpu_fail(d, "%d of %d experts cannot be routed to, or no workspace", a->n_used,
                        a->n_experts);
    lay_out(&p, a->workspace, (size_t)a->n, (size_t)a->dim, (size_t)a->ffn, experts);
    struct linear_args router = {.in = a->in, .n = a->n, .n_jobs = 1,
                                 .jobs = {{a->router, NULL, p.logits}}};
    if (linear_run(d, &router))
        return -1;
    for (int i = 0; i < a->n; i++)
        route(p.logits + (size_t)i * experts, a);
    for (int e = 0; e < a->n_experts; e++) {
        int n = 0;
        for (int i = 0; i < a->n; i++)
            if (p.logits[(size_t)i * experts + (size_t)e] != 0)
                p.rows[n++] = i;
        if (n && run_expert(d, a, &p, e, n))
            return -1;
    }
    return 0;
}
