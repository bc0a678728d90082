/* metrics: THE TABLE of metrics and their text exposition (Prometheus format 0.0.4). Loop thread
 * only. What the engine counts is read from its snapshot when written; what happens on the loop is
 * counted here. Labels are bounded: routes come from route.c's table, statuses from HTTP. */
#include "server/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/app.h"

enum { ROUTES_MAX = 32, STATUS_MIN = 100, STATUS_MAX = 599, BUCKETS_MAX = 32, REASONS = 5 };

/* ---- the values of one exposition */

struct metrics_values {
    double running, waiting, paused, kv_used, kv_total, kv_cached, kv_ratio;
    double preemptions, prompt_tokens, cached_tokens, generation_tokens;
    double prefix_queries, prefix_hits, prefix_ratio, steps;
    double connections, prepare_bytes, log_lost;
    double cpu_seconds, rss_bytes, virtual_bytes, open_files, start_seconds;
};

enum metrics_kind { METRICS_GAUGE, METRICS_COUNTER };

#define AT(field) offsetof(struct metrics_values, field)

static const struct metric {
    const char *name;
    enum metrics_kind kind;
    size_t offset;
    const char *vllm[2]; /* vLLM's name, and its deprecated one; without them: ours alone */
    const char *help;
} metric_table[] = {
    {"sirocco_requests_running", METRICS_GAUGE, AT(running), {"vllm:num_requests_running", NULL},
     "Sequences in the running batch."},
    {"sirocco_requests_waiting", METRICS_GAUGE, AT(waiting), {"vllm:num_requests_waiting", NULL},
     "Sequences submitted and not yet running."},
    {"sirocco_requests_paused", METRICS_GAUGE, AT(paused), {NULL, NULL},
     "Running sequences whose client reads too slowly."},
    {"sirocco_kv_blocks_used", METRICS_GAUGE, AT(kv_used), {NULL, NULL},
     "KV cache blocks owned by sequences."},
    {"sirocco_kv_blocks_total", METRICS_GAUGE, AT(kv_total), {NULL, NULL},
     "KV cache blocks in the pool."},
    {"sirocco_kv_blocks_cached", METRICS_GAUGE, AT(kv_cached), {NULL, NULL},
     "Free KV cache blocks that still hold a findable prefix."},
    {"sirocco_kv_cache_usage_ratio", METRICS_GAUGE, AT(kv_ratio),
     {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"},
     "Used share of the KV cache, 0 to 1."},
    {"sirocco_preemptions_total", METRICS_COUNTER, AT(preemptions),
     {"vllm:num_preemptions_total", NULL}, "Sequences put back to be computed again."},
    {"sirocco_prompt_tokens_total", METRICS_COUNTER, AT(prompt_tokens),
     {"vllm:prompt_tokens_total", NULL}, "Prompt tokens of admitted sequences."},
    {"sirocco_prompt_tokens_cached_total", METRICS_COUNTER, AT(cached_tokens),
     {"vllm:prompt_tokens_cached_total", NULL}, "Prompt tokens taken from the prefix cache."},
    {"sirocco_generation_tokens_total", METRICS_COUNTER, AT(generation_tokens),
     {"vllm:generation_tokens_total", NULL}, "Generated tokens."},
    {"sirocco_prefix_cache_queries_total", METRICS_COUNTER, AT(prefix_queries),
     {"vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"},
     "Prompt tokens looked up in the prefix cache."},
    {"sirocco_prefix_cache_hits_total", METRICS_COUNTER, AT(prefix_hits),
     {"vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"},
     "Prompt tokens found in the prefix cache."},
    {"sirocco_prefix_cache_hit_ratio", METRICS_GAUGE, AT(prefix_ratio),
     {"vllm:gpu_prefix_cache_hit_rate", NULL},
     "Share of the prompt tokens looked up in the prefix cache that were there, since the start."},
    {"sirocco_steps_total", METRICS_COUNTER, AT(steps), {NULL, NULL}, "Steps of the engine."},
    {"sirocco_connections", METRICS_GAUGE, AT(connections), {NULL, NULL}, "Open connections."},
    {"sirocco_prepare_bytes", METRICS_GAUGE, AT(prepare_bytes), {NULL, NULL},
     "Request bodies being parsed and tokenized, in bytes."},
    {"sirocco_log_lines_lost_total", METRICS_COUNTER, AT(log_lost), {NULL, NULL},
     "Log lines that could not be written at once: nobody read them, or the disk was full."},
    {"process_cpu_seconds_total", METRICS_COUNTER, AT(cpu_seconds), {NULL, NULL},
     "CPU time of the process, user and system, in seconds."},
    {"process_resident_memory_bytes", METRICS_GAUGE, AT(rss_bytes), {NULL, NULL},
     "Resident memory in bytes."},
    {"process_virtual_memory_bytes", METRICS_GAUGE, AT(virtual_bytes), {NULL, NULL},
     "Virtual memory in bytes."},
    {"process_open_fds", METRICS_GAUGE, AT(open_files), {NULL, NULL}, "Open file descriptors."},
    {"process_start_time_seconds", METRICS_GAUGE, AT(start_seconds), {NULL, NULL},
     "Start of the process since the Unix epoch, in seconds."},
};

/* ---- histograms */

static const double ttft_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75,
                                     1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560};
static const double token_bounds[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4,
                                      .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double request_bounds[] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50,
                                        60, 120, 240, 480, 960, 1920, 7680};
static const double count_bounds[] = {1, 2, 5, 1e1, 2e1, 5e1, 1e2, 2e2, 5e2, 1e3, 2e3, 5e3,
                                      1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6};
static const double step_bounds[ENGINE_STEP_BUCKETS] = {1, 8, 16, 32, 64, 128, 256, 512,
                                                        1024, 2048, 4096, 8192, 16384};
#define BOUNDS(b) b, (int)(sizeof b / sizeof b[0])
_Static_assert(sizeof ttft_bounds / sizeof ttft_bounds[0] <= BUCKETS_MAX, "BUCKETS_MAX");

static const struct metrics_histogram_row {
    const char *name;
    const double *bounds;
    int n_bounds;
    const char *vllm[2];
    const char *help;
} histogram_table[METRICS_HISTOGRAM_COUNT] = {
    [METRICS_TTFT] = {"sirocco_time_to_first_token_seconds", BOUNDS(ttft_bounds),
                      {"vllm:time_to_first_token_seconds", NULL},
                      "Submit to first token, in seconds."},
    [METRICS_ITL] = {"sirocco_inter_token_latency_seconds", BOUNDS(token_bounds),
                     {"vllm:inter_token_latency_seconds", NULL},
                     "Between two tokens of one sequence, in seconds."},
    [METRICS_TPOT] = {"sirocco_request_time_per_output_token_seconds", BOUNDS(token_bounds),
                      {"vllm:request_time_per_output_token_seconds",
                       "vllm:time_per_output_token_seconds"},
                      "Mean time per output token after the first, per sequence, in seconds."},
    [METRICS_E2E] = {"sirocco_e2e_request_latency_seconds", BOUNDS(request_bounds),
                     {"vllm:e2e_request_latency_seconds", NULL},
                     "Submit to the end of a sequence, in seconds."},
    [METRICS_QUEUE] = {"sirocco_request_queue_time_seconds", BOUNDS(request_bounds),
                       {"vllm:request_queue_time_seconds", NULL},
                       "Submit to the first step of a sequence, in seconds."},
    [METRICS_PREFILL] = {"sirocco_request_prefill_time_seconds", BOUNDS(request_bounds),
                         {"vllm:request_prefill_time_seconds", NULL},
                         "First step to first token of a sequence, in seconds."},
    [METRICS_DECODE] = {"sirocco_request_decode_time_seconds", BOUNDS(request_bounds),
                        {"vllm:request_decode_time_seconds", NULL},
                        "First token to the end of a sequence, in seconds."},
    [METRICS_INFERENCE] = {"sirocco_request_inference_time_seconds", BOUNDS(request_bounds),
                           {"vllm:request_inference_time_seconds", NULL},
                           "First step to the end of a sequence, in seconds."},
    [METRICS_PROMPT_TOKENS] = {"sirocco_request_prompt_tokens", BOUNDS(count_bounds),
                               {"vllm:request_prompt_tokens", NULL}, "Prompt tokens per sequence."},
    [METRICS_GENERATION_TOKENS] = {"sirocco_request_generation_tokens", BOUNDS(count_bounds),
                                   {"vllm:request_generation_tokens", NULL},
                                   "Generated tokens per sequence."},
    [METRICS_LONGEST_TOKENS] = {"sirocco_request_max_num_generation_tokens", BOUNDS(count_bounds),
                                {"vllm:request_max_num_generation_tokens", NULL},
                                "Generated tokens of a request's longest sequence."},
    [METRICS_MAX_TOKENS] = {"sirocco_request_params_max_tokens", BOUNDS(count_bounds),
                            {"vllm:request_params_max_tokens", NULL},
                            "Tokens that a request let each of its sequences generate."},
};

struct histogram {
    uint64_t buckets[BUCKETS_MAX + 1]; /* not cumulative; the last one is above every bound */
    double sum;
};

struct metrics {
    bool vllm;
    struct engine *engine; /* NULL: no model yet */
    char labels[320];      /* of the vLLM names: model_name="...",engine="0" */
    char build[640];       /* labels of build_info */
    int n_count_bounds;    /* count_bounds in use: up to the model's length */
    int connections;
    int64_t prepare_bytes;
    uint64_t finished[REASONS];
    struct histogram histograms[METRICS_HISTOGRAM_COUNT];
    int n_routes;
    const char *routes[ROUTES_MAX];
    uint64_t http[ROUTES_MAX][STATUS_MAX - STATUS_MIN + 1];
};

struct metrics *metrics_open(bool compat_vllm)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    m->vllm = compat_vllm;
    m->n_count_bounds = (int)(sizeof count_bounds / sizeof count_bounds[0]);
    snprintf(m->build, sizeof m->build, "version=\"%s\"", SIROCCO_VERSION);
    snprintf(m->labels, sizeof m->labels, "model_name=\"\",engine=\"0\"");
    return m;
}

void metrics_close(struct metrics *m)
{
    free(m);
}

/* A label value with \, " and line ends escaped, cut to fit. */
static void label_escape(const char *text, char *out, size_t bytes)
{
    size_t n = 0;
    for (; *text != '\0' && n + 3 < bytes; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n')
            out[n++] = '\\';
        out[n++] = *text == '\n' ? 'n' : *text;
    }
    out[n] = '\0';
}

void metrics_attach(struct metrics *m, struct engine *engine, const char *model)
{
    const struct engine_info *info = engine_info(engine);
    char name[256], device[128], arch[64], quant[64];
    m->engine = engine;
    label_escape(model, name, sizeof name);
    label_escape(info->device, device, sizeof device);
    label_escape(info->arch, arch, sizeof arch);
    label_escape(info->quant, quant, sizeof quant);
    snprintf(m->labels, sizeof m->labels, "model_name=\"%s\",engine=\"0\"", name);
    snprintf(m->build, sizeof m->build,
             "version=\"%s\",model=\"%s\",arch=\"%s\",quant=\"%s\",device=\"%s\"", SIROCCO_VERSION,
             name, arch, quant, device);
    int n = 1;
    while (n < (int)(sizeof count_bounds / sizeof count_bounds[0]) &&
           count_bounds[n - 1] < info->max_model_len)
        n++;
    m->n_count_bounds = n;
}

/* ---- counting */

void metrics_http(struct metrics *m, const char *route, int status)
{
    int i = 0;
    while (i < m->n_routes && strcmp(m->routes[i], route) != 0)
        i++;
    if (i == ROUTES_MAX || status < STATUS_MIN || status > STATUS_MAX)
        return;
    if (i == m->n_routes)
        m->routes[m->n_routes++] = route;
    m->http[i][status - STATUS_MIN]++;
}

void metrics_finish(struct metrics *m, enum finish_reason reason)
{
    if ((int)reason >= 0 && (int)reason < REASONS)
        m->finished[reason]++;
}

static int histogram_bounds(const struct metrics *m, int which)
{
    const struct metrics_histogram_row *row = &histogram_table[which];
    return row->bounds == count_bounds ? m->n_count_bounds : row->n_bounds;
}

void metrics_observe(struct metrics *m, enum metrics_histogram which, double value)
{
    const double *bounds = histogram_table[which].bounds;
    int n = histogram_bounds(m, which), i = 0;
    if (!isfinite(value) || value < 0)
        return;
    while (i < n && value > bounds[i])
        i++;
    m->histograms[which].buckets[i < n ? i : BUCKETS_MAX]++;
    m->histograms[which].sum += value;
}

void metrics_connections(struct metrics *m, int open_now)
{
    m->connections = open_now;
}

void metrics_prepare_bytes(struct metrics *m, int64_t bytes_now)
{
    m->prepare_bytes = bytes_now;
}

/* ---- reading what others count */

static void values_from_process(struct metrics_values *v)
{
    char text[1024];
    double ticks = (double)sysconf(_SC_CLK_TCK);
    FILE *in = fopen("/proc/self/stat", "re"); /* proc(5); fields after the command's ')' */
    if (in != NULL) {
        size_t n = fread(text, 1, sizeof text - 1, in);
        text[n] = '\0';
        unsigned long long user, system, start, virtual;
        long rss;
        const char *p = strrchr(text, ')');
        if (p != NULL && sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu "
                                       "%*d %*d %*d %*d %*d %*d %llu %llu %ld",
                                &user, &system, &start, &virtual, &rss) == 5) {
            struct timespec boot, now;
            clock_gettime(CLOCK_BOOTTIME, &boot);
            clock_gettime(CLOCK_REALTIME, &now);
            v->cpu_seconds = (double)(user + system) / ticks;
            v->virtual_bytes = (double)virtual;
            v->rss_bytes = (double)rss * (double)sysconf(_SC_PAGESIZE);
            v->start_seconds = (double)(now.tv_sec - boot.tv_sec) + (double)start / ticks;
        }
        fclose(in);
    }
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL)
        return;
    while (readdir(dir) != NULL)
        v->open_files++;
    closedir(dir);
    v->open_files -= 3; /* ".", "..", and the folder's own */
}

static void values_from_engine(struct metrics_values *v, const struct engine_stats *s)
{
    v->running = s->running;
    v->waiting = s->waiting;
    v->paused = s->paused;
    v->kv_used = s->kv_blocks_used;
    v->kv_total = s->kv_blocks_total;
    v->kv_cached = s->kv_blocks_cached;
    v->kv_ratio = s->kv_blocks_total > 0 ? (double)s->kv_blocks_used / s->kv_blocks_total : 0;
    v->preemptions = (double)s->preemptions;
    v->prompt_tokens = (double)s->prompt_tokens;
    v->cached_tokens = (double)s->cached_tokens;
    v->generation_tokens = (double)s->output_tokens;
    v->prefix_queries = (double)s->prefix_queries;
    v->prefix_hits = (double)s->prefix_hits;
    v->prefix_ratio = v->prefix_queries > 0 ? v->prefix_hits / v->prefix_queries : 0;
    v->steps = (double)s->steps;
}

/* ---- writing */

static void write_number(struct buf *out, double value)
{
    if (value == floor(value) && fabs(value) < 9e15)
        buf_format(out, "%" PRId64, (int64_t)value);
    else
        buf_json_float(out, value);
}

static void write_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_value(struct buf *out, const struct metric *row, const char *name,
                        const char *labels, double value)
{
    write_head(out, name, row->kind == METRICS_COUNTER ? "counter" : "gauge", row->help);
    buf_text(out, name);
    if (labels != NULL)
        buf_format(out, "{%s}", labels);
    buf_byte(out, ' ');
    write_number(out, value);
    buf_byte(out, '\n');
}

static void write_histogram(struct buf *out, const char *name, const char *labels, const char *help,
                            const double *bounds, int n_bounds, const struct histogram *h)
{
    uint64_t count = 0;
    const char *more = labels != NULL ? labels : "", *comma = labels != NULL ? "," : "";
    write_head(out, name, "histogram", help);
    for (int i = 0; i < n_bounds; i++) {
        count += h->buckets[i];
        buf_format(out, "%s_bucket{%s%sle=\"", name, more, comma);
        buf_json_float(out, bounds[i]);
        buf_format(out, "\"} %" PRIu64 "\n", count);
    }
    count += h->buckets[BUCKETS_MAX];
    buf_format(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, more, comma, count);
    const char *open = labels != NULL ? "{" : "", *close = labels != NULL ? "}" : "";
    buf_format(out, "%s_sum%s%s%s ", name, open, more, close);
    write_number(out, h->sum);
    buf_format(out, "\n%s_count%s%s%s %" PRIu64 "\n", name, open, more, close, count);
}

static void write_finished(struct buf *out, const struct metrics *m, const char *name,
                           const char *labels)
{
    static const struct {
        enum finish_reason reason;
        const char *label;
    } reasons[] = {{FINISH_STOP, "stop"},
                   {FINISH_LENGTH, "length"},
                   {FINISH_CANCELLED, "abort"},
                   {FINISH_ERROR, "error"}};
    write_head(out, name, "counter", "Finished sequences by reason.");
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        buf_format(out, "%s{%s%sfinished_reason=\"%s\"} %" PRIu64 "\n", name,
                   labels != NULL ? labels : "", labels != NULL ? "," : "", reasons[i].label,
                   m->finished[reasons[i].reason]);
}

static void write_http(struct buf *out, const struct metrics *m)
{
    write_head(out, "sirocco_http_requests_total", "counter", "Finished HTTP requests.");
    for (int i = 0; i < m->n_routes; i++)
        for (int j = 0; j <= STATUS_MAX - STATUS_MIN; j++)
            if (m->http[i][j] > 0)
                buf_format(out,
                           "sirocco_http_requests_total{route=\"%s\",status=\"%d\"} %" PRIu64 "\n",
                           m->routes[i], j + STATUS_MIN, m->http[i][j]);
}

/* vLLM's names of the same values, and its cache_config_info. */
static void write_vllm(struct buf *out, const struct metrics *m, const struct metrics_values *v,
                       const struct histogram *steps)
{
    for (size_t i = 0; i < sizeof metric_table / sizeof metric_table[0]; i++)
        for (int j = 0; j < 2 && metric_table[i].vllm[j] != NULL; j++)
            write_value(out, &metric_table[i], metric_table[i].vllm[j], m->labels,
                        *(const double *)((const char *)v + metric_table[i].offset));
    for (int i = 0; i < METRICS_HISTOGRAM_COUNT; i++)
        for (int j = 0; j < 2 && histogram_table[i].vllm[j] != NULL; j++)
            write_histogram(out, histogram_table[i].vllm[j], m->labels, histogram_table[i].help,
                            histogram_table[i].bounds, histogram_bounds(m, i), &m->histograms[i]);
    write_histogram(out, "vllm:iteration_tokens_total", m->labels, "Tokens per step.", step_bounds,
                    ENGINE_STEP_BUCKETS, steps);
    write_finished(out, m, "vllm:request_success_total", m->labels);
    if (m->engine == NULL)
        return;
    const struct engine_info *info = engine_info(m->engine);
    write_head(out, "vllm:cache_config_info", "gauge", "The KV cache's configuration.");
    buf_format(out,
               "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%d\","
               "cache_dtype=\"%s\"} 1\n",
               m->labels, info->block_size, info->n_blocks, info->kv_type);
}

int metrics_write(struct metrics *m, struct buf *out)
{
    struct metrics_values v = {.connections = m->connections,
                               .prepare_bytes = (double)m->prepare_bytes,
                               .log_lost = (double)log_lost()};
    struct engine_stats stats = {0};
    struct histogram steps = {0};
    if (m->engine != NULL)
        engine_stats(m->engine, &stats);
    values_from_engine(&v, &stats);
    values_from_process(&v);
    uint64_t below = 0;
    for (int i = 0; i < ENGINE_STEP_BUCKETS; i++) {
        steps.buckets[i] = stats.step_tokens_bucket[i];
        below += stats.step_tokens_bucket[i];
    }
    steps.buckets[BUCKETS_MAX] = stats.steps > below ? stats.steps - below : 0;
    steps.sum = (double)stats.step_tokens_sum;
    write_head(out, "sirocco_build_info", "gauge", "What is running.");
    buf_format(out, "sirocco_build_info{%s} 1\n", m->build);
    for (size_t i = 0; i < sizeof metric_table / sizeof metric_table[0]; i++)
        write_value(out, &metric_table[i], metric_table[i].name, NULL,
                    *(const double *)((const char *)&v + metric_table[i].offset));
    for (int i = 0; i < METRICS_HISTOGRAM_COUNT; i++)
        write_histogram(out, histogram_table[i].name, NULL, histogram_table[i].help,
                        histogram_table[i].bounds, histogram_bounds(m, i), &m->histograms[i]);
    write_histogram(out, "sirocco_iteration_tokens_total", NULL, "Tokens per step.", step_bounds,
                    ENGINE_STEP_BUCKETS, &steps);
    write_finished(out, m, "sirocco_request_success_total", NULL);
    write_http(out, m);
    if (m->vllm)
        write_vllm(out, m, &v, &steps);
    return out->failed;
}
