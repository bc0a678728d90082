/* limits: what this machine reaches at best, measured: memory read by all threads at once, and the
 * multiply-adds of the instructions that linear uses. A product's or a copy's rate is judged as a
 * share of these.
 *
 * Engine thread; slices on the pool. The median of TRIES counts, each some hundredths of a second
 * long: what can be kept up, not what a cool core does at first. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <time.h>

enum {
    TRIES = 7,
    PEAK_SLICES = 64,
    READ_SLICES = 64,
    READ_BYTES = 512 << 20, /* more than any cache */
};

static double peak_float(void)
{
    enum { ROUNDS = 20000, CHAINS = 32 };
    float x[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        x[i] = (float)i;
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = x[i] * 0.999f + 0.5f;
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "m");
    return 2.0 * ROUNDS * CHAINS;
}

static void read_bytes(const char *from, size_t bytes)
{
    const uint64_t *at = (const uint64_t *)(const void *)from;
    uint64_t sum[8] = {0};

    for (size_t i = 0; i < bytes / 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += at[i + j];
    for (int j = 0; j < 8; j++)
        CPU_USE(sum[j], "m");
}

void limits_base(struct cpu_variants *v)
{
    v->peak[CPU_INPUT_F32] = peak_float;
    v->read_bytes = read_bytes;
}

struct limits_job {
    const struct device *d;
    enum cpu_input input;
    const char *memory;
    size_t bytes; /* of a slice */
    double *operations; /* [PEAK_SLICES] */
};

static void peak_slice(void *arg, int slice, int thread)
{
    const struct limits_job *job = arg;

    (void)thread;
    job->operations[slice] = job->d->ops.peak[job->input]();
}

static void read_slice(void *arg, int slice, int thread)
{
    const struct limits_job *job = arg;

    (void)thread;
    job->d->ops.read_bytes(job->memory + (size_t)slice * job->bytes, job->bytes);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a run. */
static double timed(const struct device *d, pool_fn *fn, struct limits_job *job, int n_slices)
{
    double took[TRIES + 1];

    for (int i = 0; i <= TRIES; i++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        pool_run(d->pool, fn, job, n_slices);
        clock_gettime(CLOCK_MONOTONIC, &end);
        took[i] = (double)(end.tv_sec - start.tv_sec) +
                  (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
    }
    qsort(took + 1, TRIES, sizeof took[0], compare); /* the first warmed up */
    return took[1 + TRIES / 2];
}

int limits_run(struct device *d, enum quant_type weights, struct device_limits *out)
{
    static const char *const names[CPU_INPUT_COUNT] = {
        [CPU_INPUT_F32] = "float32", [CPU_INPUT_INT8] = "int8", [CPU_INPUT_BF16] = "bfloat16"};
    double operations[PEAK_SLICES], sum = 0;
    struct limits_job job = {.d = d, .input = d->ops.linear_input[weights],
                             .bytes = READ_BYTES / READ_SLICES, .operations = operations};

    if (cpu_failed(d))
        return -1;
    char *memory = malloc(READ_BYTES);
    if (!memory)
        return cpu_fail(d, "no memory to measure its speed");
    for (size_t i = 0; i < READ_BYTES; i += 64) /* pages of their own: a page of zeros is shared */
        memory[i] = (char)(i / 64 | 1);
    job.memory = memory;
    out->read_bytes = READ_BYTES / timed(d, read_slice, &job, READ_SLICES);
    free(memory);
    double took = timed(d, peak_slice, &job, PEAK_SLICES);
    for (int i = 0; i < PEAK_SLICES; i++)
        sum += operations[i];
    out->operations = sum / took;
    out->instruction = names[job.input];
    return 0;
}
