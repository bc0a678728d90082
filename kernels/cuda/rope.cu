/* rope: the table of angles, rotary embedding (Su et al. 2021) and the store to the KV pool. Engine
 * thread. Writer of the KV layout (reader: attention*.cu):
 *   k[layer][block][kv_head][block_size][head_dim], v the same
 * and the scales of Q8_0, for both: d[layer][block][kv_head][block_size][head_dim / CUDA_KV_GROUP]
 */
#include "kernels/cuda/ptx.cuh"

enum { THREADS = 128, FREQS_MAX = CUDA_HEAD_DIM_MAX / 2 };

struct frequencies { /* by value: they are few and the same in every step */
    float f[FREQS_MAX];
};

static __global__ void rope_angles(float *cos_sin, const int32_t *pos, struct frequencies inv,
                                   int n_freq, float mscale)
{
    float *to = cos_sin + (int64_t)blockIdx.x * n_freq * 2;
    for (int j = (int)threadIdx.x; j < n_freq; j += THREADS) {
        float angle = __fmul_rn((float)pos[blockIdx.x], inv.f[j]);
        to[2 * j] = cosf(angle) * mscale;
        to[2 * j + 1] = sinf(angle) * mscale;
    }
}

int cuda_rope_table(struct device *d, const struct rope_table_args *a)
{
    struct frequencies inv = {};
    size_t bytes = (size_t)a->n * (size_t)a->n_freq * 2 * sizeof(float);
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (a->n_freq < 1 || a->n_freq > FREQS_MAX)
        return cuda_fail(d, "rope_table of %d frequencies", a->n_freq);
    if (!cuda_owns(d, a->cos_sin, bytes, "rope_table"))
        return -1;
    memcpy(inv.f, a->inv_freq, (size_t)a->n_freq * sizeof(float));
    const int32_t *pos = (const int32_t *)cuda_stage(d, a->pos, (size_t)a->n * sizeof *a->pos);
    if (!pos)
        return -1;
    CUDA_LAUNCH(rope_angles, dim3((unsigned)a->n), dim3(THREADS), 0, d->stream, a->cos_sin, pos,
                inv, a->n_freq, a->mscale);
    return cuda_launched(d, "rope_table");
}

struct store_params {
    float *q, *k;
    const float *v, *cos_sin, *q_scale;
    const int64_t *slots;
    char *k_pool, *v_pool; /* of the layer */
    uint16_t *k_scales, *v_scales; /* the same; Q8_0 only */
    int n_heads, n_kv_heads, head_dim, n_freq, block_shift;
    bool interleaved;
    enum quant_type type;
};

static __device__ __forceinline__ void put(const struct store_params *p, char *pool, int64_t at,
                                           float x)
{
    if (p->type == QUANT_F32)
        ((float *)pool)[at] = x;
    else if (p->type == QUANT_FP8)
        ((uint8_t *)pool)[at] = float_fp8(x);
    else
        ((uint16_t *)pool)[at] = p->type == QUANT_F16 ? float_f16(x) : float_bf16(x);
}

/* A warp's 32 values, which share a scale: quant_encode's rule, but that a NaN or an infinity among
 * them makes the scale NaN. */
static __device__ __forceinline__ void put_q8_0(char *pool, uint16_t *scales, int64_t at, float x)
{
    float most = fabsf(x), poison = x - x;
    for (int mask = 16; mask; mask /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, mask));
        poison += __shfl_xor_sync(0xffffffffu, poison, mask);
    }
    float scale = most / 127, inverse = scale > 1e-30f ? 1 / scale : 0;
    ((int8_t *)pool)[at] = (int8_t)(poison == 0 ? rintf(x * inverse) : 0);
    if (threadIdx.x % CUDA_WARP == 0)
        scales[at / CUDA_KV_GROUP] = float_f16(scale + poison);
}

/* One element of a rotated head; in holds the head before rotation. */
static __device__ __forceinline__ float rotated(const struct store_params *p, const float *in,
                                                const float *cos_sin, int i)
{
    int f = p->interleaved ? i / 2 : i < p->n_freq ? i : i - p->n_freq;
    bool second = p->interleaved ? i & 1 : i >= p->n_freq;
    if (i >= 2 * p->n_freq)
        return in[i];
    float a = in[p->interleaved ? 2 * f : f];
    float b = in[p->interleaved ? 2 * f + 1 : f + p->n_freq];
    float c = cos_sin[2 * f], s = cos_sin[2 * f + 1];
    return second ? __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c))
                  : __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
}

/* A block is one head of one token: grid (heads + kv heads, tokens). A thread owns up to two
 * elements and reads all it needs before the barrier, as the rotation is in place and no load
 * passes a store. */
static __global__ void rotate_store(struct store_params p)
{
    int head = (int)blockIdx.x, i0 = (int)threadIdx.x, i1 = i0 + THREADS;
    int64_t token = blockIdx.y;
    bool query = head < p.n_heads;
    int kv_head = head - p.n_heads;
    const float *cos_sin = p.cos_sin + token * p.n_freq * 2;
    float *row = query ? p.q + (token * p.n_heads + head) * p.head_dim
                       : p.k + (token * p.n_kv_heads + kv_head) * p.head_dim;
    grid_wait();
    grid_trigger();
    float x0 = i0 < p.head_dim ? rotated(&p, row, cos_sin, i0) : 0;
    float x1 = i1 < p.head_dim ? rotated(&p, row, cos_sin, i1) : 0;
    float scale = query && p.q_scale ? p.q_scale[token] : 1, v0 = 0, v1 = 0;
    int64_t slot = 0;
    if (!query) {
        const float *v = p.v + (token * p.n_kv_heads + kv_head) * p.head_dim;
        slot = p.slots[token];
        v0 = i0 < p.head_dim ? v[i0] : 0;
        v1 = i1 < p.head_dim ? v[i1] : 0;
    }
    __syncthreads();
    x0 *= scale;
    x1 *= scale;
    if (i0 < p.head_dim)
        row[i0] = x0;
    if (i1 < p.head_dim)
        row[i1] = x1;
    if (query)
        return;
    int64_t block = slot >> p.block_shift;
    int64_t offset = slot & ((1 << p.block_shift) - 1);
    int64_t base =
        (((block * p.n_kv_heads + kv_head) << p.block_shift) + offset) * p.head_dim;
    if (p.type == QUANT_Q8_0) { /* whole warps: heads are a multiple of 32 values */
        if (i0 < p.head_dim) {
            put_q8_0(p.k_pool, p.k_scales, base + i0, x0);
            put_q8_0(p.v_pool, p.v_scales, base + i0, v0);
        }
        if (i1 < p.head_dim) {
            put_q8_0(p.k_pool, p.k_scales, base + i1, x1);
            put_q8_0(p.v_pool, p.v_scales, base + i1, v1);
        }
        return;
    }
    if (i0 < p.head_dim) {
        put(&p, p.k_pool, base + i0, x0);
        put(&p, p.v_pool, base + i0, v0);
    }
    if (i1 < p.head_dim) {
        put(&p, p.k_pool, base + i1, x1);
        put(&p, p.v_pool, base + i1, v1);
    }
}

static int check(struct device *d, const struct rope_store_args *a)
{
    const struct kv_options *o = &d->kv.o;
    if (!d->kv.k || a->layer < 0 || a->layer >= o->n_layers || 2 * a->n_freq > o->head_dim ||
        a->n > 65535)
        return cuda_fail(d, "rope_store does not fit the KV pool");
    size_t head = (size_t)a->n * (size_t)o->head_dim * sizeof(float);
    size_t table = (size_t)a->n * (size_t)a->n_freq * 2 * sizeof(float);
    if (!cuda_owns(d, a->q, head * (size_t)a->n_heads, "rope_store's q") ||
        !cuda_owns(d, a->k, head * (size_t)o->n_kv_heads, "rope_store's k") ||
        !cuda_owns(d, a->v, head * (size_t)o->n_kv_heads, "rope_store's v") ||
        (table && !cuda_owns(d, a->cos_sin, table, "rope_store's table")))
        return -1;
    if (d->in_step && a->slots == d->step.slots)
        return 0; /* step_begin looked at them */
    int64_t n_slots = (int64_t)o->n_blocks * o->block_size;
    for (int i = 0; i < a->n; i++)
        if (a->slots[i] < 0 || a->slots[i] >= n_slots)
            return cuda_fail(d, "slot %lld is outside the KV pool", (long long)a->slots[i]);
    return 0;
}

int cuda_rope_store(struct device *d, const struct rope_store_args *a)
{
    const struct kv_options *o = &d->kv.o;
    size_t n = (size_t)a->n;
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (check(d, a))
        return -1;
    struct store_params p = {.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .cos_sin = a->cos_sin,
                             .q_scale = NULL,
                             .slots =
                                 (const int64_t *)cuda_stage(d, a->slots, n * sizeof *a->slots),
                             .k_pool = d->kv.k + (size_t)a->layer * d->kv.layer_bytes,
                             .v_pool = d->kv.v + (size_t)a->layer * d->kv.layer_bytes,
                             .k_scales = NULL,
                             .v_scales = NULL,
                             .n_heads = a->n_heads,
                             .n_kv_heads = o->n_kv_heads,
                             .head_dim = o->head_dim,
                             .n_freq = a->n_freq,
                             .block_shift = d->kv.block_shift,
                             .interleaved = a->interleaved,
                             .type = o->type};
    if (o->type == QUANT_Q8_0) {
        p.k_scales = d->kv.k_scales + (size_t)a->layer * d->kv.layer_values / CUDA_KV_GROUP;
        p.v_scales = d->kv.v_scales + (size_t)a->layer * d->kv.layer_values / CUDA_KV_GROUP;
    }
    if (a->q_scale)
        p.q_scale = (const float *)cuda_stage(d, a->q_scale, n * sizeof *a->q_scale);
    if (!p.slots || (a->q_scale && !p.q_scale))
        return -1;
    CUDA_LAUNCH_EARLY(rotate_store, dim3((unsigned)(a->n_heads + o->n_kv_heads), (unsigned)a->n),
                      dim3(THREADS), 0, d, p);
    return cuda_launched(d, "rope_store");
}
