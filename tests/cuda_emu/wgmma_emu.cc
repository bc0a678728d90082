/* wgmma_emu: the products of Hopper's warpgroups out of shared memory: the twins of wgmma.cuh. One
 * thread.
 *
 * What a product reads is found through its descriptors, after the PTX ISA 8.x ("Asynchronous
 * warpgroup-level matrix instructions": matrix descriptor, canonical layouts, register fragments),
 * and its sums are rounded as mma's are here. A warp computes its own 16 rows.
 *
 * A product may run at any time from its issue to the wait that covers it. In two launches of four
 * it runs as early as that, in two as late: then its sums hold poison in between, what they were
 * before is what it adds to, and registers and shared memory are read at the wait. What is written
 * to shared memory is poison to it until its writer has called fence.proxy.async and met the reader
 * at a barrier after that; ordinary stores are known in the watched plugin alone (sanitize.cc). */
#include "tests/cuda_emu/wgmma_emu.h"
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/cuda_emu/sanitize.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <vector>

namespace
{

const int LANES = 32, THREADS_MAX = 1024, SHARED_MAX = 228 << 10, K = 16, GROUP_WARPS = 4;
/* where shared memory begins: not on 1,024 bytes, which nobody promises */
const uint32_t WINDOW = 0x480;

struct product {
    emu_product given;
    int group; /* of commits */
};

struct thread {
    std::vector<product> pending;
    std::map<float *, std::vector<float>> sums; /* of those that are pending */
    int groups, waits;
    bool fenced; /* registers may be given to a product */
    uint32_t fence, fence_epoch; /* the last fence.proxy.async */
    uint32_t fence_before;       /* the last of an earlier epoch */
};

struct shape { /* what the warps of a warpgroup must agree on */
    int n;
    uint64_t a_tile, b_tile;
    bool shared_a, add, transposed, bf16;
};

thread threads[THREADS_MAX];
std::vector<shape> issued[THREADS_MAX / LANES / GROUP_WARPS]; /* by warpgroup */
size_t n_issued[THREADS_MAX / LANES];                         /* by warp */
int n_waits[THREADS_MAX / LANES];
unsigned char *shared;
size_t shared_bytes;
int n_threads;
bool late;
int64_t n_products;
uint32_t epoch, ticks;
uint16_t writers[SHARED_MAX]; /* 1 + the thread that wrote a byte last; 0: nobody */
uint32_t written_at[SHARED_MAX];

int me()
{
    return (int)emu_now.thread.x;
}

[[noreturn]] void die(const char *what)
{
    fprintf(stderr, "cuda_emu: %s (block %u,%u,%u thread %d)\n", what, emu_now.block.x,
            emu_now.block.y, emu_now.block.z, me());
    abort();
}

bool is_proxied(size_t i)
{
    int by = writers[i] - 1;
    if (by < 0)
        return true;
    const thread &t = threads[by];
    bool own = by == me() || t.fence_epoch < epoch;
    return (own ? t.fence : t.fence_before) > written_at[i];
}

/* Eight values at a shared address before it is swizzled; poison where the async proxy does not see
 * what was written. */
void read_piece(uint32_t at, bool bf16, float out[8])
{
    at ^= (at >> 7 & 7) << 4;
    size_t i = at - WINDOW;
    if (at < WINDOW || i + 16 > shared_bytes)
        die("wgmma reads beyond the launch's shared memory");
    san_warp_reads(shared + i, 16, __builtin_return_address(0));
    bool seen = true;
    for (size_t j = i; j < i + 16; j++)
        seen &= is_proxied(j);
    if (!seen)
        san_complain("wgmma reads what was written without fence.proxy.async before the barrier",
                     __builtin_return_address(0));
    for (int j = 0; j < 8; j++) {
        uint16_t h;
        memcpy(&h, shared + i + 2 * j, sizeof h);
        out[j] = !seen ? NAN : bf16 ? __uint_as_float((unsigned)h << 16) : quant_f16_to_f32(h);
    }
}

/* K x n values of a tile: out[k * n + i] is k's of row i (K-major), or of column i (MN-major). */
void read_tile(uint64_t tile, int first, int n, bool mn_major, bool bf16, float *out)
{
    uint32_t start = (uint32_t)(tile & 0x3fff) << 4, lead = (uint32_t)(tile >> 16 & 0x3fff) << 4;
    uint32_t stride = (uint32_t)(tile >> 32 & 0x3fff) << 4;
    float piece[8];
    if (tile >> 62 != 1 || tile >> 49 & 7)
        die("wgmma: only 128-byte swizzle without a base offset is known here");
    if (start & 0x380)
        die("wgmma: a tile does not begin on 1,024 bytes");
    for (int i = first; !mn_major && i < first + n; i++)
        for (int k = 0; k < K; k += 8) {
            read_piece(start + (uint32_t)(i % 8 * 128 + i / 8 * (int)stride + 2 * k), bf16, piece);
            for (int j = 0; j < 8; j++)
                out[(k + j) * n + i - first] = piece[j];
        }
    for (int k = 0; mn_major && k < K; k++)
        for (int i = 0; i < n; i += 8)
            read_piece(start + (uint32_t)(k % 8 * 128 + k / 8 * (int)stride + i % 64 * 2 +
                                          i / 64 * (int)lead),
                       bf16, out + k * n + i);
}

/* The left factor's 16 rows of the warp, [K][16]. */
void read_left(const emu_product &p, const uint32_t *const registers[LANES], float out[K * 16])
{
    int warp = me() / LANES;
    if (!p.a) {
        read_tile(p.a_tile, warp % GROUP_WARPS * 16, 16, false, p.bf16, out);
        return;
    }
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < K; k++) { /* as emu_mma's */
            uint32_t both = registers[r % 8 * 4 + k % 8 / 2][r / 8 + 2 * (k / 8)];
            uint16_t h = (uint16_t)(both >> 16 * (k % 2));
            out[k * 16 + r] = p.bf16 ? __uint_as_float((unsigned)h << 16) : quant_f16_to_f32(h);
        }
}

/* One product of the running thread's warp, whose lanes gave these. */
void multiply(const emu_product given[LANES], float *const sums[LANES])
{
    static float a[K * 16], b[K * 256];
    const emu_product &p = given[0];
    n_products++;
    const uint32_t *registers[LANES];
    for (int i = 0; i < LANES; i++)
        registers[i] = given[i].a;
    read_left(p, registers, a);
    read_tile(p.b_tile, 0, p.n, p.transposed, p.bf16, b);
    for (int r = 0; r < 16; r++) {
        double sum[256];
        for (int c = 0; c < p.n; c++) /* lane 4 g + t: rows g and g + 8, columns 2 t and 2 t + 1 */
            sum[c] = p.add ? sums[r % 8 * 4 + c % 8 / 2][c / 8 * 4 + r / 8 * 2 + c % 2] : 0;
        for (int k = 0; k < K; k++)
            for (int c = 0; c < p.n; c++)
                sum[c] += (double)a[k * 16 + r] * (double)b[k * p.n + c];
        if (emu_gpu() == EMU_GPU_WRONG)
            sum[0] += 1;
        for (int c = 0; c < p.n; c++)
            sums[r % 8 * 4 + c % 8 / 2][c / 8 * 4 + r / 8 * 2 + c % 2] = (float)sum[c];
    }
}

/* Product i of each lane of the warp that the running thread is of. */
void multiply_pending(size_t i)
{
    emu_product given[LANES];
    float *sums[LANES];
    thread *lanes = &threads[me() / LANES * LANES];
    for (int j = 0; j < LANES; j++) {
        given[j] = lanes[j].pending[i].given;
        sums[j] = late ? lanes[j].sums[given[j].d].data() : given[j].d;
    }
    multiply(given, sums);
}

/* All lanes of the warp meet; no memory is ordered. */
void meet()
{
    int any = 0;
    emu_exchange(&any, sizeof any);
}

/* Do the warps of a warpgroup issue the same? */
void agree(const emu_product &p)
{
    int warp = me() / LANES;
    std::vector<shape> &all = issued[warp / GROUP_WARPS];
    if (n_threads % (GROUP_WARPS * LANES))
        die("wgmma in a block of no whole warpgroups");
    if (me() % LANES)
        return;
    if (n_issued[warp] == all.size())
        all.push_back({p.n, p.a_tile, p.b_tile, !p.a, p.add, p.transposed, p.bf16});
    const shape &s = all[n_issued[warp]++];
    if (s.n != p.n || s.a_tile != p.a_tile || s.b_tile != p.b_tile || s.shared_a != !p.a ||
        s.add != p.add || s.transposed != p.transposed || s.bf16 != p.bf16)
        die("the warps of a warpgroup issue different wgmmas");
}

/* Products of groups that a wait covers, by the first of the warp's lanes that comes. */
void finish(int groups_left)
{
    thread *lanes = &threads[me() / LANES * LANES];
    size_t n = 0;
    while (n < lanes[0].pending.size() &&
           lanes[0].pending[n].group < threads[me()].groups - groups_left)
        multiply_pending(n++);
    for (int i = 0; i < LANES; i++) {
        std::vector<product> &all = lanes[i].pending;
        std::vector<float *> ready;
        for (size_t j = 0; j < n; j++)
            ready.push_back(all[j].given.d);
        all.erase(all.begin(), all.begin() + (long)n);
        for (float *d : ready) {
            bool more = false;
            for (const product &p : all)
                more |= p.given.d == d;
            auto sum = lanes[i].sums.find(d);
            if (more || sum == lanes[i].sums.end())
                continue;
            memcpy(d, sum->second.data(), sum->second.size() * sizeof *d);
            lanes[i].sums.erase(sum);
        }
    }
}

} // namespace

void wgmma_launch(int number)
{
    late = number / 2 % 2;
}

void wgmma_block(unsigned char *at, size_t bytes, int n)
{
    shared = at;
    shared_bytes = bytes;
    n_threads = n;
    epoch++;
    memset(writers, 0, bytes * sizeof *writers);
    for (int i = 0; i < n; i++) {
        threads[i].pending.clear();
        threads[i].sums.clear();
        threads[i].groups = threads[i].waits = 0;
        threads[i].fenced = false;
        threads[i].fence = threads[i].fence_before = threads[i].fence_epoch = 0;
    }
    for (int i = 0; i < n; i += LANES) {
        issued[i / LANES / GROUP_WARPS].clear();
        n_issued[i / LANES] = 0;
        n_waits[i / LANES] = 0;
    }
}

void wgmma_block_arrived()
{
    epoch++;
}

void wgmma_thread_end()
{
    int warp = me() / LANES;
    if (!threads[me()].pending.empty())
        die("a thread ends before its wgmma was waited for");
    if (n_issued[warp] != issued[warp / GROUP_WARPS].size())
        die("the warps of a warpgroup issue different wgmmas");
}

void wgmma_written(const void *at, size_t bytes)
{
    size_t i = (size_t)((const unsigned char *)at - shared);
    if ((const unsigned char *)at < shared)
        return;
    for (size_t j = i; j < i + bytes && j < shared_bytes; j++) {
        writers[j] = (uint16_t)(1 + me());
        written_at[j] = ticks;
    }
}

/* ---- from kernels */

uint32_t emu_shared_address(const void *at)
{
    return WINDOW + (uint32_t)((const unsigned char *)at - (const unsigned char *)emu_shared());
}

void emu_proxy_fence()
{
    thread &t = threads[me()];
    if (t.fence_epoch < epoch)
        t.fence_before = t.fence;
    t.fence = ++ticks;
    t.fence_epoch = epoch;
}

extern "C" int64_t emu_wgmmas(void)
{
    return n_products;
}

void emu_wgmma_fence()
{
    threads[me()].fenced = true;
}

void emu_wgmma_commit()
{
    threads[me()].groups++;
}

void emu_wgmma(const emu_product &p)
{
    thread &t = threads[me()];
    size_t n = (size_t)p.n / 2;
    if (!t.fenced)
        die("wgmma without wgmma.fence after its registers were touched");
    agree(p);
    if (late && !t.sums.count(p.d)) {
        t.sums[p.d].assign(p.d, p.d + n);
        for (size_t i = 0; i < n; i++)
            p.d[i] = NAN;
    }
    t.pending.push_back({p, t.groups});
    int before = ++t.waits;
    meet();
    if (n_waits[me() / LANES] == before)
        return;
    n_waits[me() / LANES] = before;
    if (!late) {
        multiply_pending(t.pending.size() - 1);
        return;
    }
#ifdef CUDA_EMU_SAN /* what it reads must be there from now on */
    static float any[K * 256];
    if (!p.a)
        read_tile(p.a_tile, me() / LANES % GROUP_WARPS * 16, 16, false, p.bf16, any);
    read_tile(p.b_tile, 0, p.n, p.transposed, p.bf16, any);
#endif
}

void emu_wgmma_wait(int groups_left)
{
    thread &t = threads[me()];
    int before = ++t.waits;
    t.fenced = false;
    meet();
    if (n_waits[me() / LANES] == before)
        return;
    n_waits[me() / LANES] = before;
    if (late) {
        finish(groups_left);
        return;
    }
    for (int i = 0; i < LANES; i++) { /* done at their issue */
        std::vector<product> &all = threads[me() / LANES * LANES + i].pending;
        while (!all.empty() && all[0].group < t.groups - groups_left)
            all.erase(all.begin());
    }
}
