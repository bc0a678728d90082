/* bench_report: the figures of `sirocco bench` as a table, CSV or one JSON object. Pure functions
 * of what was measured; written once, at the end. */
#include <string.h>

#include "engine/base/buf.h"
#include "server/bench.h"

/* ---- figures */

double bench_report_median(const struct bench_test *t)
{
    int half = t->n_rates / 2;
    return t->n_rates % 2 ? t->rates[half] : (t->rates[half - 1] + t->rates[half]) / 2;
}

/* Weights read per second where every token reads them once; else 0. */
static double bytes_rate(const struct engine_info *info, const struct bench_test *t)
{
    if (t->kind != BENCH_GENERATE)
        return 0;
    return bench_report_median(t) * (info->layers_bytes + info->head_bytes);
}

/* Operations of matrix products per second. A prompt's only logits are those of its last token; in
 * a test of many sequences each generated token stands for its share of the prompt. */
static double operations_rate(const struct engine_info *info, const struct bench_test *t)
{
    double layers = 1, head = 1;
    if (t->kind == BENCH_PROMPT)
        head = 1.0 / t->prompt;
    else if (t->kind != BENCH_GENERATE)
        layers = 1 + (t->prompt - 1.0) / t->generate;
    return bench_report_median(t) *
           (layers * info->layers_operations + head * info->head_operations);
}

/* Share of what the machine reaches: of memory's speed for generation, else of the multiply-adds;
 * 0: the device does not measure itself. */
static double limit_share(const struct engine_info *info, const struct bench_test *t)
{
    if (!info->limit_instruction)
        return 0;
    if (t->kind == BENCH_GENERATE)
        return bytes_rate(info, t) / info->limit_read_bytes;
    return operations_rate(info, t) / info->limit_operations;
}

static double peak_bytes(const struct engine_info *info, const struct bench_load_result *r)
{
    return (double)r->blocks_peak * info->block_size * (double)info->kv_bytes_per_token;
}

static bool any_load(const struct bench *b)
{
    for (int i = 0; i < b->n_tests; i++)
        if (b->tests[i].kind == BENCH_LOAD)
            return true;
    return false;
}

/* ---- JSON */

static void write_times(const char *name, const struct bench_times *t, FILE *out)
{
    fprintf(out, ",\"%s\":{\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, t->p50,
            t->p95, t->p99, t->max);
}

static void write_load_json(const struct engine_info *info, const struct bench_test *t, FILE *out)
{
    const struct bench_load_result *r = &t->loaded;
    fprintf(out,
            ",\"requests\":%d,\"concurrency\":%d,\"rate\":%g,\"seconds\":%.6f,"
            "\"requests_per_s\":%.4f,\"total_tokens_per_s\":%.3f",
            t->load.n_requests, t->load.concurrency, t->load.rate, r->seconds, r->request_rate,
            r->total_rate);
    write_times("ttft_ms", &r->first_token, out);
    write_times("itl_ms", &r->gap, out);
    fprintf(out,
            ",\"stall_steps\":%.3f,\"stalls\":%lld,\"steps\":%llu,\"preemptions\":%llu,"
            "\"kv_blocks_peak\":%d,\"kv_blocks\":%d,\"kv_bytes_peak\":%.0f",
            r->stall, (long long)r->n_stalls, (unsigned long long)r->n_steps,
            (unsigned long long)r->n_preemptions, r->blocks_peak, info->n_blocks,
            peak_bytes(info, r));
}

void bench_report_json(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    struct buf name;
    buf_init(&name, 0);
    buf_json_string(&name, info->model_name, strlen(info->model_name));
    fprintf(out,
            "{\"model\":%s,\"arch\":\"%s\",\"quant\":\"%s\",\"device\":\"%s\","
            "\"parameters\":%lld,\"weight_bytes\":%lld,\"kv_type\":\"%s\",\"repeat\":%d,"
            "\"ready_s\":%.3f,\"limits\":",
            name.data ? name.data : "null", info->arch, info->quant, info->device,
            (long long)info->n_parameters, (long long)info->weight_bytes, info->kv_type,
            b->n_tests ? b->tests[0].n_rates : 0, b->ready_seconds);
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
                "\"gb_per_s\":%.2f,\"gflop_per_s\":%.1f,\"limit_share\":%.4f",
                i ? "," : "", t->name, bench_report_median(t), t->rates[0],
                t->rates[t->n_rates - 1], bytes_rate(info, t) * 1e-9,
                operations_rate(info, t) * 1e-9, limit_share(info, t));
        if (t->kind == BENCH_LOAD)
            write_load_json(info, t, out);
        fprintf(out, "}");
    }
    fprintf(out, "]}\n");
    buf_free(&name);
}

/* ---- CSV: the machine's columns are equal in all rows; a load's are there when there is one */

void bench_report_csv(const struct bench *b, FILE *out)
{
    bool loads = any_load(b);
    const struct engine_info *info = engine_info(b->engine);
    fprintf(out, "test,tokens_per_s,min,max,ready_s,read_gb_per_s,gflop_per_s%s\n",
            loads ? ",total_tokens_per_s,ttft_ms_p50,ttft_ms_p95,ttft_ms_p99,itl_ms_p50,itl_ms_p95,"
                    "itl_ms_p99,itl_ms_max,stall_steps,stalls,preemptions,kv_blocks_peak"
                  : "");
    for (int i = 0; i < b->n_tests; i++) {
        const struct bench_test *t = &b->tests[i];
        const struct bench_load_result *r = &t->loaded;
        fprintf(out, "%s,%.3f,%.3f,%.3f,%.3f,", t->name, bench_report_median(t), t->rates[0],
                t->rates[t->n_rates - 1], b->ready_seconds);
        if (info->limit_instruction)
            fprintf(out, "%.2f,%.1f", info->limit_read_bytes * 1e-9, info->limit_operations * 1e-9);
        else
            fprintf(out, ",");
        if (t->kind == BENCH_LOAD)
            fprintf(out, ",%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%lld,%llu,%d",
                    r->total_rate, r->first_token.p50, r->first_token.p95, r->first_token.p99,
                    r->gap.p50, r->gap.p95, r->gap.p99, r->gap.max, r->stall,
                    (long long)r->n_stalls, (unsigned long long)r->n_preemptions, r->blocks_peak);
        else if (loads)
            fprintf(out, ",,,,,,,,,,,,");
        fprintf(out, "\n");
    }
}

/* ---- the table: of the tests of one batch, then of the loads */

static void write_load_rows(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    fprintf(out, "\n%-26s %10s %10s %22s %22s %7s %7s %8s %9s\n", "load", "output/s", "total/s",
            "TTFT p50/p95/p99 ms", "gap p50/p95/p99 ms", "longest", "stalls", "preempt.",
            "KV peak");
    for (int i = 0; i < b->n_tests; i++) {
        const struct bench_test *t = &b->tests[i];
        const struct bench_load_result *r = &t->loaded;
        char first[64], gap[64];
        if (t->kind != BENCH_LOAD)
            continue;
        snprintf(first, sizeof first, "%.1f/%.1f/%.1f", r->first_token.p50, r->first_token.p95,
                 r->first_token.p99);
        snprintf(gap, sizeof gap, "%.2f/%.2f/%.2f", r->gap.p50, r->gap.p95, r->gap.p99);
        fprintf(out, "%-26s %10.1f %10.1f %22s %22s %6.2fx %7lld %8llu %5.0f MiB\n", t->name,
                bench_report_median(t), r->total_rate, first, gap, r->stall,
                (long long)r->n_stalls, (unsigned long long)r->n_preemptions,
                peak_bytes(info, r) / (1 << 20));
    }
    fprintf(out, "\nlongest: the longest time between two tokens of a request, in medians; stalls: "
                 "how many were\nlonger than 1.5. Every request got exactly its tokens.\n");
}

static void write_test_rows(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    fprintf(out, "\n%-20s %12s %10s %10s %8s %9s %7s\n", "test", "tokens/s", "min", "max", "GB/s",
            "GFLOP/s", "limit");
    for (int i = 0; i < b->n_tests; i++) {
        const struct bench_test *t = &b->tests[i];
        if (t->kind == BENCH_LOAD)
            continue;
        fprintf(out, "%-20s %12.2f %10.2f %10.2f", t->name, bench_report_median(t), t->rates[0],
                t->rates[t->n_rates - 1]);
        if (t->kind == BENCH_GENERATE)
            fprintf(out, " %8.1f", bytes_rate(info, t) * 1e-9);
        else
            fprintf(out, " %8s", "");
        fprintf(out, " %9.0f", operations_rate(info, t) * 1e-9);
        if (info->limit_instruction)
            fprintf(out, " %6.0f%%", limit_share(info, t) * 100);
        fprintf(out, "\n");
    }
}

void bench_report_table(const struct bench *b, FILE *out)
{
    const struct engine_info *info = engine_info(b->engine);
    bool others = false;
    for (int i = 0; i < b->n_tests; i++)
        others |= b->tests[i].kind != BENCH_LOAD;
    fprintf(out, "%s: %s, %.1f million parameters, %s, on %s, KV cache %s\n", info->model_name,
            info->arch, (double)info->n_parameters * 1e-6, info->quant, info->device,
            info->kv_type);
    if (info->limit_instruction)
        fprintf(out, "this machine: %.1f GB/s read, %.0f GFLOP/s of %s\n",
                info->limit_read_bytes * 1e-9, info->limit_operations * 1e-9,
                info->limit_instruction);
    if (others)
        write_test_rows(b, out);
    if (any_load(b))
        write_load_rows(b, out);
}
