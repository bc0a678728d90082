/* matrix: weights on their way to the device. Engine thread. Writer of the TILED layout
 * (quant.cuh): rows arrive as in the file, slice by slice, in memory borrowed from the reservation,
 * and are repacked by the device. Other formats, what has centers that the layout cannot hold, and
 * all of them on GPUs without bfloat16 tensor cores, stay as they are in the file. */
#include "kernels/cuda/codes.cuh"

#include <stdlib.h>

enum {
    SLICE_BYTES = 64 << 20,
    THREADS = 128,
    MATRIX_CENTER_MAX = 896 /* 1152 + it is exact in float16, and so are differences of codes */
};

struct planes {
    uint8_t *codes, *high, *scales, *supers;
    float *row_scales; /* F8_128: of each row's first block */
    int *odd; /* set where something is out of the ordinary, see matrix_odd */
};

/* Volatile: threads of many blocks may do so at once, which plain stores may not. */
static __device__ __forceinline__ void set_odd(const struct planes *p)
{
    *(volatile int *)p->odd = 1;
}

/* The scales of (row, chunk) of the formats with float32 ones; at: the chunk's first block. */
static __device__ void repack_floats(const struct quant_view *v, const struct planes *p,
                                     const uint8_t *at, const uint8_t *first, int64_t place,
                                     int64_t row, int chunk)
{
    bool small = v->type == QUANT_G4 || v->type == QUANT_G8;
    int n = small ? 4 : 1, one = tile_eight(v->type) ? 1152 : 1024;
    uint32_t *to = (uint32_t *)(p->scales + place * tile_scale_bytes(v->type));
    for (int i = 0; i < n; i++) {
        bool inside = at && chunk * CUDA_CHUNK + 32 * i < v->cols;
        const uint8_t *head = at + (inside && small ? i * quant_block_bytes(v->type) : 0);
        uint32_t bits = inside ? raw_u32(head) : 0;
        int z = inside && v->type != QUANT_F8_128 ? (int16_t)raw_u16(head + 4) : 0;
        if (v->type == QUANT_F8_128) {
            to[0] = bits;
            if (inside && bits != raw_u32(first))
                set_odd(p);
            if (chunk == 0)
                p->row_scales[row] = __uint_as_float(bits);
            return;
        }
        if (z < -MATRIX_CENTER_MAX || z > MATRIX_CENTER_MAX)
            set_odd(p);
        uint32_t center = float_f16((float)(one + z));
        to[2 * i] = bits;
        to[2 * i + 1] = center << 16 | center;
    }
}

/* The scales of (row, chunk), and of every other chunk the supers; at NULL: beyond the matrix. */
static __device__ void repack_scales(const struct quant_view *v, const struct planes *p,
                                     const uint8_t *from, int64_t row, int chunk)
{
    int block = quant_block(v->type), bytes = quant_block_bytes(v->type);
    int64_t place = tile_place(row, chunk, v->n_chunks);
    if (!tile_supers(v->type) && v->type != QUANT_Q8_0 && v->type != QUANT_Q4_0) {
        const uint8_t *at = from ? from + (int64_t)(chunk * CUDA_CHUNK / block) * bytes : NULL;
        repack_floats(v, p, at, from, place, row, chunk);
        return;
    }
    uint8_t *scale = p->scales + place * 8;
    for (int i = 0; i < 8; i++) {
        /* group i of 16 (Q6_K), pair of bytes i / 2 else: float16 or (scale, least) */
        int col = chunk * CUDA_CHUNK + (tile_sixteen(v->type) ? 16 * i : 32 * (i / 2));
        uint8_t value = 0;
        if (from && col < v->cols) {
            const uint8_t *at = from + (int64_t)(col / block) * bytes;
            int s = col % block / 32;
            if (v->type == QUANT_Q6_K)
                value = at[192 + col % block / 16];
            else if (block == 32)
                value = at[i % 2];
            else
                value = (uint8_t)(i % 2 ? raw_q4_k_least(at + 4, s) : raw_q4_k_scale(at + 4, s));
        }
        scale[i] = value;
    }
    if (!tile_supers(v->type) || chunk % 2)
        return;
    uint8_t *super = p->supers + tile_place(row, chunk / 2, v->n_chunks / 2) * 4;
    bool six = v->type == QUANT_Q6_K;
    for (int i = 0; i < 4; i++)
        super[i] = !from || (six && i > 1)
                       ? 0
                       : from[(int64_t)(chunk / 2) * bytes + (six ? 208 + i : i)];
}

/* The 32 codes of (row, chunk, quarter t) as words, and their high bits. */
static __device__ void gather_codes(const struct quant_view *v, const uint8_t *from, int chunk,
                                    int t, uint32_t words[8], uint32_t bits[2])
{
    bool eight = tile_eight(v->type), in_order = v->type == QUANT_F8_128;
    int block = quant_block(v->type), bytes = quant_block_bytes(v->type);
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 8; e++) {
            int col = chunk * CUDA_CHUNK +
                      (in_order ? 32 * t + 8 * j + e
                                : tile_column(tile_sixteen(v->type), j, t, e));
            if (col >= v->cols)
                continue;
            int code = raw_code(v->type, from + (int64_t)(col / block) * bytes, col % block);
            int p = 4 * j + e / 2, second = e % 2;
            if (eight) {
                words[2 * j + e / 4] |= (uint32_t)(code & 255) << 8 * (e % 4);
                continue;
            }
            words[j] |= (uint32_t)(code & 15) << 4 * (e / 2 + 4 * second);
            if (v->type == QUANT_Q5_K)
                bits[0] |= (uint32_t)(code >> 4) << (p + 16 * second);
            if (v->type == QUANT_Q6_K)
                bits[p / 8] |= (uint32_t)(code >> 4) << (2 * (p % 8) + 16 * second);
        }
}

/* One thread fills one (row, chunk, quarter): its codes, its share of the high bits; the first
 * quarter the scales. raw: rows row0 .. row0 + n_rows - 1; row0 is a multiple of the tile. */
static __global__ void repack(struct quant_view v, struct planes to, int64_t row0, int n_rows)
{
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int t = (int)(index % 4), chunk = (int)(index / 4 % v.n_chunks);
    int64_t row = index / 4 / v.n_chunks;
    int padded = (n_rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
    if (row >= padded)
        return;
    const uint8_t *from = row < n_rows ? v.raw + row * v.row_bytes : NULL;
    int64_t place = tile_place(row0 + row, chunk, v.n_chunks);
    uint32_t words[8] = {0}, bits[2] = {0};
    if (from)
        gather_codes(&v, from, chunk, t, words, bits);
    if (v.type == QUANT_F8_128) {
        uint32_t *codes = (uint32_t *)(to.codes + ((row0 + row) * v.n_chunks + chunk) * CUDA_CHUNK);
        for (int i = 0; i < 8; i++) {
            codes[8 * t + i] = words[i];
            if (((words[i] & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) /* one of the four is NaN */
                set_odd(&to);
        }
    } else {
        bool eight = tile_eight(v.type);
        uint32_t *codes = (uint32_t *)(to.codes + place * tile_code_bytes(v.type));
        for (int i = 0; i < (eight ? 8 : 4); i++)
            codes[eight ? 16 * (i / 4) + 4 * t + i % 4 : 4 * t + i] = words[i];
    }
    if (v.type == QUANT_Q5_K)
        ((uint32_t *)(to.high + place * 16))[t] = bits[0];
    for (int i = 0; v.type == QUANT_Q6_K && i < 2; i++)
        ((uint32_t *)(to.high + place * 32))[2 * t + i] = bits[i];
    if (!t)
        repack_scales(&v, &to, from, row0 + row, chunk);
}

/* ---- back to values */

static __global__ void dequantize(struct quant_view v, int64_t row0, int64_t n, uint16_t *out)
{
    int64_t index = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 2;
    if (index >= n * v.cols)
        return;
    int64_t row = index / v.cols;
    int col = (int)(index % v.cols); /* even: cols is a multiple of 32 */
    float a = saturate_f16(view_value(&v, row0 + row, col));
    float b = saturate_f16(view_value(&v, row0 + row, col + 1));
    ((uint32_t *)out)[index / 2] = pack_f16(a, b);
}

/* Elements 2 i and 2 i + 1 of group k, rounded once, as decoded from the file. */
template <enum quant_type T>
static __device__ __forceinline__ uint32_t value_pair(const struct share<T> *s, int half, int k,
                                                      int i)
{
    uint32_t pair = pair_of<T, false>(s, half, k, i);
    float scale = scale_of<T>(s, half, k, i / 2);
    float a = __fmul_rn(scale, f16_float((uint16_t)pair));
    float b = __fmul_rn(scale, f16_float((uint16_t)(pair >> 16)));
    if (tiles<T>::LEAST) {
        float least = least_of<T>(s, half, k);
        a = __fsub_rn(a, least);
        b = __fsub_rn(b, least);
    }
    return pack_f16(saturate_f16(a), saturate_f16(b));
}

/* A warp takes one chunk of one tile, as the products do. tile0: of the first row */
template <enum quant_type T>
static __global__ void dequantize_tiles(struct quant_view v, int64_t tile0, int64_t n_tiles,
                                        int64_t n_rows, uint16_t *out)
{
    unsigned index = blockIdx.x * (THREADS / CUDA_WARP) + threadIdx.x / CUDA_WARP;
    int64_t tile = index / (unsigned)v.n_chunks;
    int chunk = (int)(index % (unsigned)v.n_chunks), lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4;
    struct tile_at planes = {v.codes, v.high, v.scales, v.supers, 0};
    struct share<T> s;
    if (tile >= n_tiles)
        return;
    struct tile_at at = tile_at_of<T>(&planes, tile0 + tile, chunk, v.n_chunks);
    load_share<T, false>(&at, g, t, &s);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t row = tile * CUDA_TILE_ROWS + 8 * half + g;
        uint16_t *to = out + row * v.cols + chunk * CUDA_CHUNK;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint2 first, second;
            if (row >= n_rows || chunk * CUDA_CHUNK + 32 * k >= v.cols)
                continue;
            first.x = value_pair<T>(&s, half, k, 0);
            first.y = value_pair<T>(&s, half, k, 1);
            second.x = value_pair<T>(&s, half, k, 2);
            second.y = value_pair<T>(&s, half, k, 3);
            *(uint2 *)(to + first_column<T>(k, t)) = first;
            *(uint2 *)(to + second_column<T>(k, t)) = second;
        }
    }
}

template <enum quant_type T>
static void run_tiles(struct device *d, const struct matrix *m, int64_t row0, int64_t n,
                      uint16_t *out)
{
    struct quant_view v = quant_view_of(m);
    int64_t n_tiles = (n + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS;
    int64_t threads = n_tiles * v.n_chunks * CUDA_WARP;
    auto kernel = dequantize_tiles<T>;
    CUDA_LAUNCH(kernel, dim3((unsigned)((threads + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                d->stream, v, row0 / CUDA_TILE_ROWS, n_tiles, n, out);
}

void cuda_dequantize(struct device *d, const struct matrix *m, int64_t row0, int64_t n,
                     uint16_t *out)
{
    int64_t pairs = n * m->cols / 2;
    switch (((const struct cuda_matrix *)m->packed)->tiled ? m->type : QUANT_COUNT) {
    case QUANT_Q8_0: run_tiles<QUANT_Q8_0>(d, m, row0, n, out); return;
    case QUANT_Q4_0: run_tiles<QUANT_Q4_0>(d, m, row0, n, out); return;
    case QUANT_Q4_K: run_tiles<QUANT_Q4_K>(d, m, row0, n, out); return;
    case QUANT_Q5_K: run_tiles<QUANT_Q5_K>(d, m, row0, n, out); return;
    case QUANT_Q6_K: run_tiles<QUANT_Q6_K>(d, m, row0, n, out); return;
    case QUANT_G4: run_tiles<QUANT_G4>(d, m, row0, n, out); return;
    case QUANT_G4_128: run_tiles<QUANT_G4_128>(d, m, row0, n, out); return;
    case QUANT_G8: run_tiles<QUANT_G8>(d, m, row0, n, out); return;
    case QUANT_G8_128: run_tiles<QUANT_G8_128>(d, m, row0, n, out); return;
    case QUANT_F8_128: run_tiles<QUANT_F8_128>(d, m, row0, n, out); return;
    default: break;
    }
    CUDA_LAUNCH(dequantize, dim3((unsigned)((pairs + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                d->stream, quant_view_of(m), row0, n, out);
}

/* ---- loading */

/* Cut one allocation into the planes, the row scales and the mark. */
static int take_planes(struct device *d, enum quant_type type, struct cuda_matrix *c,
                       struct planes *p)
{
    size_t places = (size_t)c->n_tiles * CUDA_TILE_ROWS * (size_t)c->n_chunks;
    size_t sizes[6] = {places * (size_t)tile_code_bytes(type),
                       places * (size_t)tile_high_bytes(type),
                       places * (size_t)tile_scale_bytes(type),
                       tile_supers(type) ? places / 2 * 4 : 0,
                       type == QUANT_F8_128 ? (size_t)c->n_tiles * CUDA_TILE_ROWS * 4 : 0,
                       sizeof(int)};
    size_t at[7] = {0};
    for (int i = 0; i < 6; i++)
        at[i + 1] = at[i] + (sizes[i] + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
    c->raw = (char *)cuda_take(d, at[6], false);
    if (!c->raw)
        return cuda_fail(d, "no GPU memory for %zu bytes of weights", at[6]);
    uint8_t *base = (uint8_t *)c->raw;
    *p = (struct planes){base,         base + at[1],          base + at[2],
                         base + at[3], (float *)(base + at[4]), (int *)(base + at[5])};
    c->codes = p->codes;
    c->high = p->high;
    c->scales = p->scales;
    c->supers = p->supers;
    c->row_scales = type == QUANT_F8_128 ? p->row_scales : NULL;
    c->bytes = at[6];
    return cuda_check(d, cudaMemsetAsync(p->odd, 0, sizeof(int), d->stream), "cudaMemset");
}

/* Of F8_128: some row has several scales, or a code is NaN, which counts as 480 (quant.h) but not
 * in the library. Of formats with centers: one is beyond MATRIX_CENTER_MAX. Waits for the
 * repacking: products read weights before they wait for the kernel in front of them (grid_wait),
 * which must not be this one. */
static int matrix_odd(struct device *d, const struct planes *p, int *odd)
{
    return cuda_check(d, cudaMemcpyAsync(odd, p->odd, sizeof *odd, cudaMemcpyDeviceToHost,
                                         d->stream),
                      "repacking weights") ||
           cuda_check(d, cudaStreamSynchronize(d->stream), "repacking weights");
}

static int load_tiled(struct device *d, const struct matrix *m, struct cuda_matrix *c)
{
    int64_t each = SLICE_BYTES / (int64_t)c->row_bytes / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
    struct planes planes = {};
    int rc = 0, odd = 0;
    if (each < CUDA_TILE_ROWS)
        each = CUDA_TILE_ROWS;
    each = each > m->rows ? m->rows : each;
    c->n_chunks = (int)((m->cols + CUDA_CHUNK - 1) / CUDA_CHUNK);
    c->n_tiles = (int)((m->rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS);
    if (take_planes(d, m->type, c, &planes))
        return -1;
    char *slice = (char *)cuda_take(d, (size_t)each * c->row_bytes, false);
    if (!slice)
        return cuda_fail(d, "no GPU memory for a slice of weights");
    for (int64_t row = 0; !rc && row < m->rows; row += each) {
        int64_t n = m->rows - row < each ? m->rows - row : each;
        rc = cuda_upload(d, slice, (const char *)m->data + row * (int64_t)c->row_bytes,
                         (size_t)n * c->row_bytes);
        if (rc)
            break;
        struct quant_view v = {m->type, true, m->rows, m->cols, (const uint8_t *)slice,
                               (int64_t)c->row_bytes, NULL, NULL, NULL, NULL, c->n_chunks};
        int64_t rows = (n + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
        int64_t blocks = (rows * c->n_chunks * 4 + THREADS - 1) / THREADS;
        CUDA_LAUNCH(repack, dim3((unsigned)blocks), dim3(THREADS), 0, d->stream, v, planes, row,
                    (int)n);
        rc = cuda_launched(d, "repacking weights");
    }
    cuda_give(d, slice); /* what takes it next is enqueued behind the repacking */
    if (!rc)
        rc = matrix_odd(d, &planes, &odd);
    c->by_row = m->type == QUANT_F8_128 && !odd;
    c->tiled = m->type == QUANT_F8_128 || !odd;
    return rc;
}

static int load_raw(struct device *d, const struct matrix *m, struct cuda_matrix *c, size_t bytes)
{
    c->bytes = bytes;
    c->raw = (char *)cuda_take(d, bytes, false);
    if (!c->raw)
        return cuda_fail(d, "no GPU memory for %zu bytes of weights", bytes);
    return cuda_upload(d, c->raw, m->data, bytes);
}

int cuda_matrix_load(struct device *d, struct matrix *m)
{
    size_t row_bytes, bytes;
    if (cuda_failed(d))
        return -1;
    row_bytes = m->cols > 0 ? quant_row_bytes(m->type, (size_t)m->cols) : 0;
    if (m->rows < 1 || m->cols > INT32_MAX || m->rows > INT32_MAX || !row_bytes ||
        __builtin_mul_overflow(row_bytes, (size_t)m->rows, &bytes))
        return cuda_fail(d, "a matrix of %lld x %lld cannot be stored as %s", (long long)m->rows,
                         (long long)m->cols, quant_formats[m->type].name);
    struct cuda_matrix *c = (struct cuda_matrix *)calloc(1, sizeof *c);
    if (!c)
        return cuda_fail(d, "no memory");
    c->row_bytes = row_bytes;
    m->packed = c;
    if (!d->tensor || !quant_tiles(m->type))
        return load_raw(d, m, c, bytes);
    if (load_tiled(d, m, c))
        return -1;
    if (c->tiled)
        return 0;
    cuda_give(d, c->raw);
    return load_raw(d, m, c, bytes);
}

void cuda_matrix_free(struct device *d, struct matrix *m)
{
    struct cuda_matrix *c = (struct cuda_matrix *)m->packed;
    cuda_moe_close(d); /* its tables may point to this one */
    if (c)
        cuda_give(d, c->raw);
    free(c);
    m->packed = NULL;
}
