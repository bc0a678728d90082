/* codes: a lane's share of TILED weights (quant.cuh), and codes as operands of the tensor cores.
 * Private to linear_quant.cu, linear_tile.cuh and matrix.cu.
 *
 * A code is or-ed into the bits of a power of two whose units are ones, 128 as bfloat16 or 1024 as
 * float16, and that power plus the format's center is subtracted: small integers, exact. Codes of 8
 * bits have no room beside 128 and are float16 always; E4M3 moved to where float16 has its exponent
 * is the value divided by 256. */
#ifndef SIROCCO_KERNELS_CUDA_CODES_CUH
#define SIROCCO_KERNELS_CUDA_CODES_CUH

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quant.cuh"

template <enum quant_type T> struct tiles {
    static constexpr bool
        FLOATS = T == QUANT_F8_128,
        EIGHT = T == QUANT_Q8_0 || T == QUANT_G8 || T == QUANT_G8_128 || FLOATS,
        SIXTEEN = T == QUANT_Q6_K,                               /* groups of 16 columns */
        LEAST = T == QUANT_Q4_K || T == QUANT_Q5_K,
        SUPERS = LEAST || SIXTEEN,
        CENTERED = T == QUANT_G4 || T == QUANT_G4_128 || T == QUANT_G8 || T == QUANT_G8_128,
        LONG = T == QUANT_G4_128 || T == QUANT_G8_128 || FLOATS, /* groups of 128 columns */
        BF16 = !EIGHT && !CENTERED; /* inputs in two parts, which this does not bound */
    static constexpr int CODES = EIGHT ? 128 : 64, /* bytes per row and chunk */
        HIGH = T == QUANT_Q5_K ? 16 : SIXTEEN ? 32 : 0,
        SCALES = FLOATS ? 4 : CENTERED && !LONG ? 32 : 8;
};

/* Of one chunk, rows g and g + 8, quarter t. */
template <enum quant_type T> struct share {
    uint4 codes[2][tiles<T>::CODES / 64];
    uint2 high[2]; /* Q5_K: x alone */
    uint32_t scales[2][tiles<T>::SCALES / 4];
    uint32_t supers[2];
};

/* Where the chunk of a tile begins in each plane; a row's codes are `pitch` bytes apart. */
struct tile_at {
    const uint8_t *codes, *high, *scales, *supers;
    int64_t pitch;
};

template <enum quant_type T>
static __device__ __forceinline__ struct tile_at tile_at_of(const struct tile_at *planes,
                                                            int64_t tile, int chunk, int n_chunks)
{
    typedef tiles<T> F;
    int64_t at = (tile * n_chunks + chunk) * CUDA_TILE_ROWS;
    struct tile_at p;
    p.pitch = F::FLOATS ? (int64_t)n_chunks * CUDA_CHUNK : F::CODES;
    p.codes = planes->codes +
              (F::FLOATS ? tile * CUDA_TILE_ROWS * p.pitch + chunk * CUDA_CHUNK : at * F::CODES);
    p.high = planes->high + at * F::HIGH;
    p.scales = planes->scales + at * F::SCALES;
    p.supers = planes->supers +
               (F::SUPERS ? (tile * (n_chunks / 2) + chunk / 2) * CUDA_TILE_ROWS * 4 : 0);
    return p;
}

/* n chunks on, an even number of them. */
template <enum quant_type T>
static __device__ __forceinline__ void tile_at_step(struct tile_at *p, int n)
{
    typedef tiles<T> F;
    p->codes += n * (F::FLOATS ? (int)CUDA_CHUNK : CUDA_TILE_ROWS * F::CODES);
    p->high += n * CUDA_TILE_ROWS * F::HIGH;
    p->scales += n * CUDA_TILE_ROWS * F::SCALES;
    p->supers += n / 2 * CUDA_TILE_ROWS * 4;
}

template <bool SHARED, typename V> static __device__ __forceinline__ V load_weight(const V *at)
{
    return SHARED ? *at : __ldg(at); /* no kernel of a step writes weights */
}

/* SHARED: from shared memory, where rows of 128 bytes have their halves exchanged in odd rows, so
 * that eight lanes of two rows meet no bank twice. */
template <enum quant_type T, bool SHARED>
static __device__ __forceinline__ void load_share(const struct tile_at *p, int g, int t,
                                                  struct share<T> *s)
{
    typedef tiles<T> F;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = 8 * half + g, swap = SHARED && F::EIGHT ? 64 * (row % 2) : 0;
#pragma unroll
        for (int i = 0; i < F::CODES / 64; i++) {
            const uint8_t *at = p->codes + row * p->pitch + ((64 * i) ^ swap) + 16 * t;
            s->codes[half][i] = SHARED ? *(const uint4 *)at : load_once(at);
        }
        if (F::HIGH == 16)
            s->high[half].x = load_weight<SHARED>((const uint32_t *)(p->high + row * 16 + 4 * t));
        if (F::HIGH == 32)
            s->high[half] = load_weight<SHARED>((const uint2 *)(p->high + row * 32 + 8 * t));
        const uint8_t *scales = p->scales + row * F::SCALES;
        if (F::SCALES == 4)
            s->scales[half][0] = load_weight<SHARED>((const uint32_t *)scales);
#pragma unroll
        for (int i = 0; F::SCALES > 4 && i < F::SCALES / 8; i++) {
            uint2 two = load_weight<SHARED>((const uint2 *)(scales + 8 * i));
            s->scales[half][2 * i] = two.x;
            s->scales[half][2 * i + 1] = two.y;
        }
        if (F::SUPERS)
            s->supers[half] = load_weight<SHARED>((const uint32_t *)(p->supers + row * 4));
    }
}

/* ---- a chunk of a tile by way of shared memory: its planes one behind the other */

template <enum quant_type T> static __host__ __device__ constexpr int chunk_bytes()
{
    typedef tiles<T> F;
    return CUDA_TILE_ROWS * (F::CODES + F::HIGH + F::SCALES + (F::SUPERS ? 4 : 0));
}

/* By the lanes of a warp. */
template <int BYTES>
static __device__ __forceinline__ void copy_plane(char *to, const uint8_t *from, int lane)
{
    const int EACH = 16 * CUDA_WARP;
#pragma unroll
    for (int at = 0; at < BYTES; at += EACH)
        if (at + EACH <= BYTES || at + 16 * lane < BYTES)
            copy_async_16(to + at + 16 * lane, from + at + 16 * lane, true);
}

template <enum quant_type T>
static __device__ __forceinline__ void copy_chunk(const struct tile_at *at, char *to, int lane)
{
    typedef tiles<T> F;
    if (F::EIGHT) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = 4 * i + lane / 8, unit = lane % 8;
            copy_async_16(to + row * 128 + 16 * (unit ^ 4 * (row % 2)),
                          at->codes + row * at->pitch + 16 * unit, true);
        }
    } else {
        copy_plane<CUDA_TILE_ROWS * F::CODES>(to, at->codes, lane);
    }
    to += CUDA_TILE_ROWS * F::CODES;
    copy_plane<CUDA_TILE_ROWS * F::HIGH>(to, at->high, lane);
    to += CUDA_TILE_ROWS * F::HIGH;
    copy_plane<CUDA_TILE_ROWS * F::SCALES>(to, at->scales, lane);
    to += CUDA_TILE_ROWS * F::SCALES;
    if (F::SUPERS)
        copy_plane<CUDA_TILE_ROWS * 4>(to, at->supers, lane);
}

template <enum quant_type T>
static __device__ __forceinline__ void load_copied(const char *from, int g, int t,
                                                   struct share<T> *s)
{
    typedef tiles<T> F;
    struct tile_at planes;
    planes.pitch = F::CODES;
    planes.codes = (const uint8_t *)from;
    planes.high = planes.codes + CUDA_TILE_ROWS * F::CODES;
    planes.scales = planes.high + CUDA_TILE_ROWS * F::HIGH;
    planes.supers = planes.scales + CUDA_TILE_ROWS * F::SCALES;
    load_share<T, true>(&planes, g, t, s);
}

/* ---- codes as operands */

static __device__ __forceinline__ uint32_t word_of(uint4 v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

static __device__ __forceinline__ uint32_t twice(uint32_t half)
{
    return half << 16 | half;
}

/* Bit `from` becomes bit 4. */
static __device__ __forceinline__ uint32_t shifted_to_4(uint32_t x, int from)
{
    return from < 4 ? x << (4 - from) : x >> (from - 4);
}

/* Elements 2 i and 2 i + 1 of group k of 32, less the center, as a pair of bfloat16 or float16. */
template <enum quant_type T, bool BF16>
static __device__ __forceinline__ uint32_t pair_of(const struct share<T> *s, int half, int k, int i)
{
    typedef tiles<T> F;
    uint32_t center = F::CENTERED ? s->scales[half][F::LONG ? 1 : (2 * k + 1) % (F::SCALES / 4)]
                                  : 0;
    if (F::EIGHT) {
        uint32_t word = word_of(s->codes[half][k / 2 % (F::CODES / 64)], 2 * (k % 2) + i / 2);
        if (F::FLOATS) {
            uint32_t pair = __byte_perm(word, 0, i % 2 ? 0x3424 : 0x1404);
            return (pair & 0x80008000u) | (pair >> 1 & 0x3f803f80u);
        }
        uint32_t pair = __byte_perm(word ^ 0x80808080u, 0x64646464u, i % 2 ? 0x4342 : 0x4140);
        return subtract_f16(pair, F::CENTERED ? center : 0x64806480u);
    }
    const uint32_t one = BF16 ? 0x43004300u : 0x64006400u;
    uint32_t pair = and_or(word_of(s->codes[half][0], k) >> 4 * i, 0x000f000fu, one);
    if (T == QUANT_Q5_K)
        pair = and_or(shifted_to_4(s->high[half].x, 4 * k + i), 0x00100010u, pair);
    if (T == QUANT_Q6_K) {
        uint32_t word = k / 2 ? s->high[half].y : s->high[half].x;
        pair = and_or(shifted_to_4(word, 2 * (4 * (k % 2) + i)), 0x00300030u, pair);
    }
    const uint32_t less = one + twice(T == QUANT_Q4_0 ? 8 : T == QUANT_Q6_K ? 32 : 0);
    return BF16 ? subtract_bf16(pair, less) : subtract_f16(pair, F::CENTERED ? center : less);
}

/* The bits of the scales of group k of 32: a float16, a pair (scale, least) or two int8. */
template <enum quant_type T>
static __device__ __forceinline__ uint32_t scale_bits(const struct share<T> *s, int half, int k)
{
    uint32_t word = s->scales[half][k / 2 % (tiles<T>::SCALES / 4)];
    return word >> 16 * (k % 2) & 0xffffu;
}

/* d times byte i of word, exactly (d has at most 16 bits), without a conversion: the byte is the
 * end of the fraction of 2^23 + byte. blockIdx.z is 0; of two constants the compiler would move the
 * wrong one, the selector, to a register each time. */
static __device__ __forceinline__ float times_byte(float d, uint32_t word, int i)
{
    uint32_t one = 0x4b000000u + blockIdx.z;
    float sum = __uint_as_float(__byte_perm(word, one, 0x7440 + (unsigned)i));
    return fmaf(d, sum, -8388608.0f * d);
}

/* Scale of the columns of group k of 32, or of its first or second sixteen. */
template <enum quant_type T>
static __device__ __forceinline__ float scale_of(const struct share<T> *s, int half, int k,
                                                 int sixteenth)
{
    typedef tiles<T> F;
    if (F::FLOATS)
        return __uint_as_float(s->scales[half][0]) * 256;
    if (F::CENTERED)
        return __uint_as_float(s->scales[half][F::LONG ? 0 : 2 * k % (F::SCALES / 4)]);
    uint32_t two = scale_bits<T>(s, half, k);
    if (!F::SUPERS)
        return f16_float((uint16_t)two);
    float d = f16_float((uint16_t)s->supers[half]);
    if (F::SIXTEEN)
        return d * (float)(int8_t)(two >> 8 * sixteenth);
    return times_byte(d, s->scales[half][k / 2 % (F::SCALES / 4)], 2 * (k % 2));
}

template <enum quant_type T>
static __device__ __forceinline__ float least_of(const struct share<T> *s, int half, int k)
{
    return times_byte(f16_float((uint16_t)(s->supers[half] >> 16)),
                      s->scales[half][k / 2 % (tiles<T>::SCALES / 4)], 2 * (k % 2) + 1);
}

/* The columns of a lane's elements 0 and 4 of group k, in the chunk; the others follow them. */
template <enum quant_type T> static __device__ __forceinline__ int first_column(int k, int t)
{
    return tiles<T>::FLOATS    ? 64 * (k / 2) + 16 * t + 8 * (k % 2)
           : tiles<T>::SIXTEEN ? 32 * k + 4 * t
                               : 32 * k + 8 * t;
}
template <enum quant_type T> static __device__ __forceinline__ int second_column(int k, int t)
{
    return first_column<T>(k, t) + (tiles<T>::SIXTEEN ? 16 : 4);
}

/* Rows of inputs of a chunk in shared memory, 256 bytes each: which of its 16-byte units row's unit
 * i is, i ^ tile_swizzle(row), so that lanes that read together meet no bank twice. */
static __device__ __forceinline__ int tile_swizzle(int row)
{
    return (row & 1) * 5 | (row & 2);
}

/* The inputs of lane (g, t) in group k as fragments; x: where input g begins. */
template <enum quant_type T>
static __device__ __forceinline__ void tile_inputs(const char *x, int g, int t, int k,
                                                   uint32_t b[4])
{
    int swizzle = tile_swizzle(g);
    if (tiles<T>::SIXTEEN) {
        int unit = 4 * k + t / 2;
        uint2 low = *(const uint2 *)(x + 16 * (unit ^ swizzle) + 8 * (t % 2));
        uint2 high = *(const uint2 *)(x + 16 * ((unit + 2) ^ swizzle) + 8 * (t % 2));
        b[0] = low.x, b[1] = low.y, b[2] = high.x, b[3] = high.y;
        return;
    }
    uint4 v = *(const uint4 *)(x + 16 * ((first_column<T>(k, t) / 8) ^ swizzle));
    b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
}

#endif
