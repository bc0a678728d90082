/* sanitize: memcheck, initcheck and racecheck of emulated kernels, as compute-sanitizer names them.
 *
 * kernels/cuda is compiled with -fsanitize=thread, but for the compiler's calls at loads and stores
 * alone: here they are implemented by CUDA's rules in place of ThreadSanitizer's. Each byte of
 * device and of shared memory has a state (not there, never written, written) and a cell: who wrote
 * it last and who read it since. One host thread, so nothing here is atomic.
 *
 * Time. `epoch` counts barriers of blocks over the whole run, so that a block is a range of epochs
 * and a launch too; a warp's `stamp` counts its __syncwarps since the block's last barrier. What
 * happened in an earlier epoch of the same block comes before; in the same epoch, what the same
 * thread did or, with an earlier stamp, the same warp. All else of the launch is unordered: shuffles,
 * votes and mma exchange registers and order no memory. Barriers are of whole blocks and whole
 * warps, so the last write and one summary of the reads since tell all that a vector clock would.
 *
 * Blocks of a launch are unordered but for the pattern of the programming guide's
 * threadFenceReduction: writes, __threadfence and an atomic in one block; an atomic of the same
 * counter and __threadfence in a later one. An atomic releases the epochs before the first write
 * that is not yet fenced; it acquires what the atomics before it on its address released.
 *
 * wgmma reads shared memory from its issue to its wait; whether the async proxy sees what it reads
 * is wgmma_emu.cc's, which is told of every store.
 *
 * A kernel launched early (CUDA_LAUNCH_EARLY) may overlap with the kernels before it, back to the
 * last plain launch or copy: until grid_wait it must read nothing that they wrote, and write nothing. */
#ifdef CUDA_EMU_SAN
#include "tests/cuda_emu/sanitize.h"
#include "tests/cuda_emu/wgmma_emu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <set>
#include <vector>

namespace {

const int WARP = 32, THREADS_MAX = 1024;
const size_t SHARED_MAX = 228 << 10;

/* `who` of a cell: a thread's number and what else is known of it */
enum {
    THREAD = 0x3ff,
    MANY = 0x400,    /* several lanes of its warp */
    WARPS = 0x800,   /* several warps */
    BLOCKS = 0x1000, /* several blocks of the launch */
    ATOMIC = 0x2000,
    PENDING = 0x4000 /* a cp.async on its way */
};
enum state : uint8_t { AWAY, GUARD, UNWRITTEN, WRITTEN }; /* GUARD: for the host alone */
enum access { READ, WARP_READ, VOLATILE_READ, WRITE, VOLATILE_WRITE, ATOMIC_ADD, COPY };

bool is_read(access kind) { return kind <= VOLATILE_READ; }

/* Atomic as far as races go; it orders nothing. PTX counts volatile as relaxed. */
bool is_atomic(access kind)
{
    return kind == VOLATILE_READ || kind == VOLATILE_WRITE || kind == ATOMIC_ADD;
}

struct cell { /* epoch 0: never */
    uint32_t w_epoch;
    uint16_t w_who, w_stamp;
    uint32_t r_epoch;
    uint16_t r_who, r_stamp;
};

struct memory {
    char *at;
    size_t bytes;
    uint8_t *states;
    cell *cells;
    bool shared;
};
std::vector<memory> regions;
memory shared;
std::map<const char *, size_t> spans;
std::vector<std::pair<char *, char *>> scratch;

struct release {
    uint32_t first, end; /* epochs of a block */
};

/* The launch, the block, the thread that run. */
const char *kernel = "";
bool running, early, measures; /* measures: how fast memory is read, whatever it holds */
uint32_t epoch = 1, launch_first, block_first, window_first, drained;
uint16_t stamps[THREADS_MAX / WARP];
int n_threads;
const char *stack, *stack_end;
const char *arguments, *arguments_end;

/* By thread of the block. */
bool begun[THREADS_MAX];     /* in the kernel, no longer in what calls it */
bool waited[THREADS_MAX];    /* grid_wait returned */
bool acquired[THREADS_MAX];  /* fenced after the block's atomic */
uint32_t unfenced[THREADS_MAX], fenced[THREADS_MAX]; /* epoch of the first write, of the last fence */

std::map<const char *, std::vector<release>> releases; /* of the launch, by address of atomics */
std::vector<release> *given;                          /* what the block's atomic found there */
size_t n_given;
const char *given_at;
uint32_t given_epoch;
int given_thread;

std::set<std::pair<const void *, const char *>> shown;
bool found, found_ever;

int me() { return (int)emu_now.thread.x; }

void print_place(const void *pc)
{
    Dl_info info;
    char command[1200], line[300];
    if (!pc || !dladdr(pc, &info) || !info.dli_fname)
        return;
    snprintf(command, sizeof command, "addr2line -Cfisp -e '%s' %#zx 2>/dev/null", info.dli_fname,
             (size_t)((const char *)pc - (const char *)info.dli_fbase) - 1);
    FILE *names = popen(command, "r");
    while (names && fgets(line, sizeof line, names))
        fprintf(stderr, "    at %.280s%s", line, strchr(line, '\n') ? "" : "\n");
    if (names)
        pclose(names);
}

void print_where(const char *at)
{
    if (shared.at && at >= shared.at && at < shared.at + SHARED_MAX) {
        fprintf(stderr, "    shared memory, byte %td of %zu\n", at - shared.at, shared.bytes);
        return;
    }
    auto next = spans.upper_bound(at);
    if (next == spans.begin())
        return;
    --next;
    fprintf(stderr, "    byte %td of a span of %zu bytes\n", at - next->first, next->second);
}

void complain(const char *what, const void *at, const void *pc, int other)
{
    found = found_ever = true;
    if (!shown.insert({pc, what}).second)
        return;
    fprintf(stderr, "cuda_emu: %s: %s (block %u,%u,%u thread %d", kernel, what, emu_now.block.x,
            emu_now.block.y, emu_now.block.z, me());
    if (other >= 0)
        fprintf(stderr, ", %s thread %d", other & BLOCKS ? "of several blocks" :
                other & (MANY | WARPS) ? "several, one of them" : "the other:", other & THREAD);
    fprintf(stderr, ")\n");
    if (at)
        print_where((const char *)at);
    print_place(pc);
}

bool acquires(uint32_t at_epoch)
{
    for (size_t i = 0; acquired[me()] && i < n_given; i++)
        if ((*given)[i].first <= at_epoch && at_epoch < (*given)[i].end)
            return true;
    return false;
}

/* Is what `who` did in this block unordered with what the running thread does now? */
bool unordered(uint32_t at_epoch, uint16_t who, uint16_t stamp, bool whole_warp)
{
    if (at_epoch < epoch)
        return false;
    if (who & WARPS || (who & THREAD) / WARP != me() / WARP)
        return true;
    return stamp == stamps[me() / WARP] && (whole_warp || who & MANY || (who & THREAD) != me());
}

/* What is wrong with an access after the write that the cell remembers, or NULL. */
const char *after_write(const memory &m, const cell &c, const char *at, access kind)
{
    bool reads = is_read(kind);
    if (!m.shared && !waited[me()] && c.w_epoch >= window_first && c.w_epoch < launch_first)
        return "race: before grid_wait, with a kernel that may still run";
    if (c.w_epoch < (m.shared ? block_first : launch_first))
        return NULL;
    if (c.w_who & PENDING)
        return "race: with a cp.async that was not waited for";
    if (is_atomic(kind) && c.w_who & ATOMIC)
        return NULL;
    bool counter = c.w_who & ATOMIC && acquired[me()] && at >= given_at && at < given_at + 4;
    if ((c.w_who & BLOCKS && !counter) ||
        (c.w_epoch < block_first && !counter && !acquires(c.w_epoch)))
        return reads ? "race: reads what another block writes"
                     : "race: writes what another block writes";
    if (c.w_epoch >= block_first && unordered(c.w_epoch, c.w_who, c.w_stamp, kind == WARP_READ))
        return reads ? "race: reads what another thread wrote, without a barrier between"
                     : "race: writes what another thread wrote, without a barrier between";
    return NULL;
}

/* The same of a write after the reads that the cell remembers. */
const char *after_read(const memory &m, const cell &c)
{
    if (c.r_epoch < (m.shared ? block_first : launch_first))
        return NULL;
    if (c.r_who & BLOCKS || (c.r_epoch < block_first && !acquires(c.r_epoch)))
        return "race: writes what another block reads";
    if (c.r_epoch >= block_first && unordered(c.r_epoch, c.r_who, c.r_stamp, false))
        return "race: writes what another thread read, without a barrier between";
    return NULL;
}

/* `who` joined by the running thread, for reads and for atomics. */
uint16_t join(const memory &m, uint32_t at_epoch, uint16_t who, uint16_t stamp, bool whole_warp)
{
    uint16_t mine = (uint16_t)(me() | (whole_warp ? MANY : 0));
    if (at_epoch < (m.shared ? block_first : launch_first))
        return mine;
    if (who & BLOCKS || at_epoch < block_first)
        return (uint16_t)(mine | BLOCKS);
    if (at_epoch < epoch)
        return mine;
    if (who & WARPS || (who & THREAD) / WARP != me() / WARP)
        return (uint16_t)(mine | WARPS);
    if (stamp == stamps[me() / WARP] && (who & MANY || (who & THREAD) != me()))
        return (uint16_t)(mine | MANY);
    return mine;
}

void touch_byte(const memory &m, size_t i, access kind, const void *pc)
{
    cell &c = m.cells[i];
    const char *at = m.at + i, *wrong = NULL;
    bool reads = is_read(kind);
    uint16_t stamp = stamps[me() / WARP];

    if (m.states[i] <= GUARD) {
        complain(m.shared ? "access beyond the launch's shared memory"
                          : "access outside of any span of device memory", at, pc, -1);
        return;
    }
    wrong = after_write(m, c, at, kind);
    if (wrong)
        complain(wrong, at, pc, c.w_who);
    if (reads) {
        c.r_who = join(m, c.r_epoch, c.r_who, c.r_stamp, kind == WARP_READ);
        c.r_epoch = epoch;
        c.r_stamp = stamp;
        return;
    }
    if (!wrong && (wrong = after_read(m, c)))
        complain(wrong, at, pc, c.r_who);
    c.w_who = !is_atomic(kind)   ? (uint16_t)(me() | (kind == COPY ? PENDING : 0))
              : c.w_who & ATOMIC ? (uint16_t)(join(m, c.w_epoch, c.w_who, c.w_stamp, false) | ATOMIC)
                                 : (uint16_t)(me() | ATOMIC);
    c.w_epoch = epoch;
    c.w_stamp = stamp;
    if (kind != COPY)
        m.states[i] = WRITTEN;
}

bool same(const cell &a, const cell &b)
{
    uint64_t x[2], y[2];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    return x[0] == y[0] && x[1] == y[1];
}

bool in_scratch(const memory &m, size_t i)
{
    for (const auto &s : scratch)
        if (m.at + i >= s.first && m.at + i < s.second)
            return true;
    return false;
}

/* Was it never written, or, of scratch memory, not since the stream was waited for? */
bool lacks(const memory &m, size_t i)
{
    if (m.states[i] == UNWRITTEN)
        return true;
    return in_scratch(m, i) && m.cells[i].w_epoch < drained;
}

/* Of a read of a whole struct its padding may lack: words that lack wholly are looked for. */
void check_written(const memory &m, size_t i, size_t n, const void *pc)
{
    static const uint8_t all[16] = {WRITTEN, WRITTEN, WRITTEN, WRITTEN, WRITTEN, WRITTEN,
                                      WRITTEN, WRITTEN, WRITTEN, WRITTEN, WRITTEN, WRITTEN,
                                      WRITTEN, WRITTEN, WRITTEN, WRITTEN};
    size_t lacking = 0;
    if (n <= sizeof all && !memcmp(m.states + i, all, n) && !in_scratch(m, i))
        return;
    for (size_t j = i; j < i + n; j++) {
        const cell &c = m.cells[j];
        bool on_its_way = c.w_who & PENDING && c.w_epoch >= block_first;
        lacking = lacks(m, j) && !on_its_way ? lacking + 1 : 0;
        if (lacking == (n < 4 ? n : 4)) {
            complain("reads what was never written", m.at + j + 1 - lacking, pc, -1);
            return;
        }
    }
}

void touch(const memory &m, size_t i, size_t n, access kind, const void *pc)
{
    size_t left = m.shared ? SHARED_MAX : m.bytes;
    if (i > left || n > left - i) {
        complain("access across the end of device memory", m.at + i, pc, -1);
        return;
    }
    if (is_read(kind) || kind == ATOMIC_ADD)
        check_written(m, i, n, pc);
    if (m.shared && !is_read(kind) && kind != COPY) /* those are told when they were waited for */
        wgmma_written(m.at + i, n);
    cell before = m.cells[i];
    uint8_t state = m.states[i];
    touch_byte(m, i, kind, pc);
    for (size_t j = i + 1; j < i + n; j++)
        if (same(m.cells[j], before) && m.states[j] == state) { /* as the byte before it */
            m.cells[j] = m.cells[j - 1];
            m.states[j] = m.states[j - 1];
        } else {
            before = m.cells[j];
            state = m.states[j];
            touch_byte(m, j, kind, pc);
        }
    if (!m.shared && !is_read(kind)) {
        if (!waited[me()])
            complain("race: writes device memory before grid_wait", m.at + i, pc, -1);
        if (!unfenced[me()])
            unfenced[me()] = epoch;
    }
}

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" const char _end[] __attribute__((visibility("hidden")));

void touch_any(const void *address, size_t n, access kind, const void *pc)
{
    const char *at = (const char *)address;
    if ((at >= stack && at < stack_end) || !begun[me()])
        return;
    if (at >= shared.at && at < shared.at + SHARED_MAX) {
        touch(shared, (size_t)(at - shared.at), n, kind, pc);
        return;
    }
    for (const memory &m : regions)
        if (at >= m.at && at < m.at + m.bytes) {
            touch(m, (size_t)(at - m.at), n, kind, pc);
            return;
        }
    if ((at >= __ehdr_start && at < _end) || (at >= arguments && at < arguments_end))
        return; /* constants, emu_now */
    complain("access to memory that is not the device's", NULL, pc, -1);
}

memory *region_of(const void *at)
{
    for (memory &m : regions)
        if ((const char *)at >= m.at && (const char *)at < m.at + m.bytes)
            return &m;
    return NULL;
}

void *reserve(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "cuda_emu: no room for the checks of %zu bytes\n", bytes);
        abort();
    }
    madvise(at, bytes, MADV_NOHUGEPAGE);
    return at;
}

memory watch(char *at, size_t bytes, bool is_shared)
{
    return {at, bytes, (uint8_t *)reserve(bytes), (cell *)reserve(bytes * sizeof(cell)), is_shared};
}

void next_epoch()
{
    if (++epoch == UINT32_MAX) {
        fprintf(stderr, "cuda_emu: too many barriers for one run\n");
        abort();
    }
    memset(stamps, 0, sizeof stamps);
}

/* Exits that nothing was printed of yet are failures: tests end by exit. */
struct at_end {
    ~at_end()
    {
        if (!found_ever)
            return;
        fflush(NULL);
        _Exit(66);
    }
} at_end;

} // namespace

/* ---- from cuda_emu.cc */

void san_region(char *at, size_t bytes) { regions.push_back(watch(at, bytes, false)); }

void san_region_end(char *at)
{
    for (size_t i = 0; i < regions.size(); i++)
        if (regions[i].at == at) {
            spans.erase(spans.lower_bound(at), spans.lower_bound(at + regions[i].bytes));
            for (size_t j = scratch.size(); j-- > 0;)
                if (scratch[j].first >= at && scratch[j].first < at + regions[i].bytes)
                    scratch.erase(scratch.begin() + (long)j);
            munmap(regions[i].states, regions[i].bytes);
            munmap(regions[i].cells, regions[i].bytes * sizeof(cell));
            regions.erase(regions.begin() + (long)i);
            return;
        }
}

/* A stretch that the host or a library reads or writes, as a whole. */
static void whole(const void *at, size_t bytes, bool write, state least)
{
    memory *m = region_of(at);
    size_t i = m ? (size_t)((const char *)at - m->at) : 0, lacking = 0;
    for (size_t j = i; m && j < i + bytes; j++) {
        if (m->states[j] < least) {
            complain("outside of any span of device memory", m->at + j, NULL, -1);
            return;
        }
        if (write) {
            m->states[j] = m->states[j] == GUARD ? GUARD : WRITTEN;
            m->cells[j] = {epoch, THREAD, 0, 0, 0, 0};
            continue;
        }
        lacking = lacks(*m, j) ? lacking + 1 : 0;
        if (lacking == 4) {
            complain("reads what was never written", m->at + j - 3, NULL, -1);
            return;
        }
    }
}

void san_host(const void *at, size_t bytes, bool write, const char *what)
{
    kernel = what;
    whole(at, bytes, write, GUARD);
    next_epoch();
    window_first = epoch;
}

void san_library(const void *at, size_t bytes, bool write)
{
    whole(at, bytes, write, UNWRITTEN);
}

void emu_span(const void *at, size_t bytes, bool)
{
    emu_enqueue_now([=] {
        memory *m = region_of(at);
        if (m)
            memset(m->states + ((const char *)at - m->at), UNWRITTEN, bytes);
        spans[(const char *)at] = bytes;
    });
}

extern "C" void emu_guards(const void *at, size_t bytes, size_t each)
{
    emu_enqueue_now([=] {
        memory *m = region_of(at);
        if (!m)
            return;
        memset(m->states + ((const char *)at - m->at), GUARD, each);
        memset(m->states + ((const char *)at - m->at) + each + bytes, GUARD, each);
    });
}

void emu_span_end(const void *at)
{
    emu_enqueue_now([=] {
        memory *m = region_of(at);
        auto span = spans.find((const char *)at);
        if (!m || span == spans.end())
            return;
        memset(m->states + ((const char *)at - m->at), AWAY, span->second);
        spans.erase(span);
    });
}

void san_launch(const char *name, bool is_early)
{
    next_epoch();
    kernel = name;
    early = is_early;
    measures = !strcmp(name, "read_all");
    launch_first = epoch;
    if (!early)
        window_first = epoch;
    releases.clear();
}

void san_block(unsigned char *at, size_t bytes, int n)
{
    if (!shared.at)
        shared = watch((char *)at, SHARED_MAX, true);
    next_epoch();
    block_first = epoch;
    shared.bytes = bytes;
    memset(shared.states, UNWRITTEN, bytes);
    memset(shared.states + bytes, AWAY, SHARED_MAX - bytes);
    n_threads = n;
    for (int i = 0; i < n; i++) {
        waited[i] = !early;
        begun[i] = false;
        acquired[i] = false;
        unfenced[i] = fenced[i] = 0;
    }
    given = NULL;
    given_at = NULL;
    n_given = 0;
}

void san_thread(const char *at, size_t bytes)
{
    stack = at;
    stack_end = at + bytes;
    running = at && !measures;
}

void san_thread_end()
{
    if (!waited[me()])
        complain("a thread of a kernel launched early ends without grid_wait", NULL, kernel, -1);
}

void san_block_arrived()
{
    if (given && acquired[given_thread])
        memset(acquired, 1, sizeof acquired);
    next_epoch();
}

void san_warp_arrived(int warp)
{
    if (++stamps[warp] == 0) {
        fprintf(stderr, "cuda_emu: too many __syncwarps between barriers\n");
        abort();
    }
}

void san_warp_reads(const void *at, size_t bytes, const void *pc)
{
    touch_any(at, bytes, WARP_READ, pc);
}

void san_copy_asked(void *to, const void *from, size_t bytes, const void *pc)
{
    if (bytes)
        touch_any(from, bytes, READ, pc);
    touch_any(to, 16, COPY, pc);
}

void san_copy_done(void *to)
{
    size_t i = (size_t)((char *)to - shared.at);
    for (size_t j = i; j < i + 16 && j < shared.bytes; j++) {
        cell *c = &shared.cells[j];
        c->w_who = (uint16_t)me();
        c->w_epoch = epoch;
        c->w_stamp = stamps[me() / WARP];
        shared.states[j] = WRITTEN;
    }
}

void san_complain(const char *what, const void *pc) { complain(what, NULL, pc, -1); }

void san_drained()
{
    next_epoch();
    drained = epoch;
    if (!found || getenv("CUDA_EMU_GO_ON"))
        return;
    fflush(NULL);
    abort();
}

/* ---- from kernels */

void emu_arguments(const void *at, size_t bytes)
{
    arguments = (const char *)at;
    arguments_end = arguments + bytes;
    begun[me()] = true;
}

void emu_scratch(const void *at, size_t bytes)
{
    scratch.push_back({(char *)at, (char *)at + bytes});
}

void emu_any_value(const void *at, size_t bytes)
{
    if (!running) { /* the host says so of device memory: behind what is enqueued */
        emu_enqueue([=] {
            memory *m = bytes ? region_of(at) : NULL;
            size_t from = m ? (size_t)((const char *)at - m->at) : 0;
            for (size_t i = from; m && i < from + bytes; i++) {
                if (m->states[i] == UNWRITTEN)
                    m->states[i] = WRITTEN;
                if (m->cells[i].w_epoch < drained)
                    m->cells[i].w_epoch = drained;
            }
        });
        return;
    }
    size_t i = (size_t)((const char *)at - shared.at);
    for (size_t j = i; j < i + bytes && j < shared.bytes; j++)
        if (shared.states[j] == UNWRITTEN)
            shared.states[j] = WRITTEN;
}

void emu_grid_wait() { waited[me()] = true; }

void emu_grid_trigger()
{
    if (!waited[me()])
        complain("grid_trigger comes before grid_wait", NULL, __builtin_return_address(0), -1);
}

void emu_fence()
{
    fenced[me()] = epoch;
    unfenced[me()] = 0;
    if (given && (given_epoch < epoch || given_thread == me()))
        acquired[me()] = true;
}

void emu_atomic(void *at, size_t bytes)
{
    touch_any(at, bytes, ATOMIC_ADD, __builtin_return_address(0));
    if ((char *)at >= shared.at && (char *)at < shared.at + SHARED_MAX)
        return;
    std::vector<release> &here = releases[(char *)at];
    given = &here;
    given_at = (char *)at;
    n_given = here.size();
    given_epoch = epoch;
    given_thread = me();
    uint32_t end = epoch;
    for (int i = 0; i < n_threads; i++)
        if (unfenced[i] && unfenced[i] < end)
            end = unfenced[i];
    if (end < fenced[me()])
        end = fenced[me()];
    here.push_back({block_first, end});
}

/* ---- the compiler's calls; __builtin_return_address names the load or store */

#define CALL(name, n, kind)                                                                        \
    extern "C" void __tsan_##name##n(void *at)                                                     \
    {                                                                                              \
        if (running)                                                                               \
            touch_any(at, n, kind, __builtin_return_address(0));                                   \
    }
#define CALLS(n) CALL(read, n, READ) CALL(write, n, WRITE)
CALLS(1)
CALLS(2)
CALLS(4)
CALLS(8)
CALLS(16)
CALL(volatile_read, 4, VOLATILE_READ)
CALL(volatile_write, 4, VOLATILE_WRITE)

#define RANGE_CALLS(name, kind)                                                                    \
    extern "C" void __tsan_##name##_range(void *at, size_t bytes)                                  \
    {                                                                                              \
        if (running && bytes)                                                                      \
            touch_any(at, bytes, kind, __builtin_return_address(0));                               \
    }
RANGE_CALLS(read, READ)
RANGE_CALLS(write, WRITE)

extern "C" void __tsan_init(void) {}
#endif
