/* cmd_bench: `sirocco bench`: how fast this machine runs a model, without the server around it.
 *
 * Prompts are random token ids, decoding is greedy, the prefix cache is off, nothing ends early:
 * the work of a test is what its name says. A test runs once unmeasured (of a load, a few requests
 * and tokens), then `repeat` times. One thread; the engine's wake writes an eventfd that this
 * thread sleeps on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/demo.h"
#include "server/bench.h"
#include "server/cmd.h"

enum {
    FIRST_PROMPT = 8,  /* tokens before a generation test */
    WARM_REQUESTS = 8, /* of the unmeasured part of a load */
    WARM_TOKENS = 8,
    LOAD_REQUESTS = 64,
};
#define LOAD_SHAPE "128/128"

const char cmd_bench_usage[] =
    "usage: sirocco bench [options]\n\n"
    "Measures tokens per second without the server around the engine: random prompts, greedy\n"
    "decoding, no prefix cache. Each test runs once unmeasured, then -r times.\n\n"
    "  --model PATH            model folder or .gguf file (the embedded demo model)\n"
    "  -p N,..                 processing prompts of N tokens\n"
    "  -n N,..                 generating N tokens\n"
    "  -d N                    ... behind a prompt of N tokens\n"
    "  -s N,..                 N sequences at once: generated tokens over all of them\n"
    "  --seq-prompt N          ... each with a prompt of N tokens (128)\n"
    "  --seq-generate N        ... and N generated tokens (64)\n"
    "  -r N                    runs per test (3; of loads 1)\n\n"
    "  --serve-load            requests through the scheduler, as a server gets them: tokens per\n"
    "                          second, time to first token, time between tokens, stalls\n"
    "  --requests N            how many (64)\n"
    "  --shape P/G[xN],..      P prompt tokens and G generated ones each (128/128), N requests\n"
    "  --concurrency N,..      so many at a time; 0: all at once (0)\n"
    "  --rate R,..             instead: arrivals per second, at random (a Poisson process)\n"
    "  --seed N                of prompts and arrivals (1)\n"
    "  --itl-target-ms N       as sirocco serve has it; 0: no limit (0)\n"
    "  --verify N              run N of them alone, too: the same tokens, or an error (0)\n\n"
    "  --device DEVICE         cpu, cuda, cuda:N, auto (auto)\n"
    "  --cuda-plugin FILE      the CUDA backend (sirocco-cuda.so beside the program)\n"
    "  --threads N             0: one per core (0)\n"
    "  --cpu-isa NAME          auto, base, avx2, avx512, avx512-bf16 (auto)\n"
    "  --kv-cache-type TYPE    f32, f16, bf16, q8_0, fp8 (f16)\n"
    "  --kv-cache-bytes SIZE   as in 512m (what the tests need, if that is there)\n"
    "  --quant TYPE            quantize a model of floats while loading (sirocco quantize)\n"
    "  --max-batch-tokens N    tokens per step at most (512, on a GPU 2048 or 8192)\n"
    "  --max-seqs N            sequences that run at a time (what the tests need, at most 1024)\n"
    "  --no-limits             do not measure what the machine reaches\n"
    "  --json, --csv           instead of a table\n\n"
    "Without -p, -n, -s and --serve-load: -p 512 -n 128.\n";

struct bench_options {
    const char *model, *prompts, *generates, *seqs, *depth, *seq_prompt, *seq_generate, *repeat,
        *threads, *isa, *kv_type, *kv_bytes, *batch_tokens, *max_seqs, *quant, *device, *plugin,
        *itl_target, *requests, *shapes, *concurrencies, *rates, *seed, *verify;
    bool serve_load, no_limits, json, csv;
    int n_repeat, n_verify; /* n_repeat 0: not given */
    struct source *source;
    struct source_file *files;
};

/* ---- options */

static int read_number(const char *option, const char *text, long min, long max, const char **end,
                       int *out, struct err *err)
{
    char *stop;
    errno = 0;
    long value = strtol(text, &stop, 10);
    if (stop == text || errno || value < min || value > max)
        return err_set(err, ERR_USAGE, "bench: %s needs numbers from %ld to %ld, not '%.40s'",
                       option, min, max, text);
    *out = (int)value;
    *end = stop;
    return 0;
}

static int read_one(const char *option, const char *text, long max, int standard, int *out,
                    struct err *err)
{
    const char *end = "";
    int rc = 0;
    *out = standard;
    if (text)
        rc = read_number(option, text, 1, max, &end, out, err);
    return !rc && *end ? err_set(err, ERR_USAGE, "bench: %s needs one number", option) : rc;
}

/* After an item of a list: past the comma, or at the end. */
static int next_item(const char *option, const char **list, struct err *err)
{
    if (**list && *(*list)++ != ',')
        return err_set(err, ERR_USAGE, "bench: %s needs numbers with commas between", option);
    return 0;
}

static int add_test(struct bench *b, struct bench_test **out, struct err *err)
{
    if (b->n_tests == BENCH_TESTS_MAX)
        return err_set(err, ERR_USAGE, "bench: at most %d tests", BENCH_TESTS_MAX);
    *out = &b->tests[b->n_tests++];
    **out = (struct bench_test){.n_seqs = 1};
    return 0;
}

/* Add a test per number of the list. */
static int add_tests(struct bench *b, const char *option, const char *list, long max, int kind,
                     int depth, const int many[2], struct err *err)
{
    struct bench_test *t = NULL;
    for (int value, rc; list && *list;) {
        if ((rc = read_number(option, list, 1, max, &list, &value, err)) != 0 ||
            (rc = next_item(option, &list, err)) != 0 || (rc = add_test(b, &t, err)) != 0)
            return rc;
        t->kind = kind;
        if (kind == BENCH_PROMPT) {
            t->prompt = value;
            t->generate = 1;
            snprintf(t->name, sizeof t->name, "pp%d", value);
        } else if (kind == BENCH_GENERATE) {
            t->prompt = depth ? depth : FIRST_PROMPT;
            t->generate = value + 1; /* the first one belongs to the prompt */
            snprintf(t->name, sizeof t->name, depth ? "tg%d@d%d" : "tg%d", value, depth);
        } else {
            t->n_seqs = value;
            t->prompt = many[0];
            t->generate = many[1];
            snprintf(t->name, sizeof t->name, "s%d_pp%d_tg%d", value, many[0], many[1]);
        }
    }
    return 0;
}

/* A load of one shape: a test for each concurrency, or for each rate. */
static int add_loads(struct bench *b, const struct bench_options *o, struct bench_load load,
                     struct err *err)
{
    const char *list = o->rates ? o->rates : o->concurrencies ? o->concurrencies : "0";
    struct bench_test *t = NULL;
    int rc;
    do {
        char *end;
        if (!o->rates) {
            rc = read_number("--concurrency", list, 0, BENCH_REQUESTS_MAX, &list,
                             &load.concurrency, err);
        } else {
            load.rate = strtod(list, &end);
            rc = end > list && load.rate >= 1e-3 && load.rate <= 1e6
                     ? 0
                     : err_set(err, ERR_USAGE,
                               "bench: --rate needs numbers from 0.001 to 1000000, not '%.40s'",
                               list);
            list = end;
        }
        if (rc || (rc = next_item(o->rates ? "--rate" : "--concurrency", &list, err)) != 0 ||
            (rc = add_test(b, &t, err)) != 0)
            return rc;
        t->kind = BENCH_LOAD;
        t->load = load;
        t->prompt = load.prompt;
        t->generate = load.generate;
        t->n_seqs = load.concurrency && load.concurrency < load.n_requests ? load.concurrency
                                                                           : load.n_requests;
        int n = snprintf(t->name, sizeof t->name, "load%d_pp%d_tg%d", load.n_requests, load.prompt,
                         load.generate);
        if (load.rate > 0)
            snprintf(t->name + n, sizeof t->name - (size_t)n, "_r%g", load.rate);
        else if (load.concurrency)
            snprintf(t->name + n, sizeof t->name - (size_t)n, "_c%d", load.concurrency);
    } while (*list);
    return 0;
}

static int add_load_tests(struct bench *b, const struct bench_options *o, struct err *err)
{
    struct bench_load load = {.seed = 1};
    int seed = 1;
    int n_requests = 0;
    int rc = read_one("--requests", o->requests, BENCH_REQUESTS_MAX, LOAD_REQUESTS, &n_requests,
                      err);
    if (!rc)
        rc = cmd_count("bench", "--seed", o->seed, 0, INT32_MAX, &seed, err);
    load.seed = (uint64_t)seed;
    const char *list = o->shapes ? o->shapes : LOAD_SHAPE;
    do {
        if (!rc)
            rc = read_number("--shape", list, 1, BENCH_TOKENS_MAX, &list, &load.prompt, err);
        if (!rc && *list++ != '/')
            rc = err_set(err, ERR_USAGE, "bench: --shape needs P/G, as in 128/64");
        if (!rc)
            rc = read_number("--shape", list, 1, BENCH_TOKENS_MAX, &list, &load.generate, err);
        load.n_requests = n_requests;
        if (!rc && *list == 'x')
            rc = read_number("--shape", list + 1, 1, BENCH_REQUESTS_MAX, &list, &load.n_requests,
                             err);
        if (!rc)
            rc = next_item("--shape", &list, err);
        if (!rc)
            rc = add_loads(b, o, load, err);
    } while (!rc && *list);
    return rc;
}

static int check_load_options(const struct bench_options *o, struct err *err)
{
    if (!o->serve_load && (o->requests || o->shapes || o->concurrencies || o->rates || o->seed ||
                           o->verify))
        return err_set(err, ERR_USAGE, "bench: --requests, --shape, --concurrency, --rate, --seed "
                                       "and --verify go with --serve-load");
    if (o->rates && o->concurrencies)
        return err_set(err, ERR_USAGE, "bench: --rate or --concurrency, not both");
    return 0;
}

static int read_options(struct bench *b, struct bench_options *o, int argc, char **argv,
                        struct err *err)
{
    const struct cmd_option options[] = {
        {"--model", &o->model, NULL},          {"-p", &o->prompts, NULL},
        {"-n", &o->generates, NULL},           {"-s", &o->seqs, NULL},
        {"-d", &o->depth, NULL},               {"--seq-prompt", &o->seq_prompt, NULL},
        {"--seq-generate", &o->seq_generate, NULL}, {"-r", &o->repeat, NULL},
        {"--threads", &o->threads, NULL},      {"--cpu-isa", &o->isa, NULL},
        {"--kv-cache-type", &o->kv_type, NULL}, {"--kv-cache-bytes", &o->kv_bytes, NULL},
        {"--max-batch-tokens", &o->batch_tokens, NULL}, {"--max-seqs", &o->max_seqs, NULL},
        {"--itl-target-ms", &o->itl_target, NULL},
        {"--quant", &o->quant, NULL},          {"--device", &o->device, NULL},
        {"--cuda-plugin", &o->plugin, NULL},   {"--serve-load", NULL, &o->serve_load},
        {"--requests", &o->requests, NULL},    {"--shape", &o->shapes, NULL},
        {"--concurrency", &o->concurrencies, NULL}, {"--rate", &o->rates, NULL},
        {"--seed", &o->seed, NULL},            {"--verify", &o->verify, NULL},
        {"--no-limits", NULL, &o->no_limits},
        {"--json", NULL, &o->json},            {"--csv", NULL, &o->csv}};
    int many[2], depth = 0;
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, err);
    if (!rc)
        rc = check_load_options(o, err);
    if (!rc)
        rc = read_one("-r", o->repeat, BENCH_REPEAT_MAX, 0, &o->n_repeat, err);
    if (!rc)
        rc = read_one("--seq-prompt", o->seq_prompt, BENCH_TOKENS_MAX, 128, &many[0], err);
    if (!rc)
        rc = read_one("--seq-generate", o->seq_generate, BENCH_TOKENS_MAX, 64, &many[1], err);
    if (!rc)
        rc = read_one("-d", o->depth, BENCH_TOKENS_MAX, 0, &depth, err);
    if (!rc)
        rc = cmd_count("bench", "--verify", o->verify, 0, BENCH_REQUESTS_MAX, &o->n_verify, err);
    if (!rc && !o->prompts && !o->generates && !o->seqs && !o->serve_load) {
        o->prompts = "512";
        o->generates = "128";
    }
    if (!rc)
        rc = add_tests(b, "-p", o->prompts, BENCH_TOKENS_MAX, BENCH_PROMPT, 0, many, err);
    if (!rc)
        rc = add_tests(b, "-n", o->generates, BENCH_TOKENS_MAX - 1, BENCH_GENERATE, depth, many,
                       err);
    if (!rc)
        rc = add_tests(b, "-s", o->seqs, BENCH_SEQS_MAX, BENCH_MANY, 0, many, err);
    return rc || !o->serve_load ? rc : add_load_tests(b, o, err);
}

/* ---- the engine */

static void on_wake(void *user)
{
    uint64_t one = 1;
    ssize_t n = write(((struct bench *)user)->wake, &one, sizeof one);
    (void)n;
}

static int open_source(struct bench_options *o, struct err *err)
{
    if (o->model)
        return source_open(o->model, &o->source, err);
    o->files = calloc(demo_n_files, sizeof *o->files);
    if (!o->files)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < demo_n_files; i++)
        o->files[i] =
            (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    return source_open_memory("sirocco-demo", o->files, demo_n_files, &o->source, err);
}

static int open_engine(struct bench *b, const struct bench_options *asked, struct err *err)
{
    int longest = 0;
    struct engine_options o = {.source = asked->source,
                               .device = asked->device ? asked->device : "auto",
                               .cuda_plugin = asked->plugin,
                               .gpu_memory_fraction = 0.92,
                               .cpu_isa = asked->isa ? asked->isa : "auto",
                               .max_seqs = 1,
                               .block_size = 16,
                               .kv_cache_fraction = 0.9,
                               .kv_cache_type = asked->kv_type ? asked->kv_type : "f16",
                               .quant = asked->quant,
                               .measure_limits = !asked->no_limits,
                               .max_queue = BENCH_REQUESTS_MAX,
                               .pause_ms_max = 60000,
                               .wake = on_wake,
                               .user = b};
    for (int i = 0; i < b->n_tests; i++) {
        int tokens = b->tests[i].prompt + b->tests[i].generate;
        longest = tokens > longest ? tokens : longest;
        o.max_seqs = b->tests[i].n_seqs > o.max_seqs ? b->tests[i].n_seqs : o.max_seqs;
    }
    o.max_seqs = o.max_seqs < BENCH_SEQS_MAX ? o.max_seqs : BENCH_SEQS_MAX;
    o.max_model_len = longest + 1;
    int rc = read_one("--threads", asked->threads, 1024, 0, &o.threads, err);
    if (!rc)
        rc = read_one("--max-batch-tokens", asked->batch_tokens, 65536, 0, &o.max_batch_tokens,
                      err);
    if (!rc)
        rc = cmd_count("bench", "--max-seqs", asked->max_seqs, 1, 4096, &o.max_seqs, err);
    if (!rc)
        rc = cmd_bytes("bench", "--kv-cache-bytes", asked->kv_bytes, &o.kv_cache_bytes, err);
    if (!rc)
        rc = cmd_count("bench", "--itl-target-ms", asked->itl_target, 0, INT32_MAX,
                       &o.itl_target_ms, err);
    if (rc)
        return rc;
    b->wake = eventfd(0, EFD_CLOEXEC);
    return b->wake < 0 ? err_set(err, ERR_IO, "eventfd: %s", strerror(errno))
                       : engine_open(&o, &b->engine, err);
}

/* ---- a run of one batch */

struct bench_run {
    double start, end;
    int n_tokens;
    struct engine_usage usage; /* of the last to end: the engine's own clock, not our waking */
};

/* Take every event until n channels have ended; the first failure is the result. */
static int drain(struct bench *b, int n, struct bench_run *run, struct err *err)
{
    int rc = 0;
    while (n > 0) {
        struct channel *c;
        struct event event;
        uint64_t count;
        if (read(b->wake, &count, sizeof count) < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
        while ((c = engine_poll(b->engine, &(void *){NULL})) != NULL) {
            bool ended = false;
            while (!ended && engine_next(c, &event)) {
                ended = event.kind == EVENT_DONE || event.kind == EVENT_FAILED;
                if (event.kind == EVENT_FAILED && !rc)
                    rc = err_set(err, event.error, "%s", event.error_text);
                run->n_tokens += event.kind == EVENT_TOKEN;
                if (ended)
                    run->usage = event.usage;
            }
            if (ended) {
                engine_release(c);
                n--;
            }
        }
    }
    run->end = bench_now();
    return rc;
}

static int run_once(struct bench *b, const struct bench_test *t, double *rate, struct err *err)
{
    struct bench_run run = {0};
    struct err drained;
    int32_t *prompt = malloc((size_t)t->prompt * sizeof *prompt);
    int rc = prompt ? 0 : err_set(err, ERR_NOMEM, "out of memory"), n = 0;
    run.start = bench_now();
    while (!rc && n < t->n_seqs) {
        struct channel *c;
        bench_prompt(b->engine, &b->random, prompt, t->prompt);
        struct engine_request r = bench_request(prompt, t->prompt, t->generate);
        rc = engine_submit(b->engine, &r, NULL, &c, err);
        n += rc == 0;
    }
    free(prompt);
    int failed = drain(b, n, &run, rc ? &drained : err);
    if (rc || failed)
        return rc ? rc : failed;
    if (t->kind == BENCH_PROMPT)
        *rate = t->prompt * 1e3 / run.usage.first_token_ms;
    else if (t->kind == BENCH_GENERATE)
        *rate = (run.n_tokens - 1) * 1e3 / (run.usage.total_ms - run.usage.first_token_ms);
    else
        *rate = run.n_tokens / (run.end - run.start);
    return 0;
}

static int compare_rates(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int run_test(struct bench *b, struct bench_test *t, int n_repeat, struct err *err)
{
    double unmeasured;
    int rc = run_once(b, t, &unmeasured, err);
    for (t->n_rates = 0; t->n_rates < n_repeat && !rc; t->n_rates++) {
        cmd_progress(t->name, (double)t->n_rates / n_repeat);
        rc = run_once(b, t, &t->rates[t->n_rates], err);
    }
    cmd_progress(NULL, 0);
    qsort(t->rates, (size_t)t->n_rates, sizeof t->rates[0], compare_rates);
    return rc;
}

/* ---- a load */

static int compare_results(const void *a, const void *b)
{
    return compare_rates(&((const struct bench_load_result *)a)->output_rate,
                         &((const struct bench_load_result *)b)->output_rate);
}

static int run_load(struct bench *b, struct bench_test *t, int n_repeat, int n_verify,
                    struct err *err)
{
    struct bench_load warm = t->load;
    struct bench_load_result *results = calloc((size_t)n_repeat, sizeof *results), ignored;
    size_t n = (size_t)t->load.n_requests * (size_t)t->load.generate;
    int32_t *tokens = n_verify ? malloc(n * sizeof *tokens) : NULL;
    int rc = results && (tokens || !n_verify) ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    warm.rate = 0;
    warm.n_requests = warm.n_requests < WARM_REQUESTS ? warm.n_requests : WARM_REQUESTS;
    warm.generate = warm.generate < WARM_TOKENS ? warm.generate : WARM_TOKENS;
    if (!rc)
        rc = bench_load_run(b, &warm, NULL, NULL, &ignored, err);
    for (t->n_rates = 0; t->n_rates < n_repeat && !rc; t->n_rates++)
        rc = bench_load_run(b, &t->load, t->name, tokens, &results[t->n_rates], err);
    if (!rc && n_verify) {
        int all = t->load.n_requests;
        rc = bench_load_verify(b, &t->load, n_verify < all ? n_verify : all, tokens, err);
    }
    if (!rc) {
        qsort(results, (size_t)n_repeat, sizeof *results, compare_results);
        for (int i = 0; i < n_repeat; i++)
            t->rates[i] = results[i].output_rate;
        t->loaded = results[n_repeat / 2];
    }
    free(tokens);
    free(results);
    return rc;
}

/* ---- the command */

int cmd_bench(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    struct bench *b = calloc(1, sizeof *b);
    struct bench_options o = {0};
    double start = bench_now();
    (void)in;
    if (!b)
        return err_set(err, ERR_NOMEM, "out of memory");
    b->wake = -1;
    b->random = 0x9e3779b97f4a7c15u;
    int rc = read_options(b, &o, argc, argv, err);
    if (!rc)
        rc = open_source(&o, err);
    if (!rc)
        rc = open_engine(b, &o, err);
    b->ready_seconds = bench_now() - start;
    for (int i = 0; i < b->n_tests && !rc; i++) {
        bool load = b->tests[i].kind == BENCH_LOAD;
        int n_repeat = o.n_repeat ? o.n_repeat : load ? 1 : 3;
        rc = load ? run_load(b, &b->tests[i], n_repeat, o.n_verify, err)
                  : run_test(b, &b->tests[i], n_repeat, err);
    }
    if (!rc)
        (o.json ? bench_report_json : o.csv ? bench_report_csv : bench_report_table)(b, out);
    engine_close(b->engine);
    source_close(o.source);
    free(o.files);
    if (b->wake >= 0)
        close(b->wake);
    free(b);
    return rc;
}
