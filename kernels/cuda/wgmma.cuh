/* wgmma: Hopper's products of a warpgroup (four warps, the first a multiple of four) out of shared
 * memory, for compute capability 9.0a alone: elsewhere WGMMA_THERE is 0, nothing here may be
 * called, and the host launches no kernel that would (device.wgmma). Private to kernels/cuda. Under
 * CUDA_EMU tests/cuda_emu/wgmma_emu.cc computes the same on the host.
 *
 * Tiles lie in shared memory in panels of 64 values, 128 bytes, a row, one panel behind the other:
 * row r of a panel at r * 128 bytes, its piece c of 16 bytes at c ^ (r % 8). That is the 128-byte
 * swizzle of the PTX ISA 8.x, "Asynchronous warpgroup-level matrix: shared memory matrix layout":
 * bits 4 to 6 of an address turned by its bits 7 to 9, so a panel begins on 1,024 bytes and the
 * descriptors' base offset is 0. Of that section's canonical layouts, in pieces:
 *   K-major   ((8,m),(1,2)):((8,SBO),(1,1))       rows of queries and of keys: SBO, from 8 rows to
 *             the next 8, is 1,024; 16 values further along K are 32 bytes, the next panel is one
 *             panel's size further
 *   MN-major  ((1,8,m),(8,k)):((1,1,LBO),(8,SBO)) values, which are summed along their rows: LBO,
 *             from 64 columns to the next 64, is a panel; SBO, from 8 rows to the next 8, is 1,024;
 *             16 rows further are 2,048 bytes
 * CUTLASS (make_gmma_desc) and ThunderKittens (their descriptors of 128-byte tiles) hold the same.
 *
 * A product runs behind its threads' backs. Before the first one after registers of a product were
 * touched: wgmma_fence. From then until wgmma_wait has returned for its group, its sums and its
 * registers of A are nobody's, and its shared memory must stay. Products read through the async
 * proxy: who wrote shared memory, by cp.async (once waited for) too, calls async_proxy_fence before
 * the barrier that the readers meet at (PTX ISA, "Async proxy"). */
#ifndef SIROCCO_KERNELS_CUDA_WGMMA_CUH
#define SIROCCO_KERNELS_CUDA_WGMMA_CUH

#include "kernels/cuda/ptx.cuh"

enum {
    WGMMA_THREADS = 128, /* of a warpgroup */
    WGMMA_ROWS = 64,     /* of A and of the sums: warp w's are 16 w .. + 15, as mma.m16n8k16's */
    WGMMA_K = 16,
    WGMMA_PANEL = 64,    /* values of a panel's row */
    WGMMA_ALIGN = 1024,  /* bytes */
};

/* Where piece c, of 8 values, of row r begins in a tile of so many rows, in values. */
template <int ROWS> static __device__ __forceinline__ int wgmma_place(int r, int c)
{
    return c / 8 * ROWS * WGMMA_PANEL + r * WGMMA_PANEL + ((c ^ r) & 7) * 8;
}

#ifdef CUDA_EMU
#define WGMMA_THERE 1
static inline uint32_t shared_address(const void *at) { return emu_shared_address(at); }
static inline void store_shared_16(void *at, uint4 v) { *(uint4 *)at = v; }
static inline void async_proxy_fence() { emu_proxy_fence(); }
static inline void wgmma_fence() { emu_wgmma_fence(); }
static inline void wgmma_commit() { emu_wgmma_commit(); }
template <int LEFT> static inline void wgmma_wait() { emu_wgmma_wait(LEFT); }
template <int N> static inline void wgmma_hold(float[N][4]) {}
template <int N> static inline void wgmma_hold(uint32_t[N][4]) {}
static inline void wgmma_behind(float) {}
template <typename T> static inline void wgmma_own(T &) {}
template <bool BF16, bool ADD>
static inline void wgmma_keys(float d[16][4], uint64_t a, uint64_t b)
{
    emu_wgmma({&d[0][0], 128, NULL, a, b, ADD, false, BF16});
}
template <bool BF16, int N>
static inline void wgmma_values(float d[N / 8][4], const uint32_t a[4], uint64_t b)
{
    emu_wgmma({&d[0][0], N, a, 0, b, true, true, BF16});
}

#else
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA_THERE 1
#else
#define WGMMA_THERE 0
#endif

static __device__ __forceinline__ uint32_t shared_address(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* Of a plain store of four words the compiler may make four stores. */
static __device__ __forceinline__ void store_shared_16(void *at, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"r"(shared_address(at)), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

#if WGMMA_THERE
static __device__ __forceinline__ void async_proxy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
static __device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
/* Wait until at most LEFT of the committed groups are under way. */
template <int LEFT> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}
/* Behind a wait for sums, and before a fence for what was written to registers: the compiler moves
 * nothing done with them across here. No instruction. */
template <int N> static __device__ __forceinline__ void wgmma_hold(float d[N][4])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
template <int N> static __device__ __forceinline__ void wgmma_hold(uint32_t a[N][4])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
}

/* What follows comes behind x, a sum that is not negative, and what x is made of: else ptxas moves
 * a wait for products up, before work that was to be done meanwhile. A branch, never taken. */
static __device__ __forceinline__ void wgmma_behind(float x)
{
    if (x < 0)
        asm volatile("nanosleep.u32 0;\n");
}
/* The compiler makes this value here, and nothing later of what it was made from. */
template <typename T> static __device__ __forceinline__ void wgmma_own(T *&x)
{
    asm volatile("" : "+l"(x));
}
static __device__ __forceinline__ void wgmma_own(int &x)
{
    asm volatile("" : "+r"(x));
}

#define WGMMA_4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define WGMMA_16(d, i) WGMMA_4(d, i), WGMMA_4(d, i + 1), WGMMA_4(d, i + 2), WGMMA_4(d, i + 3)
#define WGMMA_32(d, i) WGMMA_16(d, i), WGMMA_16(d, i + 4)
#define WGMMA_0_31                                                                                 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                       \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_32_63                                                                                \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                             \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

#define WGMMA_KEYS(type)                                                                           \
    asm volatile("{\n"                                                                             \
                 " .reg .pred p;\n"                                                                \
                 " setp.ne.b32 p, %66, 0;\n"                                                       \
                 " wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                     \
                 " {" WGMMA_0_31 "," WGMMA_32_63 "}, %64, %65, p, 1, 1, 0, 0;\n"                   \
                 "}\n"                                                                             \
                 : WGMMA_32(d, 0), WGMMA_32(d, 8)                                                  \
                 : "l"(a), "l"(b), "n"((int)ADD))
#define WGMMA_VALUES_128(type)                                                                     \
    asm volatile("{\n"                                                                             \
                 " .reg .pred p;\n"                                                                \
                 " setp.eq.b32 p, 0, 0;\n"                                                         \
                 " wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                     \
                 " {" WGMMA_0_31 "," WGMMA_32_63 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n"        \
                 "}\n"                                                                             \
                 : WGMMA_32(d, 0), WGMMA_32(d, 8)                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define WGMMA_VALUES_64(type)                                                                      \
    asm volatile("{\n"                                                                             \
                 " .reg .pred p;\n"                                                                \
                 " setp.eq.b32 p, 0, 0;\n"                                                         \
                 " wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                      \
                 " {" WGMMA_0_31 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n"                        \
                 "}\n"                                                                             \
                 : WGMMA_32(d, 0)                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/* d (+)= a b^T, 64 x 16 times 128 x 16, both in shared memory and K-major: queries times keys. */
template <bool BF16, bool ADD>
static __device__ __forceinline__ void wgmma_keys(float d[16][4], uint64_t a, uint64_t b)
{
    if (BF16)
        WGMMA_KEYS("bf16");
    else
        WGMMA_KEYS("f16");
}

/* d += a b, 64 x 16 in registers (mma.m16n8k16's fragments) times 16 x N in shared memory and
 * MN-major: weights times values. */
template <bool BF16, int N>
static __device__ __forceinline__ void wgmma_values(float d[N / 8][4], const uint32_t a[4],
                                                    uint64_t b)
{
    static_assert(N == 64 || N == 128, "columns of values");
    if constexpr (N == 128) {
        if (BF16)
            WGMMA_VALUES_128("bf16");
        else
            WGMMA_VALUES_128("f16");
    } else {
        if (BF16)
            WGMMA_VALUES_64("bf16");
        else
            WGMMA_VALUES_64("f16");
    }
}
#endif
#endif

/* The descriptor of a tile at `at`; panel: bytes from one to the next, for MN-major ones. Steps
 * along the tile, below its end, are added to it: bytes / 16. */
static __device__ __forceinline__ uint64_t wgmma_tile(const void *at, int panel)
{
    enum { SWIZZLE_128 = 1, EIGHT_ROWS = 1024 };
    return (uint64_t)SWIZZLE_128 << 62 | (uint64_t)(EIGHT_ROWS >> 4) << 32 |
           (uint64_t)(panel >> 4) << 16 | (shared_address(at) & 0x3ffff) >> 4;
}

#endif
