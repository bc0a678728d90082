/* cmd_bench: `sirocco bench`: how fast this machine runs a model, without the server around it.
 *
 * Prompts are random token ids, decoding is greedy, the prefix cache is off, nothing ends early:
 * the work of a test is what its name says. A test runs once unmeasured, then `repeat` times. One
 * thread; the engine's wake writes an eventfd that this thread sleeps on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "config/demo.h"
#include "engine/engine.h"
#include "server/cmd.h"

enum {
    TESTS_MAX = 32,
    REPEAT_MAX = 100,
    TOKENS_MAX = 1 << 20,
    SEQS_MAX = 1024,
    FIRST_PROMPT = 8, /* tokens before a generation test */
};

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
    "  -r N                    runs per test (3)\n"
    "  --threads N             0: one per core (0)\n"
    "  --cpu-isa NAME          auto, base, avx2, avx512, avx512-bf16 (auto)\n"
    "  --kv-cache-type TYPE    f32, f16, bf16 (f16)\n"
    "  --quant TYPE            quantize a model of floats while loading (sirocco quantize)\n"
    "  --max-batch-tokens N    tokens per step at most (512)\n"
    "  --json, --csv           instead of a table\n\n"
    "Without -p, -n and -s: -p 512 -n 128.\n";

struct bench_test {
    char name[64];
    int n_seqs, prompt, generate;
    enum { BENCH_PROMPT, BENCH_GENERATE, BENCH_MANY } kind;
    double rates[REPEAT_MAX]; /* tokens per second, sorted when the test is done */
};

struct bench {
    const char *model, *prompts, *generates, *seqs, *depth, *seq_prompt, *seq_generate, *repeat,
        *threads, *isa, *kv_type, *batch_tokens, *quant, *device, *plugin;
    bool json, csv;
    struct bench_test tests[TESTS_MAX];
    int n_tests, n_repeat;
    int wake;
    struct source *source;
    struct source_file *files;
    struct engine *engine;
    uint64_t random;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- options */

static int read_number(const char *option, const char *text, long max, const char **end, int *out,
                       struct err *err)
{
    char *stop;
    errno = 0;
    long value = strtol(text, &stop, 10);
    if (stop == text || errno || value < 1 || value > max)
        return err_set(err, ERR_USAGE, "bench: %s needs numbers from 1 to %ld, not '%.40s'", option,
                       max, text);
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
        rc = read_number(option, text, max, &end, out, err);
    return !rc && *end ? err_set(err, ERR_USAGE, "bench: %s needs one number", option) : rc;
}

/* Add a test per number of the list. */
static int add_tests(struct bench *b, const char *option, const char *list, long max, int kind,
                     int depth, const int many[2], struct err *err)
{
    for (int value; list && *list;) {
        int rc = read_number(option, list, max, &list, &value, err);
        if (rc)
            return rc;
        if (*list && *list++ != ',')
            return err_set(err, ERR_USAGE, "bench: %s needs numbers with commas between", option);
        if (b->n_tests == TESTS_MAX)
            return err_set(err, ERR_USAGE, "bench: at most %d tests", TESTS_MAX);
        struct bench_test *t = &b->tests[b->n_tests++];
        *t = (struct bench_test){.n_seqs = 1, .kind = kind};
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

static int read_options(struct bench *b, int argc, char **argv, struct err *err)
{
    const struct cmd_option options[] = {
        {"--model", &b->model, NULL},          {"-p", &b->prompts, NULL},
        {"-n", &b->generates, NULL},           {"-s", &b->seqs, NULL},
        {"-d", &b->depth, NULL},               {"--seq-prompt", &b->seq_prompt, NULL},
        {"--seq-generate", &b->seq_generate, NULL}, {"-r", &b->repeat, NULL},
        {"--threads", &b->threads, NULL},      {"--cpu-isa", &b->isa, NULL},
        {"--kv-cache-type", &b->kv_type, NULL}, {"--max-batch-tokens", &b->batch_tokens, NULL},
        {"--quant", &b->quant, NULL},          {"--device", &b->device, NULL},
        {"--cuda-plugin", &b->plugin, NULL},
        {"--json", NULL, &b->json},            {"--csv", NULL, &b->csv}};
    int many[2], depth = 0;
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, err);
    if (!rc)
        rc = read_one("-r", b->repeat, REPEAT_MAX, 3, &b->n_repeat, err);
    if (!rc)
        rc = read_one("--seq-prompt", b->seq_prompt, TOKENS_MAX, 128, &many[0], err);
    if (!rc)
        rc = read_one("--seq-generate", b->seq_generate, TOKENS_MAX, 64, &many[1], err);
    if (!rc)
        rc = read_one("-d", b->depth, TOKENS_MAX, 0, &depth, err);
    if (!rc && !b->prompts && !b->generates && !b->seqs) {
        b->prompts = "512";
        b->generates = "128";
    }
    if (!rc)
        rc = add_tests(b, "-p", b->prompts, TOKENS_MAX, BENCH_PROMPT, 0, many, err);
    if (!rc)
        rc = add_tests(b, "-n", b->generates, TOKENS_MAX - 1, BENCH_GENERATE, depth, many, err);
    return rc ? rc : add_tests(b, "-s", b->seqs, SEQS_MAX, BENCH_MANY, 0, many, err);
}

/* ---- the engine */

static void on_wake(void *user)
{
    uint64_t one = 1;
    ssize_t n = write(((struct bench *)user)->wake, &one, sizeof one);
    (void)n;
}

static int open_source(struct bench *b, struct err *err)
{
    if (b->model)
        return source_open(b->model, &b->source, err);
    b->files = calloc(demo_n_files, sizeof *b->files);
    if (!b->files)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < demo_n_files; i++)
        b->files[i] =
            (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    return source_open_memory("sirocco-demo", b->files, demo_n_files, &b->source, err);
}

static int open_engine(struct bench *b, struct err *err)
{
    int threads = 0, batch = 512, n_seqs = 1, longest = 0;
    int rc = read_one("--threads", b->threads, 1024, 0, &threads, err);
    if (!rc)
        rc = read_one("--max-batch-tokens", b->batch_tokens, 65536, 512, &batch, err);
    if (rc)
        return rc;
    for (int i = 0; i < b->n_tests; i++) {
        int tokens = b->tests[i].prompt + b->tests[i].generate;
        longest = tokens > longest ? tokens : longest;
        n_seqs = b->tests[i].n_seqs > n_seqs ? b->tests[i].n_seqs : n_seqs;
    }
    struct engine_options o = {.source = b->source,
                               .device = b->device ? b->device : "auto",
                               .cuda_plugin = b->plugin,
                               .gpu_memory_fraction = 0.92,
                               .cpu_isa = b->isa ? b->isa : "auto",
                               .threads = threads,
                               .max_seqs = n_seqs,
                               .max_batch_tokens = batch,
                               .max_model_len = longest + 1,
                               .block_size = 16,
                               .kv_cache_fraction = 0.9,
                               .kv_cache_type = b->kv_type ? b->kv_type : "f16",
                               .quant = b->quant,
                               .measure_limits = true,
                               .max_queue = SEQS_MAX,
                               .pause_ms_max = 60000,
                               .wake = on_wake,
                               .user = b};
    b->wake = eventfd(0, EFD_CLOEXEC);
    return b->wake < 0 ? err_set(err, ERR_IO, "eventfd: %s", strerror(errno))
                       : engine_open(&o, &b->engine, err);
}

/* ---- a run */

struct bench_run {
    double start, end;
    int n_tokens;
    struct engine_usage usage; /* of the last to end: the engine's own clock, not our waking */
};

static int submit_one(struct bench *b, const struct bench_test *t, int32_t *prompt, struct err *err)
{
    const struct engine_info *info = engine_info(b->engine);
    struct engine_request r = {.tokens = prompt,
                               .n_tokens = t->prompt,
                               .max_tokens = t->generate,
                               .ignore_eos = true,
                               .prompt_logprobs = -1};
    struct channel *c;
    sample_params_init(&r.params);
    r.params.temperature = 0;
    for (int i = 0; i < t->prompt; i++) { /* xorshift (Marsaglia 2003) */
        b->random ^= b->random << 13;
        b->random ^= b->random >> 7;
        b->random ^= b->random << 17;
        prompt[i] = (int32_t)(b->random % (uint64_t)info->vocab_size);
    }
    return engine_submit(b->engine, &r, NULL, &c, err);
}

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
    run->end = now();
    return rc;
}

static int run_once(struct bench *b, const struct bench_test *t, double *rate, struct err *err)
{
    struct bench_run run = {0};
    struct err drained;
    int32_t *prompt = malloc((size_t)t->prompt * sizeof *prompt);
    int rc = prompt ? 0 : err_set(err, ERR_NOMEM, "out of memory"), n = 0;
    run.start = now();
    while (!rc && n < t->n_seqs) {
        rc = submit_one(b, t, prompt, err);
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
    return x < y ? -1 : x > y;
}

static int run_test(struct bench *b, struct bench_test *t, FILE *progress, struct err *err)
{
    double unmeasured;
    int rc = run_once(b, t, &unmeasured, err);
    for (int i = 0; i < b->n_repeat && !rc; i++) {
        if (progress)
            fprintf(progress, "\r\033[K%s %d/%d", t->name, i + 1, b->n_repeat);
        rc = run_once(b, t, &t->rates[i], err);
    }
    if (progress)
        fprintf(progress, "\r\033[K");
    qsort(t->rates, (size_t)b->n_repeat, sizeof t->rates[0], compare_rates);
    return rc;
}

/* ---- results */

static double median(const struct bench *b, const struct bench_test *t)
{
    int half = b->n_repeat / 2;
    return b->n_repeat % 2 ? t->rates[half] : (t->rates[half - 1] + t->rates[half]) / 2;
}

/* Weights read per second where every token reads them once; else 0. */
static double bytes_rate(const struct bench *b, const struct bench_test *t)
{
    const struct engine_info *info = engine_info(b->engine);
    if (t->kind != BENCH_GENERATE)
        return 0;
    return median(b, t) * (info->layers_bytes + info->head_bytes);
}

/* Operations of matrix products per second. A prompt's only logits are those of its last token; in
 * a test of many sequences each generated token stands for its share of the prompt. */
static double operations_rate(const struct bench *b, const struct bench_test *t)
{
    const struct engine_info *info = engine_info(b->engine);
    double layers = 1, head = 1;
    if (t->kind == BENCH_PROMPT)
        head = 1.0 / t->prompt;
    else if (t->kind == BENCH_MANY)
        layers = 1 + (t->prompt - 1.0) / t->generate;
    return median(b, t) * (layers * info->layers_operations + head * info->head_operations);
}

/* Share of what the machine reaches: of memory's speed for generation, else of the multiply-adds;
 * 0: the device does not measure itself. */
static double limit_share(const struct bench *b, const struct bench_test *t)
{
    const struct engine_info *info = engine_info(b->engine);
    if (!info->limit_instruction)
        return 0;
    if (t->kind == BENCH_GENERATE)
        return bytes_rate(b, t) / info->limit_read_bytes;
    return operations_rate(b, t) / info->limit_operations;
}

static void write_json(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    struct buf name;
    buf_init(&name, 0);
    buf_json_string(&name, info->model_name, strlen(info->model_name));
    fprintf(out,
            "{\"model\":%s,\"arch\":\"%s\",\"quant\":\"%s\",\"device\":\"%s\","
            "\"parameters\":%lld,\"weight_bytes\":%lld,\"kv_type\":\"%s\",\"repeat\":%d,"
            "\"limits\":",
            name.data ? name.data : "null", info->arch, info->quant, info->device,
            (long long)info->n_parameters, (long long)info->weight_bytes, info->kv_type,
            b->n_repeat);
    if (info->limit_instruction)
        fprintf(out, "{\"read_gb_per_s\":%.2f,\"gflop_per_s\":%.1f,\"instruction\":\"%s\"}",
                info->limit_read_bytes * 1e-9, info->limit_operations * 1e-9,
                info->limit_instruction);
    else
        fprintf(out, "null");
    fprintf(out, ",\"results\":[");
    for (int i = 0; i < b->n_tests; i++) {
        const struct bench_test *t = &b->tests[i];
        fprintf(out,
                "%s{\"test\":\"%s\",\"tokens_per_s\":%.3f,\"min\":%.3f,\"max\":%.3f,"
                "\"gb_per_s\":%.2f,\"gflop_per_s\":%.1f,\"limit_share\":%.4f}",
                i ? "," : "", t->name, median(b, t), t->rates[0], t->rates[b->n_repeat - 1],
                bytes_rate(b, t) * 1e-9, operations_rate(b, t) * 1e-9, limit_share(b, t));
    }
    fprintf(out, "]}\n");
    buf_free(&name);
}

static void write_rows(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    if (b->csv) {
        fprintf(out, "test,tokens_per_s,min,max\n");
    } else {
        fprintf(out, "%s: %s, %.1f million parameters, %s, on %s, KV cache %s\n", info->model_name,
                info->arch, (double)info->n_parameters * 1e-6, info->quant, info->device,
                info->kv_type);
        if (info->limit_instruction)
            fprintf(out, "this machine: %.1f GB/s read, %.0f GFLOP/s of %s\n",
                    info->limit_read_bytes * 1e-9, info->limit_operations * 1e-9,
                    info->limit_instruction);
        fprintf(out, "\n%-20s %12s %10s %10s %8s %9s %7s\n", "test", "tokens/s", "min", "max",
                "GB/s", "GFLOP/s", "limit");
    }
    for (int i = 0; i < b->n_tests; i++) {
        const struct bench_test *t = &b->tests[i];
        double rate = median(b, t), least = t->rates[0], most = t->rates[b->n_repeat - 1];
        if (b->csv) {
            fprintf(out, "%s,%.3f,%.3f,%.3f\n", t->name, rate, least, most);
            continue;
        }
        fprintf(out, "%-20s %12.2f %10.2f %10.2f", t->name, rate, least, most);
        if (t->kind == BENCH_GENERATE)
            fprintf(out, " %8.1f", bytes_rate(b, t) * 1e-9);
        else
            fprintf(out, " %8s", "");
        fprintf(out, " %9.0f", operations_rate(b, t) * 1e-9);
        if (info->limit_instruction)
            fprintf(out, " %6.0f%%", limit_share(b, t) * 100);
        fprintf(out, "\n");
    }
}

int cmd_bench(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    struct bench *b = calloc(1, sizeof *b);
    (void)in;
    if (!b)
        return err_set(err, ERR_NOMEM, "out of memory");
    b->wake = -1;
    b->random = 0x9e3779b97f4a7c15u;
    FILE *progress = isatty(STDERR_FILENO) ? stderr : NULL;
    int rc = read_options(b, argc, argv, err);
    if (!rc)
        rc = open_source(b, err);
    if (!rc)
        rc = open_engine(b, err);
    for (int i = 0; i < b->n_tests && !rc; i++)
        rc = run_test(b, &b->tests[i], progress, err);
    if (!rc && b->json)
        write_json(b, out);
    else if (!rc)
        write_rows(b, out);
    engine_close(b->engine);
    source_close(b->source);
    free(b->files);
    if (b->wake >= 0)
        close(b->wake);
    free(b);
    return rc;
}
