/* check_pool: the fork-join pool: every slice once, visible at the join, no CPU when idle. */
#include "kernels/cpu/pool.h"
#include "tests/kernels/check.h"

#include <string.h>
#include <time.h>

enum { SLICES_MAX = 1000 };

static void count_slice(void *arg, int slice, int thread)
{
    int *counts = arg; /* plain ints: each is written by one slice, read after the join */
    counts[slice] += 1 + (thread < 0);
}

static double process_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void many_runs(int n_threads)
{
    static int counts[SLICES_MAX];
    struct pool *p = pool_open(n_threads);

    check_case("pool: %d threads, every slice once", n_threads);
    if (!check_expect(p != NULL && pool_threads(p) == n_threads, "open"))
        return;
    memset(counts, 0, sizeof counts);
    int expected[SLICES_MAX] = {0};
    for (int run = 0; run < 10000; run++) {
        int n = run % 7 == 0 ? check_int(0, SLICES_MAX) : check_int(0, 8);
        pool_run(p, count_slice, counts, n);
        for (int i = 0; i < n; i++)
            expected[i]++;
        if (run % 300 == 0)
            pause_ms(1); /* lets the workers fall asleep */
        if (!check_expect(!memcmp(counts, expected, sizeof counts), "run %d of %d slices", run, n))
            break;
    }
    pool_close(p);
}

void check_pool(void)
{
    for (int n = 1; n <= 5; n++)
        many_runs(n);

    check_case("pool: idle workers use no CPU");
    static int counts[SLICES_MAX];
    struct pool *p = pool_open(3);
    pool_run(p, count_slice, counts, 30);
    pause_ms(20); /* past the spinning */
    double before = process_seconds();
    pause_ms(200);
    double used = process_seconds() - before;
    check_expect(used < 0.004, "%.1f ms of CPU in 200 ms of idling", used * 1e3);
    pool_close(p);

    check_case("pool: open and close at once");
    for (int i = 0; i < 50; i++)
        pool_close(pool_open(4));
    pool_close(NULL);
    check_expect(pool_open(0) == NULL, "no threads");
}
