/* Tests of server/metrics.c: the exposition is well-formed, and what is counted is written. The
 * engine is a stand-in with a fixed snapshot. */
#include "server/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static struct buf written(struct metrics *m)
{
    struct buf out;
    buf_init(&out, 0);
    EXPECT_INT(metrics_write(m, &out), 0);
    return out;
}

/* The value of the line that begins with `name` and a space; NaN-free: -1 when absent. */
static double value(const struct buf *out, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = out->data; p != NULL; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (strncmp(p, name, n) == 0 && p[n] == ' ')
            return strtod(p + n + 1, NULL);
    }
    return -1;
}

/* Every line is a HELP, a TYPE right behind it, or a sample of the family last announced; no family
 * twice; buckets rise and end in +Inf equal to _count. */
static void expect_well_formed(const struct buf *out)
{
    static char seen[200][80];
    int n_seen = 0;
    char family[80] = "", type[16] = "";
    double last = 0;
    char *text = strdup(out->data);
    EXPECT(text[out->size - 1] == '\n');
    char *left = text;
    for (char *line; (line = strsep(&left, "\n")) != NULL && *line != '\0';) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            EXPECT_INT(sscanf(line + 7, "%79s", family), 1);
            for (int i = 0; i < n_seen; i++)
                EXPECT(strcmp(seen[i], family) != 0);
            strncpy(seen[n_seen++], family, sizeof seen[0] - 1);
            last = 0;
            continue;
        }
        if (strncmp(line, "# TYPE ", 7) == 0) {
            char name[80];
            EXPECT_INT(sscanf(line + 7, "%79s %15s", name, type), 2);
            EXPECT_STR(name, family);
            continue;
        }
        EXPECT(strncmp(line, family, strlen(family)) == 0);
        const char *end = strrchr(line, ' ');
        char *rest;
        double v = strtod(end + 1, &rest);
        EXPECT(rest != end + 1 && *rest == '\0');
        if (strcmp(type, "histogram") == 0) {
            const char *suffix = line + strlen(family);
            EXPECT(strncmp(suffix, "_bucket{", 8) == 0 || strncmp(suffix, "_sum", 4) == 0 ||
                   strncmp(suffix, "_count", 6) == 0);
            if (strncmp(suffix, "_bucket{", 8) == 0) {
                EXPECT(v >= last);
                last = v;
            } else if (strncmp(suffix, "_count", 6) == 0) {
                EXPECT_INT((long long)v, (long long)last);
            }
        } else {
            EXPECT(line[strlen(family)] == ' ' || line[strlen(family)] == '{');
        }
    }
    free(text);
}

TEST(exposition_is_well_formed)
{
    for (int vllm = 0; vllm < 2; vllm++) {
        struct metrics *m = metrics_open(vllm);
        metrics_http(m, "chat", 200);
        metrics_observe(m, METRICS_TTFT, 0.03);
        metrics_observe(m, METRICS_PROMPT_TOKENS, 1e9);
        struct buf out = written(m);
        expect_well_formed(&out);
        EXPECT_INT(strstr(out.data, "vllm:") != NULL, vllm);
        buf_free(&out);
        metrics_close(m);
    }
}

TEST(counts_and_histograms)
{
    struct metrics *m = metrics_open(true);
    metrics_http(m, "chat", 200);
    metrics_http(m, "chat", 200);
    metrics_http(m, "other", 404);
    metrics_http(m, "other", 99999);
    metrics_finish(m, FINISH_STOP);
    metrics_finish(m, FINISH_CANCELLED);
    metrics_observe(m, METRICS_TTFT, 0.001); /* a bound is in its own bucket */
    metrics_observe(m, METRICS_TTFT, 0.0011);
    metrics_observe(m, METRICS_TTFT, 1e6);
    metrics_observe(m, METRICS_TTFT, -1); /* not a duration */
    struct buf out = written(m);
    EXPECT_INT(value(&out, "sirocco_http_requests_total{route=\"chat\",status=\"200\"}"), 2);
    EXPECT_INT(value(&out, "sirocco_http_requests_total{route=\"other\",status=\"404\"}"), 1);
    EXPECT_INT(value(&out, "sirocco_request_success_total{finished_reason=\"stop\"}"), 1);
    EXPECT_INT(value(&out, "sirocco_request_success_total{finished_reason=\"abort\"}"), 1);
    EXPECT_INT(value(&out, "sirocco_time_to_first_token_seconds_bucket{le=\"0.001\"}"), 1);
    EXPECT_INT(value(&out, "sirocco_time_to_first_token_seconds_bucket{le=\"0.005\"}"), 2);
    EXPECT_INT(value(&out, "sirocco_time_to_first_token_seconds_bucket{le=\"2560\"}"), 2);
    EXPECT_INT(value(&out, "sirocco_time_to_first_token_seconds_bucket{le=\"+Inf\"}"), 3);
    EXPECT_INT(value(&out, "sirocco_time_to_first_token_seconds_count"), 3);
    EXPECT_NEAR(value(&out, "sirocco_time_to_first_token_seconds_sum"), 1000000.0021, 1e-6);
    EXPECT_INT(value(&out, "vllm:request_success_total{model_name=\"\",engine=\"0\","
                           "finished_reason=\"stop\"}"), 1);
    buf_free(&out);
    metrics_close(m);
}

TEST(process_values_are_real)
{
    struct metrics *m = metrics_open(false);
    struct buf out = written(m);
    EXPECT(value(&out, "process_resident_memory_bytes") > 100000);
    EXPECT(value(&out, "process_open_fds") >= 3);
    EXPECT(value(&out, "process_start_time_seconds") > 1.6e9);
    EXPECT(value(&out, "process_cpu_seconds_total") >= 0);
    buf_free(&out);
    metrics_close(m);
}
