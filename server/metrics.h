/* metrics: THE TABLE of metrics, what the loop counts, and the Prometheus text exposition (format
 * 0.0.4). Loop thread only; what the engine counts is read from its snapshot when written. */
#ifndef SIROCCO_METRICS_H
#define SIROCCO_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/engine.h"

enum metrics_histogram {
    METRICS_TTFT,          /* seconds from submit to the first token */
    METRICS_ITL,           /* seconds between two tokens of one sequence */
    METRICS_TPOT,          /* seconds per output token after the first, per request */
    METRICS_E2E,           /* seconds from submit to the end */
    METRICS_QUEUE,         /* seconds from submit to the first step */
    METRICS_PREFILL,       /* ... from there to the first token */
    METRICS_DECODE,        /* ... from there to the end */
    METRICS_INFERENCE,     /* both of these */
    METRICS_PROMPT_TOKENS, /* per sequence */
    METRICS_GENERATION_TOKENS,
    METRICS_LONGEST_TOKENS, /* generated in the longest sequence of a request */
    METRICS_MAX_TOKENS,     /* that a sequence was allowed by its request */
    METRICS_HISTOGRAM_COUNT
};

struct metrics;

/* compat_vllm: write vLLM's names too. Returns NULL when out of memory. */
struct metrics *metrics_open(bool compat_vllm);
void metrics_close(struct metrics *m); /* NULL allowed */

/* The model is loaded: engine's snapshot is written from now on, under model's name (borrowed). */
void metrics_attach(struct metrics *m, struct engine *engine, const char *model);

void metrics_http(struct metrics *m, const char *route, int status); /* one answered request */
void metrics_finish(struct metrics *m, enum finish_reason reason);   /* one finished sequence */
void metrics_observe(struct metrics *m, enum metrics_histogram which, double value);
void metrics_connections(struct metrics *m, int open_now);
void metrics_prepare_bytes(struct metrics *m, int64_t bytes_now);

/* Append the whole exposition. 0 or the buffer's failure. */
int metrics_write(struct metrics *m, struct buf *out);

#endif
