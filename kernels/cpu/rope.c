/* rope: rotary embedding (Su et al. 2021) and the store of keys and values to the KV pool.
 * Engine thread; slices of tokens on the pool.
 *
 * Writer of the KV layout (reader: attention*.c):
 *   k[layer][block][kv_head][head_dim][block_size], v[layer][block][kv_head][block_size][head_dim]
 * and the scales of Q8_0, for both: d[layer][block][kv_head][head_dim / CPU_KV_GROUP][block_size].
 * Two tokens of a batch have two slots, so slices write disjoint memory. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { TOKENS_PER_SLICE = 2, DIMS = 64 };

static void rope_head(float *head, const float *cos_sin, int n_freq, bool interleaved)
{
    for (int j = 0; j < n_freq; j++) {
        float c = cos_sin[2 * j], s = cos_sin[2 * j + 1];
        float *a = head + (interleaved ? 2 * j : j),
              *b = head + (interleaved ? 2 * j + 1 : j + n_freq);
        float x = *a, y = *b;
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}

static void kv_encode(enum quant_type type, const float *in, void *out, int n)
{
    quant_encode(type, in, out, (size_t)n);
}

void rope_base(struct cpu_variants *v)
{
    v->rope_head = rope_head;
    v->kv_encode = kv_encode;
}

struct table_job {
    const struct rope_table_args *a;
};

static void table_slice(void *arg, int i, int thread)
{
    const struct rope_table_args *a = ((const struct table_job *)arg)->a;
    float *out = a->cos_sin + (size_t)i * (size_t)a->n_freq * 2;

    (void)thread;
    for (int j = 0; j < a->n_freq; j++) {
        float angle = (float)a->pos[i] * a->inv_freq[j];
        out[2 * j] = cosf(angle) * a->mscale;
        out[2 * j + 1] = sinf(angle) * a->mscale;
    }
}

int rope_table(struct device *d, const struct rope_table_args *a)
{
    if (cpu_failed(d))
        return -1;
    struct table_job job = {a};
    cpu_run(d, table_slice, &job, a->n, (double)a->n * a->n_freq * 20);
    return 0;
}

struct store_job {
    const struct device *d;
    const struct rope_store_args *a;
};

/* One head's key goes to a column of its block: consecutive elements lie block_size apart. */
static void store_key(const struct device *d, const float *key, char *column)
{
    const struct cpu_kv *kv = &d->kv;
    size_t stride = (size_t)kv->o.block_size;
    union {
        float f[DIMS];
        uint16_t h[DIMS];
        uint8_t b[DIMS];
    } value;

    for (int at = 0; at < kv->o.head_dim; at += DIMS) {
        int n = kv->o.head_dim - at < DIMS ? kv->o.head_dim - at : DIMS;
        d->ops.kv_encode(kv->o.type, key + at, &value, n);
        for (int i = 0; i < n; i++) {
            if (kv->value_bytes == 4)
                ((float *)column)[(size_t)(at + i) * stride] = value.f[i];
            else if (kv->value_bytes == 1)
                ((uint8_t *)column)[(size_t)(at + i) * stride] = value.b[i];
            else
                ((uint16_t *)column)[(size_t)(at + i) * stride] = value.h[i];
        }
    }
}

/* Q8_0: a head's values (stride 1) or its key (stride block_size), and a scale for each group. */
static void store_quantized(const struct device *d, const float *head, char *to, size_t stride,
                            uint16_t *scales)
{
    const struct cpu_kv *kv = &d->kv;
    int8_t q[CPU_KV_GROUP];
    struct cpu_scale scale;

    for (int at = 0; at < kv->o.head_dim; at += CPU_KV_GROUP, scales += kv->o.block_size) {
        d->ops.quantize_row(head + at, CPU_KV_GROUP, q, &scale, 0);
        *scales = quant_f32_to_f16(scale.d);
        for (int i = 0; i < CPU_KV_GROUP; i++)
            to[(size_t)(at + i) * stride] = (char)q[i];
    }
}

/* One head of one position; base: the index of its block's head. */
static void store_head(const struct device *d, const float *k, const float *v, size_t base,
                       size_t offset)
{
    const struct cpu_kv *kv = &d->kv;
    size_t head_dim = (size_t)kv->o.head_dim, bytes = (size_t)kv->value_bytes;
    char *key = kv->k + (base + offset) * bytes,
         *value = kv->v + (base + offset * head_dim) * bytes;

    if (kv->o.type == QUANT_Q8_0) {
        size_t scale = base / CPU_KV_GROUP + offset;
        store_quantized(d, k, key, (size_t)kv->o.block_size, kv->k_scales + scale);
        store_quantized(d, v, value, 1, kv->v_scales + scale);
        return;
    }
    store_key(d, k, key);
    d->ops.kv_encode(kv->o.type, v, value, kv->o.head_dim);
}

static void store_token(const struct store_job *job, int i)
{
    const struct device *d = job->d;
    const struct rope_store_args *a = job->a;
    const struct cpu_kv *kv = &d->kv;
    size_t head_dim = (size_t)kv->o.head_dim, n_kv = (size_t)kv->o.n_kv_heads;
    size_t block = (size_t)(a->slots[i] >> kv->block_shift);
    size_t offset = (size_t)a->slots[i] & ((size_t)kv->o.block_size - 1);
    const float *cos_sin = a->cos_sin + (size_t)i * (size_t)a->n_freq * 2;
    float *q = a->q + (size_t)i * (size_t)a->n_heads * head_dim;
    float *k = a->k + (size_t)i * n_kv * head_dim;
    const float *v = a->v + (size_t)i * n_kv * head_dim;

    for (int h = 0; h < a->n_heads; h++)
        d->ops.rope_head(q + (size_t)h * head_dim, cos_sin, a->n_freq, a->interleaved);
    if (a->q_scale && a->q_scale[i] != 1)
        for (size_t j = 0; j < (size_t)a->n_heads * head_dim; j++)
            q[j] *= a->q_scale[i];
    for (int h = 0; h < kv->o.n_kv_heads; h++, k += head_dim, v += head_dim) {
        d->ops.rope_head(k, cos_sin, a->n_freq, a->interleaved);
        store_head(d, k, v, cpu_kv_base(kv, a->layer, block, h), offset);
    }
}

static void store_slice(void *arg, int slice, int thread)
{
    const struct store_job *job = arg;

    (void)thread;
    for (int i = slice * TOKENS_PER_SLICE;
         i < job->a->n && i < (slice + 1) * TOKENS_PER_SLICE; i++)
        store_token(job, i);
}

int rope_store(struct device *d, const struct rope_store_args *a)
{
    const struct kv_options *o = &d->kv.o;

    if (cpu_failed(d))
        return -1;
    if (!d->kv_bytes || a->layer < 0 || a->layer >= o->n_layers || 2 * a->n_freq > o->head_dim)
        return cpu_fail(d, "rope_store does not fit the KV pool");
    int64_t n_slots = (int64_t)o->n_blocks * o->block_size;
    for (int i = 0; i < a->n; i++)
        if (a->slots[i] < 0 || a->slots[i] >= n_slots)
            return cpu_fail(d, "slot %lld is outside the KV pool", (long long)a->slots[i]);
    struct store_job job = {d, a};
    cpu_run(d, store_slice, &job, (a->n + TOKENS_PER_SLICE - 1) / TOKENS_PER_SLICE,
            (double)a->n * (a->n_heads * 0.25 + o->n_kv_heads * 1.5) * o->head_dim);
    return 0;
}
