/* ptx: the few instructions that CUDA C++ has no name for, for compute capability 8.0 and later; on
 * 7.5 they trap, and the host never launches what uses them (device.tensor). PTX ISA 8.x, sections
 * "mma", "ldmatrix", "cp.async". Under CUDA_EMU tests/cuda_emu computes the same on the host. */
#ifndef SIROCCO_KERNELS_CUDA_PTX_CUH
#define SIROCCO_KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/cuda.cuh"

#ifdef CUDA_EMU
template <bool BF16>
static inline void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    emu_mma(d, a, b, BF16);
}
static inline void ldmatrix_4(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, false); }
static inline void ldmatrix_4_transposed(uint32_t r[4], const void *row)
{
    emu_ldmatrix(r, row, true);
}
static inline void copy_async_16(void *to_shared, const void *from, bool valid)
{
    emu_copy_async(to_shared, from, valid ? 16 : 0);
}
static inline void copy_async_commit() { emu_copy_commit(); }
template <int LEFT> static inline void copy_async_wait() { emu_copy_wait(LEFT); }
static inline void grid_wait() { emu_grid_wait(); }
static inline void grid_trigger() { emu_grid_trigger(); }
static inline uint4 load_once(const void *at) { return *(const uint4 *)at; }
static inline uint4 load_once_if(const void *at, bool valid)
{
    return valid ? *(const uint4 *)at : make_uint4(0, 0, 0, 0);
}
static inline uint4 load_if(const void *at, bool valid)
{
    return valid ? *(const uint4 *)at : make_uint4(0, 0, 0, 0);
}
static inline uint2 load_if_8(const void *at, bool valid)
{
    return valid ? *(const uint2 *)at : uint2{0, 0};
}
static inline float exp2_fast(float x) { return exp2f(x); }
static inline float inverse_fast(float x) { return 1 / x; }
static inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    return (x & mask) | bits;
}
static inline void four_fp8_f16(uint32_t bytes, uint32_t out[2])
{
    for (int i = 0; i < 2; i++)
        out[i] = pack_f16(quant_fp8_to_f32((uint8_t)(bytes >> 16 * i)),
                          quant_fp8_to_f32((uint8_t)(bytes >> (16 * i + 8))));
}
static inline uint32_t four_f32_fp8(float a, float b, float c, float d)
{
    return (uint32_t)float_fp8(a) | (uint32_t)float_fp8(b) << 8 | (uint32_t)float_fp8(c) << 16 |
           (uint32_t)float_fp8(d) << 24;
}
static inline void four_int8_f16(uint32_t bytes, uint16_t scale, uint32_t out[2])
{
    float d = f16_float(scale);
    for (int i = 0; i < 2; i++)
        out[i] = pack_f16(d * (float)(int8_t)(bytes >> 16 * i),
                          d * (float)(int8_t)(bytes >> (16 * i + 8)));
}

#else

/* d += a b: a is 16 x 16 (row-major fragments), b 16 x 8 (column-major), sums in float32 */
template <bool BF16>
static __device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4],
                                                 const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

/* Four 8 x 8 matrices of 16-bit values: lane 8 i + j gives the address of row j of matrix i. */
static __device__ __forceinline__ void ldmatrix_4(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix_4_transposed(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes to shared memory, behind the thread's back; zeros when not valid (from is not read). */
static __device__ __forceinline__ void copy_async_16(void *to_shared, const void *from, bool valid)
{
#if __CUDA_ARCH__ >= 800
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to_shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
#else
    __trap();
#endif
}
static __device__ __forceinline__ void copy_async_commit()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
/* Wait until at most LEFT of the thread's groups are under way. */
template <int LEFT> static __device__ __forceinline__ void copy_async_wait()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
#endif
}

/* A kernel launched by CUDA_LAUNCH_EARLY may start while the kernel before it runs. Until grid_wait
 * it must touch nothing but its own shared memory and what no kernel writes: weights, and arrays
 * that a step's copies brought. Every thread calls grid_wait before it ends: its return means that
 * the kernel before has ended, which, as that one waited likewise, means all before. grid_trigger
 * lets such a follower start once all blocks have called it or ended. It comes behind the kernel's
 * own grid_wait: a follower starts when all but the one before it have ended, and finds nothing of
 * theirs in a cache from before they wrote it. CUDA programming guide, "Programmatic Dependent
 * Launch"; before capability 9.0 these are plain launches. */
static __device__ __forceinline__ void grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
static __device__ __forceinline__ void grid_trigger()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
template <typename... P, typename... A>
static inline void cuda_launch_early(struct device *d, void (*kernel)(P...), dim3 grid, dim3 block,
                                     size_t shared, A... given)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t config = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = d->stream;
    config.attrs = &early;
    config.numAttrs = d->capability >= 90 ? 1 : 0;
    cuda_check(d, cudaLaunchKernelEx(&config, kernel, given...), "a launch");
}
#define CUDA_LAUNCH_EARLY(kernel, grid, block, shared, d, ...)                                     \
    cuda_launch_early(d, kernel, grid, block, shared, __VA_ARGS__)

/* 16 bytes that are read once per launch: they need not stay in the first-level cache. */
static __device__ __forceinline__ uint4 load_once(const void *at)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

/* The same, zeros when not valid (at is not read); no branch, so that loads follow each other. */
static __device__ __forceinline__ uint4 load_once_if(const void *at, bool valid)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    asm volatile("{\n"
                 " .reg .pred p;\n"
                 " setp.ne.u32 p, %5, 0;\n"
                 " @p ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 "}\n"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(at), "r"((uint32_t)valid));
    return v;
}

/* 16 bytes of memory that this kernel does not write, zeros when not valid (at is not read); no
 * branch, so that loads follow each other unwaited. */
static __device__ __forceinline__ uint4 load_if(const void *at, bool valid)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    asm("{\n"
        " .reg .pred p;\n"
        " setp.ne.u32 p, %5, 0;\n"
        " @p ld.global.v4.u32 {%0,%1,%2,%3}, [%4];\n"
        "}\n"
        : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
        : "l"(at), "r"((uint32_t)valid));
    return v;
}
static __device__ __forceinline__ uint2 load_if_8(const void *at, bool valid)
{
    uint2 v = make_uint2(0, 0);
    asm("{\n"
        " .reg .pred p;\n"
        " setp.ne.u32 p, %3, 0;\n"
        " @p ld.global.v2.u32 {%0,%1}, [%2];\n"
        "}\n"
        : "+r"(v.x), "+r"(v.y)
        : "l"(at), "r"((uint32_t)valid));
    return v;
}

/* (x & mask) | bits; of two constants the compiler makes two instructions */
static __device__ __forceinline__ uint32_t and_or(uint32_t x, uint32_t mask, uint32_t bits)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
    return y;
}

/* 2^x, off by up to two units in the last place; below 2^-126 it is 0, NaN stays NaN */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x, off by one unit in the last place; 0 of an infinity and where it would be below 2^-126 */
static __device__ __forceinline__ float inverse_fast(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* Four E4M3 values as two pairs of float16, the first in the low half; a NaN stays one. */
static __device__ __forceinline__ void four_fp8_f16(uint32_t bytes, uint32_t out[2])
{
#if __CUDA_ARCH__ >= 890
    asm("{\n"
        " .reg .b16 low, high;\n"
        " mov.b32 {low, high}, %2;\n"
        " cvt.rn.f16x2.e4m3x2 %0, low;\n"
        " cvt.rn.f16x2.e4m3x2 %1, high;\n"
        "}\n"
        : "=r"(out[0]), "=r"(out[1])
        : "r"(bytes));
#else
    __half2 by = __half2half2(__ushort_as_half(0x5c00)); /* 2^8, the difference of the biases */
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t x = __byte_perm(bytes, 0, i ? 0x3424 : 0x1404); /* each byte in a high one */
        uint32_t h = (x & 0x80008000u) | (x & 0x7f007f00u) >> 1;
        h |= ((h & 0x3f803f80u) + 0x00800080u) & 0x40004000u; /* all ones: float16's exponent too */
        __half2 both;
        memcpy(&both, &h, sizeof h);
        both = __hmul2(both, by);
        memcpy(&out[i], &both, sizeof h);
    }
#endif
}

/* Four values as E4M3, a in the lowest byte: to nearest even, beyond 448 is 448, NaN is a NaN. */
static __device__ __forceinline__ uint32_t four_f32_fp8(float a, float b, float c, float d)
{
#if __CUDA_ARCH__ >= 890
    uint32_t bytes;
    asm("{\n"
        " .reg .b16 low, high;\n"
        " cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        " cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        " mov.b32 %0, {low, high};\n"
        "}\n"
        : "=r"(bytes)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return bytes;
#else
    return (uint32_t)float_fp8(a) | (uint32_t)float_fp8(b) << 8 | (uint32_t)float_fp8(c) << 16 |
           (uint32_t)float_fp8(d) << 24;
#endif
}

/* Four int8 values times a float16 scale as two pairs of float16. With the sign bit turned a byte
 * is the fraction of 1024 + 128 + its value. */
static __device__ __forceinline__ void four_int8_f16(uint32_t bytes, uint16_t scale,
                                                     uint32_t out[2])
{
    __half2 d = __half2half2(__ushort_as_half(scale));
    __half2 off = __half2half2(__ushort_as_half(0x6480)); /* 1152 */
    bytes ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t h = __byte_perm(bytes, 0x64646464u, i ? 0x4342 : 0x4140);
        __half2 both;
        memcpy(&both, &h, sizeof h);
        both = __hmul2(__hsub2(both, off), d);
        memcpy(&out[i], &both, sizeof h);
    }
}
#endif

#endif
