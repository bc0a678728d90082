/* attention: causal softmax attention over the paged KV pool, and its plain loop.
 *
 * Engine thread; slices on the pool. The work is cut into items of one sequence, one KV head and up
 * to CPU_ATTENTION_ROWS (query, head) rows. Every row's arithmetic depends on its own query and its
 * own positions alone, so items and block sizes do not change results. Reader of the KV layout
 * (writer: rope.c):
 *   k[layer][block][kv_head][head_dim][block_size], v[layer][block][kv_head][block_size][head_dim]
 * and the scales of Q8_0, for both: d[layer][block][kv_head][head_dim / CPU_KV_GROUP][block_size].
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { ROWS_PER_ITEM = 32 };

/* Value i of k or v; with Q8_0, scale is the index of its scale. */
static float kv_value(const struct cpu_kv *kv, const char *values, size_t i,
                      const uint16_t *scales, size_t scale)
{
    if (kv->o.type == QUANT_Q8_0)
        return (float)((const int8_t *)values)[i] * quant_f16_to_f32(scales[scale]);
    if (kv->o.type == QUANT_FP8)
        return quant_fp8_to_f32(((const uint8_t *)values)[i]);
    if (kv->o.type == QUANT_F32)
        return ((const float *)values)[i];
    uint16_t h = ((const uint16_t *)values)[i];
    return kv->o.type == QUANT_F16 ? quant_f16_to_f32(h) : quant_bf16_to_f32(h);
}

/* Index in k_scales and v_scales of element j of a position of the block at base. */
static size_t scale_at(const struct cpu_kv *kv, size_t base, int j, size_t offset)
{
    return base / CPU_KV_GROUP + (size_t)(j / CPU_KV_GROUP) * (size_t)kv->o.block_size + offset;
}

static float score(const struct cpu_attention_item *item, const float *q, int pos, size_t base)
{
    const struct cpu_kv *kv = item->kv;
    size_t offset = (size_t)(pos & (kv->o.block_size - 1));
    float sum = 0;

    for (int j = 0; j < kv->o.head_dim; j++)
        sum += q[j] * kv_value(kv, kv->k, base + (size_t)j * (size_t)kv->o.block_size + offset,
                               kv->k_scales, scale_at(kv, base, j, offset));
    sum *= item->args->scale;
    float cap = item->args->softcap;
    return cap > 0 ? cap * tanhf(sum / cap) : sum;
}

/* Softmax with a running maximum (Milakov and Gimelshein 2018), one position after the other. */
static void attention_row(const struct cpu_attention_item *item, int row)
{
    const struct attention_args *a = item->args;
    const struct cpu_kv *kv = item->kv;
    int group = a->n_heads / kv->o.n_kv_heads, head_dim = kv->o.head_dim;
    size_t at = ((size_t)(item->seq->q_start + row / group) * (size_t)a->n_heads +
                 (size_t)(item->kv_head * group + row % group)) * (size_t)head_dim;
    int last = item->seq->kv_len - item->seq->q_len + row / group;
    int first = a->window > 0 && last >= a->window ? last - a->window + 1 : 0;
    float most = -INFINITY, total = 0;
    float *out = a->out + at;

    for (int j = 0; j < head_dim; j++)
        out[j] = 0;
    for (int pos = first; pos <= last; pos++) {
        size_t block = (size_t)item->seq->blocks[pos >> kv->block_shift];
        size_t base = cpu_kv_base(kv, a->layer, block, item->kv_head);
        size_t offset = (size_t)(pos & (kv->o.block_size - 1));
        float s = score(item, a->q + at, pos, base);
        float new_most = s > most ? s : most;
        float keep = expf(most - new_most), p = expf(s - new_most);
        size_t v = base + offset * (size_t)head_dim;
        total = total * keep + p;
        for (int j = 0; j < head_dim; j++)
            out[j] = out[j] * keep + p * kv_value(kv, kv->v, v + (size_t)j,
                                                  kv->v_scales, scale_at(kv, base, j, offset));
        most = new_most;
    }
    for (int j = 0; j < head_dim; j++)
        out[j] /= total;
}

static void attention_item(const struct cpu_attention_item *item)
{
    for (int row = item->row0; row < item->row1; row++)
        attention_row(item, row);
}

void attention_base(struct cpu_variants *v)
{
    v->attention_item[QUANT_F32] = attention_item;
    v->attention_item[QUANT_F16] = attention_item;
    v->attention_item[QUANT_BF16] = attention_item;
    v->attention_item[QUANT_Q8_0] = attention_item;
    v->attention_item[QUANT_FP8] = attention_item;
}

struct attention_job {
    struct device *d;
    const struct attention_args *a;
    int group;
};

static void attention_slice(void *arg, int slice, int thread)
{
    const struct attention_job *job = arg;
    const struct attention_args *a = job->a;
    const struct device *d = job->d;
    const int32_t *starts = d->attention_starts;
    int low = 0, high = a->n_seqs - 1; /* the last sequence whose first slice is not after ours */

    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (starts[middle] <= slice)
            low = middle;
        else
            high = middle - 1;
    }
    const struct attention_seq *seq = &a->seqs[low];
    int item = slice - starts[low], n_rows = seq->q_len * job->group;
    int row0 = item / d->kv.o.n_kv_heads * ROWS_PER_ITEM;
    struct cpu_attention_item it = {
        .args = a,
        .seq = seq,
        .kv = &d->kv,
        .kv_head = item % d->kv.o.n_kv_heads,
        .row0 = row0,
        .row1 = row0 + ROWS_PER_ITEM < n_rows ? row0 + ROWS_PER_ITEM : n_rows,
        .scratch = cpu_scratch(d, thread),
    };
    d->ops.attention_item[d->kv.o.type](&it);
}

int attention_run(struct device *d, const struct attention_args *a)
{
    const struct kv_options *o = &d->kv.o;
    double work = 0;

    if (cpu_failed(d))
        return -1;
    if (!d->kv_bytes || a->layer < 0 || a->layer >= o->n_layers || a->n_heads < 1 ||
        a->n_heads % o->n_kv_heads || a->n_seqs > d->n_max)
        return cpu_fail(d, "attention does not fit the KV pool or the reserved scratch memory");
    struct attention_job job = {d, a, a->n_heads / o->n_kv_heads};
    d->attention_starts[0] = 0;
    for (int i = 0; i < a->n_seqs; i++) {
        const struct attention_seq *s = &a->seqs[i];
        int rows = s->q_len * job.group;
        int tiles = (rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;
        int seen = a->window > 0 && a->window < s->kv_len ? a->window : s->kv_len;
        d->attention_starts[i + 1] = d->attention_starts[i] + tiles * o->n_kv_heads;
        work += (double)s->q_len * seen;
    }
    cpu_run(d, attention_slice, &job, d->attention_starts[a->n_seqs],
            work * a->n_heads * o->head_dim * 0.04);
    return 0;
}
