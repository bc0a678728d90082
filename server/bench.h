/* bench: what the files of `sirocco bench` share: cmd_bench.c (options, engine, the tests of one
 * batch), bench_load.c (a load of requests), bench_report.c (what is printed). One thread. */
#ifndef SIROCCO_BENCH_H
#define SIROCCO_BENCH_H

#include <stdio.h>

#include "engine/engine.h"

enum {
    BENCH_TESTS_MAX = 32,
    BENCH_REPEAT_MAX = 100,
    BENCH_TOKENS_MAX = 1 << 20,
    BENCH_REQUESTS_MAX = 1 << 16,
    BENCH_SEQS_MAX = 1024,
};

/* A load: n_requests of random prompts, greedy, that end after exactly `generate` tokens. */
struct bench_load {
    int n_requests, prompt, generate;
    int concurrency; /* so many under way, one ends: the next is submitted; 0: all at once */
    double rate;     /* > 0: arrivals per second instead, a Poisson process */
    uint64_t seed;   /* of prompts and arrivals */
    int first;       /* number of the first request, which its prompt follows from */
};

struct bench_times { /* milliseconds */
    double p50, p95, p99, max;
};

struct bench_load_result {
    double seconds;                      /* from the first submit to the last token */
    double output_rate, total_rate, request_rate; /* per second; total: prompts and outputs */
    struct bench_times first_token; /* since the request was submitted, or was to arrive */
    struct bench_times gap; /* between two tokens of a request, as its reader sees it */
    double stall;                        /* the longest gap in medians of all gaps */
    int64_t n_stalls;                    /* gaps longer than one and a half medians */
    uint64_t n_steps, n_preemptions;
    int blocks_peak;                     /* of the KV cache */
};

struct bench_test {
    char name[64];
    int n_seqs, prompt, generate;
    enum { BENCH_PROMPT, BENCH_GENERATE, BENCH_MANY, BENCH_LOAD } kind;
    double rates[BENCH_REPEAT_MAX]; /* tokens per second, sorted when the test is done */
    int n_rates;
    struct bench_load load;
    struct bench_load_result loaded; /* of the run whose rate is the median */
};

struct bench {
    struct engine *engine;
    int wake; /* eventfd that the engine writes when events wait */
    struct bench_test tests[BENCH_TESTS_MAX];
    int n_tests;
    double ready_seconds; /* from the start to the open engine, its limits' measurement included */
    uint64_t random;
};

double bench_now(void); /* seconds, monotonic */

/* n random tokens of the engine's vocabulary; *random, not 0, moves on. */
void bench_prompt(const struct engine *e, uint64_t *random, int32_t *tokens, int n);

/* A greedy request that ends after exactly `generate` tokens. */
struct engine_request bench_request(const int32_t *tokens, int n, int generate);

/* Run a load once. name: of the progress bar; NULL: none. Every request is held to exactly its
 * tokens, each of the vocabulary, and to what the engine says of it. tokens: NULL, or receives all
 * [n_requests][generate] of them. Errors: what a request failed with, ERR_INTERNAL for one that got
 * anything else than its tokens, ERR_NOMEM; no request is left in the engine. */
int bench_load_run(const struct bench *b, const struct bench_load *load, const char *name,
                   int32_t *tokens, struct bench_load_result *out, struct err *err);

/* n_alone requests of the load once more, one at a time, spread over it: ERR_INTERNAL where one's
 * tokens are not those that it got in company. */
int bench_load_verify(const struct bench *b, const struct bench_load *load, int n_alone,
                      const int32_t *tokens, struct err *err);

double bench_report_median(const struct bench_test *t); /* of its rates */
void bench_report_json(const struct bench *b, FILE *out);
void bench_report_csv(const struct bench *b, FILE *out);
void bench_report_table(const struct bench *b, FILE *out);

#endif
