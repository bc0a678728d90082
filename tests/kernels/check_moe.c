/* check_moe: mixture of experts against double with float weights (bound 1e-5 of the magnitudes
 * that were added up, and what rounding the inputs of BF16 products to 2^-9 of themselves can do),
 * and batch invariance bit by bit, also with quantized experts. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

enum { DIM = 256, FFN = 512, EXPERTS_MAX = 8, N = 21 };

struct setup {
    int experts, used;
    bool renorm;
    enum activation act;
    struct matrix router, gate[EXPERTS_MAX], up[EXPERTS_MAX], down[EXPERTS_MAX];
    float *router_values, *gate_values[EXPERTS_MAX], *up_values[EXPERTS_MAX];
    float *down_values[EXPERTS_MAX];
};

static void prepare(struct setup *s, enum quant_type type)
{
    s->router = check_matrix(QUANT_F32, s->experts, DIM, 0.3f, &s->router_values);
    for (int e = 0; e < s->experts; e++) {
        s->gate[e] = check_matrix(type, FFN, DIM, 0.2f, &s->gate_values[e]);
        s->up[e] = check_matrix(type, FFN, DIM, 0.2f, &s->up_values[e]);
        s->down[e] = check_matrix(type, DIM, FFN, 0.2f, &s->down_values[e]);
    }
}

static double dot_size(const float *w, const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += fabs(w[i] * x[i]);
    return sum;
}

static double dot(const float *w, const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += w[i] * x[i];
    return sum;
}

static void compare_row(const struct setup *s, const float *in, const float *before,
                        const float *out, double rounding)
{
    double x[DIM], logits[EXPERTS_MAX], all = 0, used = 0, y[DIM], size[DIM], inner[FFN];
    double off[FFN]; /* how far inner may be off by rounding; an activation's slope is below 1.13 */
    bool chosen[EXPERTS_MAX] = {false};

    for (int i = 0; i < DIM; i++) {
        x[i] = in[i];
        y[i] = before[i];
        size[i] = 1e-5;
    }
    for (int e = 0; e < s->experts; e++)
        all += exp(logits[e] = dot(s->router_values + e * DIM, x, DIM));
    for (int k = 0; k < s->used; k++) {
        int best = -1;
        for (int e = 0; e < s->experts; e++)
            if (!chosen[e] && (best < 0 || logits[e] > logits[best]))
                best = e;
        chosen[best] = true;
        used += exp(logits[best]) / all;
    }
    for (int e = 0; e < s->experts; e++) {
        double weight = chosen[e] ? exp(logits[e]) / all / (s->renorm ? used : 1) : 0;
        for (int j = 0; j < FFN && chosen[e]; j++) {
            double g = dot(s->gate_values[e] + j * DIM, x, DIM);
            g = s->act == ACTIVATION_SILU
                    ? g / (1 + exp(-g))
                    : 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)));
            double up = dot(s->up_values[e] + j * DIM, x, DIM);
            double g_off = 1.13 * rounding * dot_size(s->gate_values[e] + j * DIM, x, DIM);
            double up_off = rounding * dot_size(s->up_values[e] + j * DIM, x, DIM);
            inner[j] = g * up;
            off[j] = g_off * fabs(up) + fabs(g) * up_off + g_off * up_off +
                     rounding * fabs(inner[j]);
        }
        for (int i = 0; i < DIM && chosen[e]; i++) {
            y[i] += weight * dot(s->down_values[e] + i * FFN, inner, FFN);
            for (int j = 0; j < FFN; j++)
                size[i] += weight * fabs(s->down_values[e][i * FFN + j]) *
                           (1e-5 * fabs(inner[j]) + off[j]);
        }
    }
    for (int i = 0; i < DIM; i++)
        check_expect(fabs(out[i] - y[i]) <= size[i], "[%d] is %.9g, not %.9g", i,
                     (double)out[i], y[i]);
}

static void one(int level, enum quant_type type, struct setup s)
{
    const struct kernels *k = check_kernels(level);

    check_case("moe %s %s %d of %d experts%s", check_level_names[level], quant_formats[type].name,
               s.used, s.experts, s.renorm ? " renorm" : "");
    prepare(&s, type);
    float *in = check_normals(N * DIM), *before = check_normals(N * DIM);
    float *out = check_floats(N * DIM), *again = check_floats(N * DIM);
    size_t bytes = k->moe_workspace(N, DIM, FFN, s.experts, s.used);
    memcpy(out, before, N * DIM * sizeof *out);
    memcpy(again, before, N * DIM * sizeof *out);
    struct moe_args a = {out, in, &s.router, s.gate, s.up, s.down, N, DIM, FFN, s.experts, s.used,
                         s.renorm, s.act, check_bytes(bytes)};
    check_expect(k->moe(check_device(level, 2), &a) == 0, "runs");
    double rounding = type == QUANT_BF16 && level == CHECK_ROUNDS_BF16 ? 0x1.01p-9 : 0;
    if (level == CHECK_CUDA) /* whatever many rows choose an expert */
        rounding = fmax(check_cuda_linear(type, 1), check_cuda_linear(type, N));
    bool exact = quant_formats[type].block == 1 || level == CHECK_CUDA;
    for (int i = 0; exact && i < N; i++)
        compare_row(&s, in + i * DIM, before + i * DIM, out + i * DIM, rounding);
    for (int i = 0, n; i < N; i += n) {
        struct moe_args b = a;
        n = i % 5 == 0 ? 1 : i + 3 < N ? 3 : N - i;
        b.out = again + i * DIM;
        b.in = in + i * DIM;
        b.n = n;
        b.workspace = check_bytes(k->moe_workspace(n, DIM, FFN, s.experts, s.used));
        check_expect(k->moe(check_device(level, 1 + i % 3), &b) == 0, "runs");
    }
    if (!check_varies(level))
        check_same(again, out, N * DIM, "in parts");
    for (int i = 0; level == CHECK_CUDA && i < N; i++)
        compare_row(&s, in + i * DIM, before + i * DIM, again + i * DIM,
                    check_cuda_linear(type, 1));
}

void check_moe(void)
{
    for (int level = 0; level < CHECK_LEVELS; level++)
        for (int type = 0; check_device(level, 1) && type < QUANT_COUNT; type++) {
            bool slow = check_emulated(level) && type != QUANT_F32 && type != QUANT_BF16 &&
                        type != QUANT_Q4_K && type != QUANT_Q5_1;
            if (slow || !check_wants((enum quant_type)type))
                continue;
            struct setup s = {.experts = 8, .used = 2, .renorm = true, .act = ACTIVATION_SILU};
            one(level, (enum quant_type)type, s);
            s = (struct setup){.experts = 3, .used = 3, .act = ACTIVATION_GELU_TANH};
            one(level, (enum quant_type)type, s);
        }
}
