/* matrix: weights on their way to the device. Engine thread. Writer of the TILED layout
 * (quant.cuh): rows arrive as in the file, slice by slice, in memory borrowed from the reservation,
 * and are repacked by the device. Other formats, and all of them on GPUs without bfloat16 tensor
 * cores, stay as they are in the file. */
#include "kernels/cuda/quant.cuh"

#include <stdlib.h>

enum { SLICE_BYTES = 64 << 20, THREADS = 128 };

/* One thread fills one (row, chunk, quarter): its codes, its share of the high bits; the first
 * quarter the scales. raw: rows row0 .. row0 + n_rows - 1; row0 is a multiple of the tile. */
static __global__ void repack(struct quant_view v, uint8_t *codes, uint8_t *high, uint8_t *scales,
                              uint8_t *supers, int64_t row0, int n_rows)
{
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int t = (int)(index % 4), chunk = (int)(index / 4 % v.n_chunks);
    int64_t row = index / 4 / v.n_chunks;
    int padded = (n_rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
    if (row >= padded)
        return;
    bool sixteen = tile_sixteen(v.type), q8 = v.type == QUANT_Q8_0;
    int block = quant_block(v.type), bytes = quant_block_bytes(v.type);
    int64_t place = tile_place(row0 + row, chunk, v.n_chunks);
    const uint8_t *from = v.raw + row * v.row_bytes;
    uint32_t words[8] = {0}, bits[2] = {0};

    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 8; e++) {
            int col = chunk * CUDA_CHUNK + tile_column(sixteen, j, t, e);
            if (row >= n_rows || col >= v.cols)
                continue;
            int code = raw_code(v.type, from + (int64_t)(col / block) * bytes, col % block);
            int p = 4 * j + e / 2, second = e % 2;
            if (q8) {
                words[2 * j + e / 4] |= (uint32_t)(code & 255) << 8 * (e % 4);
                continue;
            }
            words[j] |= (uint32_t)(code & 15) << 4 * (e / 2 + 4 * second);
            if (v.type == QUANT_Q5_K)
                bits[0] |= (uint32_t)(code >> 4) << (p + 16 * second);
            if (v.type == QUANT_Q6_K)
                bits[p / 8] |= (uint32_t)(code >> 4) << (2 * (p % 8) + 16 * second);
        }
    uint32_t *to = (uint32_t *)(codes + place * tile_code_bytes(v.type));
    for (int i = 0; i < (q8 ? 8 : 4); i++)
        to[q8 ? 16 * (i / 4) + 4 * t + i % 4 : 4 * t + i] = words[i];
    if (v.type == QUANT_Q5_K)
        ((uint32_t *)(high + place * 16))[t] = bits[0];
    for (int i = 0; v.type == QUANT_Q6_K && i < 2; i++)
        ((uint32_t *)(high + place * 32))[2 * t + i] = bits[i];
    if (t)
        return;

    uint8_t *scale = scales + place * 8;
    for (int i = 0; i < 8; i++) {
        /* group i of 16 (Q6_K), pair of bytes i / 2 else: float16 or (scale, least) */
        int col = chunk * CUDA_CHUNK + (sixteen ? 16 * i : 32 * (i / 2));
        uint8_t value = 0;
        if (row < n_rows && col < v.cols) {
            const uint8_t *at = from + (int64_t)(col / block) * bytes;
            int s = col % block / 32;
            if (v.type == QUANT_Q6_K)
                value = at[192 + col % block / 16];
            else if (block == 32)
                value = at[i % 2];
            else
                value = (uint8_t)(i % 2 ? raw_q4_k_least(at + 4, s) : raw_q4_k_scale(at + 4, s));
        }
        scale[i] = value;
    }
    if (!tile_supers(v.type) || chunk % 2)
        return;
    uint8_t *super = supers + tile_place(row0 + row, chunk / 2, v.n_chunks / 2) * 4;
    const uint8_t *at = from + (int64_t)(chunk / 2) * bytes;
    bool six = v.type == QUANT_Q6_K;
    for (int i = 0; i < 4; i++)
        super[i] = row >= n_rows || (six && i > 1) ? 0 : at[six ? 208 + i : i];
}

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

void cuda_dequantize(struct device *d, const struct matrix *m, int64_t row0, int64_t n,
                     uint16_t *out)
{
    int64_t pairs = n * m->cols / 2;
    CUDA_LAUNCH(dequantize, dim3((unsigned)((pairs + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                d->stream, quant_view_of(m), row0, n, out);
}

/* Cut one allocation into the planes. */
static int take_planes(struct device *d, enum quant_type type, struct cuda_matrix *c)
{
    size_t places = (size_t)c->n_tiles * CUDA_TILE_ROWS * (size_t)c->n_chunks;
    size_t sizes[4] = {places * (size_t)tile_code_bytes(type),
                       places * (size_t)tile_high_bytes(type), places * 8,
                       tile_supers(type) ? places / 2 * 4 : 0};
    uint8_t **planes[4] = {&c->codes, &c->high, &c->scales, &c->supers};
    size_t at[5] = {0};
    for (int i = 0; i < 4; i++)
        at[i + 1] = at[i] + (sizes[i] + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
    c->raw = (char *)cuda_take(d, at[4], false);
    if (!c->raw)
        return cuda_fail(d, "no GPU memory for %zu bytes of weights", at[4]);
    for (int i = 0; i < 4; i++)
        *planes[i] = (uint8_t *)c->raw + at[i];
    c->bytes = at[4];
    return 0;
}

static int load_tiled(struct device *d, const struct matrix *m, struct cuda_matrix *c)
{
    int64_t each = SLICE_BYTES / (int64_t)c->row_bytes / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
    int rc = 0;
    if (each < CUDA_TILE_ROWS)
        each = CUDA_TILE_ROWS;
    each = each > m->rows ? m->rows : each;
    c->n_chunks = (int)((m->cols + CUDA_CHUNK - 1) / CUDA_CHUNK);
    c->n_tiles = (int)((m->rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS);
    if (take_planes(d, m->type, c))
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
        CUDA_LAUNCH(repack, dim3((unsigned)blocks), dim3(THREADS), 0, d->stream, v, c->codes,
                    c->high, c->scales, c->supers, row, (int)n);
        rc = cuda_launched(d, "repacking weights");
    }
    cuda_give(d, slice); /* what takes it next is enqueued behind the repacking */
    return rc;
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
    c->tiled = d->tensor && quant_tiles(m->type);
    m->packed = c;
    if (c->tiled)
        return load_tiled(d, m, c);
    c->bytes = bytes;
    c->raw = (char *)cuda_take(d, bytes, false);
    if (!c->raw)
        return cuda_fail(d, "no GPU memory for %zu bytes of weights", bytes);
    return cuda_upload(d, c->raw, m->data, bytes);
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
