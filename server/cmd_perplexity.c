/* cmd_perplexity: `sirocco perplexity`: how well a model predicts a text, and how far its
 * predictions are from those of a reference. One thread, beside the devices' own; all state is one
 * struct of a call.
 *
 * The text is cut into chunks that do not overlap; each is a sequence of its own, its first token
 * replaced by BOS where the tokenizer adds one, and its second half is scored, so that every
 * prediction sees half a chunk or more. (Perplexity: Jelinek et al. 1977; the divergence: Kullback
 * and Leibler 1951.) Standard errors are those of a mean of independent values. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/evaluate.h"
#include "server/cmd.h"

enum { CHUNK_STANDARD = 512, CHUNK_MIN = 8, CHUNK_MAX = 1 << 16, TEXT_MAX = 1 << 30 };

const char cmd_perplexity_usage[] =
    "usage: sirocco perplexity MODEL TEXT [options]\n\n"
    "How well the model MODEL predicts the file TEXT, with the standard error; with --kl also how\n"
    "far its predictions are from those of a reference: mean, percentiles and maximum of the KL\n"
    "divergence over tokens, and how often both like the same token best. Chunks of the text are\n"
    "sequences of their own; the second half of each is scored.\n\n"
    "  --kl REF                the reference, a model with the same vocabulary\n"
    "  --quant TYPE            quantize MODEL (not REF) while loading, as `sirocco quantize` does\n"
    "  --context N             tokens per chunk (512, or the text's half if that is less)\n"
    "  --chunks N              so many chunks at most (all)\n"
    "  --threads N             0: one per core (0)\n"
    "  --cpu-isa NAME          auto, base, avx2, avx512, avx512-bf16 (auto)\n"
    "  --json                  one JSON object instead of lines\n";

struct sums {
    double sum, squares;
    size_t n;
};

struct perplexity {
    const char *model, *text, *reference, *quant, *context, *chunks, *threads, *isa;
    bool json;
    int chunk, n_chunks;
    struct source *source, *ref_source;
    struct evaluate *e, *ref;
    struct token_list tokens;
    struct sums loss, ref_loss, kl, shift; /* shift: squared change of the true token's p */
    struct buf divergences;                /* double, one per scored token */
    size_t n_same;                         /* tokens whose best guess is the same */
};

/* ---- options and files */

static int read_options(struct perplexity *p, int argc, char **argv, int *threads, struct err *err)
{
    const struct cmd_option options[] = {
        {"MODEL", &p->model, NULL},      {"TEXT", &p->text, NULL},
        {"--kl", &p->reference, NULL},   {"--quant", &p->quant, NULL},
        {"--context", &p->context, NULL}, {"--chunks", &p->chunks, NULL},
        {"--threads", &p->threads, NULL}, {"--cpu-isa", &p->isa, NULL},
        {"--json", NULL, &p->json}};
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, err);
    if (!rc && (!p->model || !p->text))
        rc = err_set(err, ERR_USAGE, "perplexity: MODEL and TEXT are needed (see --help)");
    if (!rc)
        rc = cmd_count("perplexity", "--context", p->context, CHUNK_MIN, CHUNK_MAX, &p->chunk, err);
    if (!rc)
        rc = cmd_count("perplexity", "--chunks", p->chunks, 1, INT32_MAX, &p->n_chunks, err);
    return rc ? rc : cmd_count("perplexity", "--threads", p->threads, 0, 1024, threads, err);
}

static int open_one(const struct perplexity *p, const char *path, const char *quant, int threads,
                    struct source **source, struct evaluate **e, struct err *err)
{
    struct evaluate_options o = {.quant = quant, .cpu_isa = p->isa, .threads = threads,
                                 .chunk = p->chunk};
    int rc = source_open(path, source, err);
    o.source = *source;
    return rc ? rc : evaluate_open(&o, e, err);
}

static int open_models(struct perplexity *p, int threads, struct err *err)
{
    int rc = open_one(p, p->model, p->quant, threads, &p->source, &p->e, err);
    if (!rc && p->reference)
        rc = open_one(p, p->reference, NULL, threads, &p->ref_source, &p->ref, err);
    if (!rc && p->ref && evaluate_model(p->e)->vocab != evaluate_model(p->ref)->vocab)
        rc = err_set(err, ERR_FORMAT, "%s has %d tokens, %s has %d: no divergence between them",
                     p->model, evaluate_model(p->e)->vocab, p->reference,
                     evaluate_model(p->ref)->vocab);
    return rc;
}

static int read_tokens(struct perplexity *p, struct err *err)
{
    struct buf text;
    buf_init(&text, TEXT_MAX);
    int rc = cmd_read_file(p->text, &text, err);
    if (!rc)
        rc = evaluate_encode(p->e, text.data ? text.data : "", text.size, &p->tokens, err);
    buf_free(&text);
    if (rc)
        return rc;
    if (!p->context && p->tokens.n / 2 < (size_t)p->chunk)
        p->chunk = (int)(p->tokens.n / 2);
    if (p->chunk < CHUNK_MIN || p->tokens.n < (size_t)p->chunk)
        return err_set(err, ERR_FORMAT, "%s: %zu tokens are too few", p->text, p->tokens.n);
    size_t n = p->tokens.n / (size_t)p->chunk;
    p->n_chunks = n < (size_t)p->n_chunks ? (int)n : p->n_chunks;
    return 0;
}

/* ---- scoring */

static void add(struct sums *s, double value)
{
    s->sum += value;
    s->squares += value * value;
    s->n++;
}

static double mean(const struct sums *s)
{
    return s->sum / (double)s->n;
}

static double error_of_mean(const struct sums *s)
{
    double n = (double)s->n, variance = (s->squares - s->sum * s->sum / n) / (n - 1);
    return variance > 0 ? sqrt(variance / n) : 0;
}

/* log of the sum of exp over a row; *best: the index of the largest */
static double log_sum(const float *row, int n, int *best)
{
    double sum = 0;
    *best = 0;
    for (int i = 1; i < n; i++)
        *best = row[i] > row[*best] ? i : *best;
    for (int i = 0; i < n; i++)
        sum += exp((double)(row[i] - row[*best]));
    return (double)row[*best] + log(sum);
}

/* One prediction, of `truth`; ref NULL: no reference. */
static void score(struct perplexity *p, const float *row, const float *ref, int32_t truth)
{
    int vocab = evaluate_model(p->e)->vocab, best, ref_best;
    double all = log_sum(row, vocab, &best), logp = (double)row[truth] - all;
    add(&p->loss, -logp);
    if (!ref)
        return;
    double ref_all = log_sum(ref, vocab, &ref_best), ref_logp = (double)ref[truth] - ref_all;
    double divergence = 0, shift = exp(logp) - exp(ref_logp);
    for (int i = 0; i < vocab; i++) {
        double lr = (double)ref[i] - ref_all;
        divergence += exp(lr) * (lr - ((double)row[i] - all));
    }
    divergence = divergence > 0 ? divergence : 0; /* rounding may take it below */
    add(&p->ref_loss, -ref_logp);
    add(&p->kl, divergence);
    add(&p->shift, shift * shift);
    buf_add(&p->divergences, &divergence, sizeof divergence);
    p->n_same += best == ref_best;
}

static int score_chunk(struct perplexity *p, const int32_t *tokens, struct err *err)
{
    int vocab = evaluate_model(p->e)->vocab, rc = evaluate_run(p->e, tokens, p->chunk, err);
    if (!rc && p->ref)
        rc = evaluate_run(p->ref, tokens, p->chunk, err);
    for (int at = p->chunk / 2 - 1, n; !rc && at < p->chunk - 1; at += n) {
        const float *rows, *ref = NULL;
        int ref_n = 0;
        rc = evaluate_logits(p->e, at, &rows, &n, err);
        if (!rc && p->ref)
            rc = evaluate_logits(p->ref, at, &ref, &ref_n, err);
        n = ref && ref_n < n ? ref_n : n;
        for (int i = 0; !rc && i < n && at + i < p->chunk - 1; i++)
            score(p, rows + (size_t)i * (size_t)vocab,
                  ref ? ref + (size_t)i * (size_t)vocab : NULL, tokens[at + i + 1]);
    }
    return rc;
}

static int score_all(struct perplexity *p, struct err *err)
{
    const struct tokenizer *t = evaluate_tokenizer(p->e);
    char text[64];
    int rc = 0;
    for (int i = 0; !rc && i < p->n_chunks; i++) {
        int32_t *tokens = p->tokens.ids + (size_t)i * (size_t)p->chunk;
        if (tokenizer_adds_bos(t))
            tokens[0] = tokenizer_bos(t);
        rc = score_chunk(p, tokens, err);
        if (!rc && cmd_interrupted())
            rc = err_set(err, ERR_CANCELLED, "stopped");
        if (!rc && p->divergences.failed)
            rc = err_set(err, ERR_NOMEM, "out of memory");
        snprintf(text, sizeof text, "chunk %d of %d, perplexity %.4f", i + 1, p->n_chunks,
                 p->loss.n ? exp(mean(&p->loss)) : 0.0);
        cmd_progress(text, (double)(i + 1) / p->n_chunks);
    }
    cmd_progress(NULL, 0);
    return rc;
}

/* ---- results */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static const struct {
    const char *name;
    double part;
} percentiles[] = {{"min", 0},   {"p5", 0.05},   {"median", 0.5}, {"p90", 0.9},
                   {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
enum { N_PERCENTILES = sizeof percentiles / sizeof percentiles[0] };

/* Of sorted values, between neighbours linear. */
static double percentile(const double *sorted, size_t n, double part)
{
    double at = part * (double)(n - 1);
    size_t low = (size_t)at, high = low + 1 < n ? low + 1 : low;
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

static double same_share(const struct perplexity *p)
{
    return (double)p->n_same / (double)p->kl.n;
}

static void write_json(struct perplexity *p, FILE *out)
{
    double value = exp(mean(&p->loss));
    fprintf(out, "{\"tokens\":%zu,\"chunks\":%d,\"context\":%d,\"perplexity\":%.9g,"
                 "\"perplexity_error\":%.6g",
            p->loss.n, p->n_chunks, p->chunk, value, value * error_of_mean(&p->loss));
    if (p->ref) {
        const double *sorted = (const double *)(void *)p->divergences.data;
        fprintf(out, ",\"reference_perplexity\":%.9g,\"kl\":{\"mean\":%.9g,\"error\":%.6g",
                exp(mean(&p->ref_loss)), mean(&p->kl), error_of_mean(&p->kl));
        for (int i = 0; i < N_PERCENTILES; i++)
            fprintf(out, ",\"%s\":%.9g", percentiles[i].name,
                    percentile(sorted, p->kl.n, percentiles[i].part));
        fprintf(out, "},\"same_top\":%.9g,\"rms_change_of_p\":%.9g", same_share(p),
                sqrt(mean(&p->shift)));
    }
    fprintf(out, "}\n");
}

static void write_lines(struct perplexity *p, FILE *out)
{
    double value = exp(mean(&p->loss));
    fprintf(out, "%s: %s, %zu tokens scored in %d chunks of %d\n", p->model,
            evaluate_describe(p->e), p->loss.n, p->n_chunks, p->chunk);
    fprintf(out, "perplexity            %.4f +- %.4f\n", value, value * error_of_mean(&p->loss));
    if (!p->ref)
        return;
    const double *sorted = (const double *)(void *)p->divergences.data;
    double same = same_share(p);
    fprintf(out, "of the reference      %.4f (%s)\n", exp(mean(&p->ref_loss)),
            evaluate_describe(p->ref));
    fprintf(out, "KL divergence         %.6f +- %.6f\n", mean(&p->kl), error_of_mean(&p->kl));
    for (int i = 0; i < N_PERCENTILES; i++)
        fprintf(out, "  %-6s              %.6f\n", percentiles[i].name,
                percentile(sorted, p->kl.n, percentiles[i].part));
    fprintf(out, "same best token       %.3f%% +- %.3f%%\n", 100 * same,
            100 * sqrt(same * (1 - same) / (double)p->kl.n));
    fprintf(out, "RMS change of p       %.3f%%\n", 100 * sqrt(mean(&p->shift)));
}

int cmd_perplexity(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    struct perplexity p = {.chunk = CHUNK_STANDARD, .n_chunks = INT32_MAX};
    int threads = 0;
    (void)in;
    buf_init(&p.divergences, 0);
    int rc = read_options(&p, argc, argv, &threads, err);
    if (!rc)
        rc = open_models(&p, threads, err);
    if (!rc)
        rc = read_tokens(&p, err);
    cmd_catch_interrupt();
    if (!rc)
        rc = score_all(&p, err);
    if (!rc && p.ref)
        qsort(p.divergences.data, p.kl.n, sizeof(double), by_value);
    if (!rc && p.json)
        write_json(&p, out);
    else if (!rc)
        write_lines(&p, out);
    evaluate_close(p.e);
    evaluate_close(p.ref);
    source_close(p.source);
    source_close(p.ref_source);
    token_list_free(&p.tokens);
    buf_free(&p.divergences);
    return rc;
}
