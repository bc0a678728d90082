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
static inline uint4 load_once(const void *at) { return *(const uint4 *)at; }
static inline uint4 load_if(const void *at, bool valid)
{
    return valid ? *(const uint4 *)at : make_uint4(0, 0, 0, 0);
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

/* 16 bytes that are read once per launch: they need not stay in the first-level cache. */
static __device__ __forceinline__ uint4 load_once(const void *at)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
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
#endif

#endif
