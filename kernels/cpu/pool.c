/* pool: the fork-join workers of the CPU backend.
 *
 * pool_run is called by one thread at a time, the engine's. A run is published as one 64-bit word:
 * its number in the upper half, the slices not yet taken in the lower. Taking a slice is a compare
 * and swap of that word, which fails if the run is another one or has no slice left. So a worker
 * that comes late, with the function of an older run in hand, takes nothing: a run's fields change
 * only when all its slices are done, and that is after the last of them was taken. The caller
 * therefore never waits for a worker that sleeps, only for slices that were taken.
 *
 * A worker: SPIN (no new run: pause, SPIN_NS long) -> SLEEP (condition variable) -> TAKE (slices of
 * the new run until none is left) -> SPIN. Asleep it costs no CPU. A sleeper announces itself in
 * n_sleeping before it looks at the word a last time, and pool_run looks at n_sleeping after it
 * has written the word (both sequentially consistent), so no wake is lost. */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { SPIN_NS = 50000, SPIN_BATCH = 64, JOIN_SPINS = 20000 };

struct worker {
    struct pool *pool;
    pthread_t id;
    int thread;
};

struct pool {
    _Alignas(64) _Atomic uint64_t word; /* run number << 32 | slices not yet taken */
    _Atomic(pool_fn *) fn;
    _Atomic(void *) arg;
    _Alignas(64) _Atomic int pending; /* slices of the run not yet done */
    _Alignas(64) _Atomic int n_sleeping;
    _Atomic bool closing;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int n_threads;
    struct worker *workers; /* [n_threads - 1] */
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void take_slices(struct pool *p, uint64_t word, int thread)
{
    uint32_t run = (uint32_t)(word >> 32);
    pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
    void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);

    while ((uint32_t)(word >> 32) == run && (uint32_t)word > 0) {
        if (!atomic_compare_exchange_weak_explicit(&p->word, &word, word - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(arg, (int)((uint32_t)word - 1), thread);
        atomic_fetch_sub_explicit(&p->pending, 1, memory_order_acq_rel);
        word = atomic_load_explicit(&p->word, memory_order_acquire);
    }
}

static uint64_t sleep_until_run(struct pool *p, uint32_t seen)
{
    uint64_t word;

    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_sleeping, 1);
    while (word = atomic_load(&p->word),
           (uint32_t)(word >> 32) == seen && !atomic_load(&p->closing))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_sleeping, 1);
    pthread_mutex_unlock(&p->lock);
    return word;
}

static uint64_t await_run(struct pool *p, uint32_t seen)
{
    int64_t until = 0;

    for (unsigned i = 0;; i++) {
        uint64_t word = atomic_load_explicit(&p->word, memory_order_acquire);
        if ((uint32_t)(word >> 32) != seen)
            return word;
        relax();
        if (i % SPIN_BATCH == SPIN_BATCH - 1) {
            int64_t now = now_ns();
            if (!until)
                until = now + SPIN_NS;
            else if (now >= until)
                return sleep_until_run(p, seen);
        }
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    uint32_t seen = 0;

    for (;;) {
        uint64_t word = await_run(p, seen);
        if (atomic_load(&p->closing))
            return NULL;
        seen = (uint32_t)(word >> 32);
        take_slices(p, word, w->thread);
    }
}

/* Workers take no signals: those belong to the thread that waits for them. */
static int start_workers(struct pool *p)
{
    sigset_t all, before;
    int started = 1;

    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* blocked, it would end the process without main.c's line */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < p->n_threads; started++) {
        struct worker *w = &p->workers[started - 1];
        *w = (struct worker){.pool = p, .thread = started};
        if (pthread_create(&w->id, NULL, work, w))
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

struct pool *pool_open(int n_threads)
{
    struct pool *p = NULL;

    if (n_threads < 1 || posix_memalign((void **)&p, 64, sizeof *p))
        return NULL;
    *p = (struct pool){.n_threads = n_threads};
    p->workers = calloc((size_t)n_threads, sizeof *p->workers);
    if (!p->workers) {
        free(p);
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    int started = start_workers(p);
    if (started < n_threads) {
        p->n_threads = started;
        pool_close(p);
        return NULL;
    }
    return p;
}

/* Publish a run: the fields first, then the word, then wake whoever sleeps. */
static uint64_t publish(struct pool *p, pool_fn *fn, void *arg, int n_slices)
{
    uint64_t run = (atomic_load_explicit(&p->word, memory_order_relaxed) >> 32) + 1;
    uint64_t word = run << 32 | (uint32_t)n_slices;

    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&p->pending, n_slices, memory_order_relaxed);
    atomic_store(&p->word, word);
    if (atomic_load(&p->n_sleeping) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    return word;
}

void pool_close(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->closing, true);
    publish(pool, NULL, NULL, 0);
    for (int i = 1; i < pool->n_threads; i++)
        pthread_join(pool->workers[i - 1].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

int pool_threads(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_run(struct pool *pool, pool_fn *fn, void *arg, int n_slices)
{
    if (pool->n_threads == 1 || n_slices <= 1) {
        for (int i = 0; i < n_slices; i++)
            fn(arg, i, 0);
        return;
    }
    take_slices(pool, publish(pool, fn, arg, n_slices), 0);
    /* A worker may have lost its core while it holds a slice: give it this one after a while. */
    for (int i = 0; atomic_load_explicit(&pool->pending, memory_order_acquire); i++) {
        if (i < JOIN_SPINS)
            relax();
        else
            sched_yield();
    }
}
