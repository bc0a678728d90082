/* bench_load: requests through the scheduler as a server gets them, without HTTP: they queue, are
 * admitted, share steps, give way, and one reader takes all their events.
 *
 * One thread beside the engine's; it sleeps on the eventfd that the engine's wake writes, and until
 * the next arrival. Times are the reader's: what is read in one wake came at the same time. Of
 * arrivals by the clock, a request's time counts from when it was to arrive, however late the
 * reader was to submit it. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/size.h"
#include "server/bench.h"
#include "server/cmd.h"

static const double stall_medians = 1.5;

struct load_request {
    struct channel *channel; /* NULL: not submitted, or over */
    double start, last;      /* seconds: to arrive or submitted, last token */
    int n_tokens;
};

struct load_run {
    const struct bench *b;
    const struct bench_load *load;
    const char *name;
    struct load_request *requests;
    int32_t *prompt, *tokens; /* tokens: NULL or [n_requests][generate] */
    double *firsts, *gaps;    /* milliseconds */
    size_t n_firsts, n_gaps;
    int n_submitted, n_live;
    double start, end, next_arrival;
    uint64_t random; /* of arrivals */
    int blocks_peak;
    struct err failure; /* the first; then nothing more is submitted */
};

/* ---- submit */

static uint64_t mix(uint64_t seed, uint64_t i) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) | 1;
}

/* Seconds to the next arrival of a Poisson process: exponential, by inversion. */
static double next_interval(struct load_run *r)
{
    double uniform = (double)(mix(r->random++, 0) >> 11) * 0x1p-53;
    return -log1p(-uniform) / r->load->rate;
}

/* A request's prompt depends on the seed and on its number alone. */
static int submit(struct load_run *r, struct load_request *request)
{
    const struct bench_load *load = r->load;
    uint64_t random = mix(load->seed, (uint64_t)(load->first + r->n_submitted));
    bench_prompt(r->b->engine, &random, r->prompt, load->prompt);
    struct engine_request asked = bench_request(r->prompt, load->prompt, load->generate);
    return engine_submit(r->b->engine, &asked, request, &request->channel, &r->failure);
}

static bool may_submit(const struct load_run *r, double now)
{
    if (r->failure.code || r->n_submitted == r->load->n_requests)
        return false;
    if (r->load->rate > 0)
        return now >= r->next_arrival;
    return r->load->concurrency == 0 || r->n_live < r->load->concurrency;
}

static void submit_due(struct load_run *r)
{
    for (double now; may_submit(r, now = bench_now());) {
        struct load_request *request = &r->requests[r->n_submitted];
        request->start = r->load->rate > 0 ? r->next_arrival : now;
        if (submit(r, request))
            return;
        r->n_submitted++;
        r->n_live++;
        if (r->load->rate > 0)
            r->next_arrival += next_interval(r);
    }
}

/* ---- take */

static int number_of(const struct load_run *r, const struct load_request *request)
{
    return (int)(request - r->requests);
}

static void take_token(struct load_run *r, struct load_request *request, int32_t token, double now)
{
    int number = number_of(r, request);
    if (token < 0 || token >= engine_info(r->b->engine)->vocab_size ||
        request->n_tokens == r->load->generate) {
        if (!r->failure.code)
            err_set(&r->failure, ERR_INTERNAL, "request %d: token %d, id %d, is not one of its %d",
                    number, request->n_tokens + 1, token, r->load->generate);
        return;
    }
    if (r->tokens)
        r->tokens[(size_t)number * (size_t)r->load->generate + (size_t)request->n_tokens] = token;
    if (request->n_tokens++ == 0)
        r->firsts[r->n_firsts++] = (now - request->start) * 1e3;
    else
        r->gaps[r->n_gaps++] = (now - request->last) * 1e3;
    request->last = now;
}

static void end(struct load_run *r, struct load_request *request, const struct event *event)
{
    const struct engine_usage *usage = &event->usage;
    bool whole = event->kind == EVENT_DONE && event->finish == FINISH_LENGTH &&
                 request->n_tokens == r->load->generate &&
                 usage->output_tokens == r->load->generate &&
                 usage->prompt_tokens == r->load->prompt;
    if (event->kind == EVENT_FAILED && !r->failure.code)
        err_set(&r->failure, event->error, "request %d: %s", number_of(r, request),
                event->error_text);
    else if (!whole && !r->failure.code)
        err_set(&r->failure, ERR_INTERNAL,
                "request %d ended with %d of %d tokens (the engine counts %d, behind %d of %d)",
                number_of(r, request), request->n_tokens, r->load->generate, usage->output_tokens,
                usage->prompt_tokens, r->load->prompt);
    engine_release(request->channel);
    request->channel = NULL;
    r->n_live--;
}

static void take(struct load_run *r)
{
    void *user;
    struct event event;
    struct engine_stats stats;
    double now = bench_now();
    engine_stats(r->b->engine, &stats);
    if (stats.kv_blocks_used > r->blocks_peak)
        r->blocks_peak = stats.kv_blocks_used;
    for (struct channel *c; (c = engine_poll(r->b->engine, &user)) != NULL;) {
        struct load_request *request = user;
        while (request->channel && engine_next(c, &event)) {
            if (event.kind == EVENT_TOKEN)
                take_token(r, request, event.token, now);
            else
                end(r, request, &event);
        }
    }
    r->end = now;
}

/* Sleep until events wait or the next request is due. */
static int wait_for_more(const struct load_run *r, struct err *err)
{
    struct pollfd fd = {.fd = r->b->wake, .events = POLLIN};
    struct timespec left, *timeout = NULL;
    uint64_t count;
    if (r->load->rate > 0 && r->n_submitted < r->load->n_requests && !r->failure.code) {
        double seconds = r->next_arrival - bench_now();
        seconds = seconds > 0 ? seconds : 0;
        left.tv_sec = (time_t)seconds;
        left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
        timeout = &left;
    }
    if (ppoll(&fd, 1, timeout, NULL) < 0 && errno != EINTR)
        return err_set(err, ERR_IO, "ppoll: %s", strerror(errno));
    if ((fd.revents & POLLIN) && read(r->b->wake, &count, sizeof count) < 0 && errno != EINTR)
        return err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
    return 0;
}

static void cancel_all(struct load_run *r)
{
    for (int i = 0; i < r->n_submitted; i++)
        if (r->requests[i].channel)
            engine_cancel(r->requests[i].channel);
}

static void show_progress(const struct load_run *r, double *shown)
{
    double now = bench_now();
    if (!r->name || now - *shown < 0.1)
        return;
    *shown = now;
    cmd_progress(r->name, (double)(r->n_firsts + r->n_gaps) /
                              ((double)r->load->n_requests * r->load->generate));
}

static int drive(struct load_run *r, struct err *err)
{
    double shown = 0;
    bool cancelled = false;
    r->start = r->end = bench_now();
    r->next_arrival = r->start;
    submit_due(r);
    while (r->n_live || (!r->failure.code && r->n_submitted < r->load->n_requests)) {
        struct err broken;
        if (wait_for_more(r, &broken) && !r->failure.code)
            r->failure = broken;
        take(r);
        submit_due(r);
        if (r->failure.code && !cancelled) {
            cancel_all(r);
            cancelled = true;
        }
        show_progress(r, &shown);
    }
    if (r->name)
        cmd_progress(NULL, 0);
    return r->failure.code ? err_set(err, r->failure.code, "%s", r->failure.text) : 0;
}

/* ---- figures */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank; sorts. Zeros without values. */
static struct bench_times times_of(double *values, size_t n)
{
    if (!n)
        return (struct bench_times){0, 0, 0, 0};
    qsort(values, n, sizeof *values, compare_doubles);
    return (struct bench_times){.p50 = values[(n - 1) / 2],
                                .p95 = values[(size_t)ceil(0.95 * (double)n) - 1],
                                .p99 = values[(size_t)ceil(0.99 * (double)n) - 1],
                                .max = values[n - 1]};
}

static void summarize(struct load_run *r, const struct engine_stats *before,
                      struct bench_load_result *out)
{
    const struct bench_load *load = r->load;
    struct engine_stats after;
    double n = load->n_requests, seconds = r->end - r->start;
    engine_stats(r->b->engine, &after);
    *out = (struct bench_load_result){
        .seconds = seconds,
        .output_rate = n * load->generate / seconds,
        .total_rate = n * ((double)load->prompt + load->generate) / seconds,
        .request_rate = n / seconds,
        .first_token = times_of(r->firsts, r->n_firsts),
        .gap = times_of(r->gaps, r->n_gaps),
        .n_steps = after.steps - before->steps,
        .n_preemptions = after.preemptions - before->preemptions,
        .blocks_peak = r->blocks_peak,
    };
    if (out->gap.p50 > 0)
        out->stall = out->gap.max / out->gap.p50;
    for (size_t i = 0; i < r->n_gaps; i++)
        out->n_stalls += r->gaps[i] > stall_medians * out->gap.p50;
}

int bench_load_run(const struct bench *b, const struct bench_load *load, const char *name,
                   int32_t *tokens, struct bench_load_result *out, struct err *err)
{
    struct engine_stats before;
    struct load_run r = {.b = b, .load = load, .name = name, .tokens = tokens,
                         .random = mix(load->seed, UINT32_MAX)};
    size_t n = (size_t)load->n_requests, all;
    bool fits = size_mul(n, (size_t)load->generate, &all) && all <= SIZE_MAX / sizeof(double);
    r.requests = calloc(n, sizeof *r.requests);
    r.prompt = calloc((size_t)load->prompt, sizeof *r.prompt);
    r.firsts = calloc(n, sizeof *r.firsts);
    r.gaps = fits ? malloc(all * sizeof *r.gaps) : NULL;
    int rc = 0;
    if (r.requests && r.prompt && r.firsts && r.gaps) {
        engine_stats(b->engine, &before);
        rc = drive(&r, err);
        if (!rc)
            summarize(&r, &before, out);
    } else {
        rc = err_set(err, ERR_NOMEM, "out of memory for %d requests", load->n_requests);
    }
    free(r.requests);
    free(r.prompt);
    free(r.firsts);
    free(r.gaps);
    return rc;
}

int bench_load_verify(const struct bench *b, const struct bench_load *load, int n_alone,
                      const int32_t *tokens, struct err *err)
{
    size_t generate = (size_t)load->generate;
    int32_t *alone = malloc(generate * sizeof *alone);
    int rc = alone ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_alone && !rc; i++) {
        int number = (int)((int64_t)i * load->n_requests / n_alone);
        struct bench_load one = *load;
        struct bench_load_result ignored;
        one.n_requests = 1;
        one.first = load->first + number;
        one.rate = 0;
        rc = bench_load_run(b, &one, NULL, alone, &ignored, err);
        for (size_t k = 0; k < generate && !rc; k++) {
            int32_t company = tokens[(size_t)number * generate + k];
            if (alone[k] != company)
                rc = err_set(err, ERR_INTERNAL,
                             "request %d alone: token %zu is %d, in company it was %d", number,
                             k + 1, alone[k], company);
        }
    }
    free(alone);
    return rc;
}
