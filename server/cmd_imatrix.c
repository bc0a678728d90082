/* cmd_imatrix: `sirocco imatrix`: what the matrices of a model are multiplied with over a text. One
 * thread, beside the device's own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/evaluate.h"
#include "engine/imatrix_collect.h"
#include "server/cmd.h"

enum { CHUNK_STANDARD = 512, CHUNK_MIN = 2, CHUNK_MAX = 1 << 16, TEXT_MAX = 1 << 30 };

const char cmd_imatrix_usage[] =
    "usage: sirocco imatrix MODEL TEXT FILE [options]\n\n"
    "Runs the model MODEL over the file TEXT and writes to FILE, a GGUF file, the mean square of\n"
    "what each column of each matrix is multiplied with: `sirocco quantize --imatrix FILE` keeps\n"
    "exact what matters most. MODEL is the model to be quantized, unquantized.\n\n"
    "  --context N             tokens per chunk, a sequence of its own (512)\n"
    "  --chunks N              so many chunks at most (all)\n"
    "  --threads N             0: one per core (0)\n";

struct imatrix_run {
    const char *model, *text, *file, *context, *chunks, *threads;
    int chunk, n_chunks, n_threads;
    struct source *source;
    struct evaluate *e;
    struct imatrix_collect *collect;
    struct token_list tokens;
};

static int read_options(struct imatrix_run *r, int argc, char **argv, struct err *err)
{
    const struct cmd_option options[] = {
        {"MODEL", &r->model, NULL},      {"TEXT", &r->text, NULL},
        {"FILE", &r->file, NULL},        {"--context", &r->context, NULL},
        {"--chunks", &r->chunks, NULL},  {"--threads", &r->threads, NULL}};
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, err);
    if (!rc && (!r->model || !r->text || !r->file))
        rc = err_set(err, ERR_USAGE, "imatrix: MODEL, TEXT and FILE are needed (see --help)");
    if (!rc)
        rc = cmd_count("imatrix", "--context", r->context, CHUNK_MIN, CHUNK_MAX, &r->chunk, err);
    if (!rc)
        rc = cmd_count("imatrix", "--chunks", r->chunks, 1, INT32_MAX, &r->n_chunks, err);
    return rc ? rc : cmd_count("imatrix", "--threads", r->threads, 0, 1024, &r->n_threads, err);
}

static int open_all(struct imatrix_run *r, struct err *err)
{
    struct buf text;
    int rc = source_open(r->model, &r->source, err);
    struct evaluate_options o = {.source = r->source, .threads = r->n_threads, .chunk = r->chunk};
    buf_init(&text, TEXT_MAX);
    if (!rc)
        rc = cmd_read_file(r->text, &text, err);
    if (!rc)
        rc = evaluate_open(&o, &r->e, err);
    if (!rc)
        rc = evaluate_encode(r->e, text.data ? text.data : "", text.size, &r->tokens, err);
    buf_free(&text);
    if (!rc && r->tokens.n < CHUNK_MIN)
        rc = err_set(err, ERR_FORMAT, "%s: %zu tokens are too few", r->text, r->tokens.n);
    return rc ? rc : imatrix_collect_open(evaluate_model(r->e), &r->collect, err);
}

/* All chunks; the last one may be shorter. */
static int run_all(struct imatrix_run *r, struct err *err)
{
    size_t chunk = (size_t)r->chunk, n = (r->tokens.n + chunk - 1) / chunk;
    char text[64];
    int rc = 0;
    r->n_chunks = n < (size_t)r->n_chunks ? (int)n : r->n_chunks;
    evaluate_observe(r->e, imatrix_collect_rows, r->collect);
    for (int i = 0; !rc && i < r->n_chunks; i++) {
        size_t left = r->tokens.n - (size_t)i * chunk;
        int32_t *tokens = r->tokens.ids + (size_t)i * chunk;
        if (tokenizer_adds_bos(evaluate_tokenizer(r->e)))
            tokens[0] = tokenizer_bos(evaluate_tokenizer(r->e));
        rc = evaluate_run(r->e, tokens, left < chunk ? (int)left : r->chunk, err);
        if (!rc && cmd_interrupted())
            rc = err_set(err, ERR_CANCELLED, "stopped");
        snprintf(text, sizeof text, "chunk %d of %d", i + 1, r->n_chunks);
        cmd_progress(text, (double)(i + 1) / r->n_chunks);
    }
    cmd_progress(NULL, 0);
    return rc;
}

int cmd_imatrix(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    struct imatrix_run r = {.chunk = CHUNK_STANDARD, .n_chunks = INT32_MAX};
    (void)in;
    int rc = read_options(&r, argc, argv, err);
    if (!rc)
        rc = open_all(&r, err);
    cmd_catch_interrupt();
    if (!rc)
        rc = run_all(&r, err);
    if (!rc) {
        const char *slash = strrchr(r.text, '/');
        rc = imatrix_collect_write(r.collect, r.file, slash ? slash + 1 : r.text, r.n_chunks,
                                   r.chunk, err);
    }
    if (!rc)
        fprintf(out, "%s: from %d chunks of %d tokens\n", r.file, r.n_chunks, r.chunk);
    imatrix_collect_close(r.collect);
    evaluate_close(r.e);
    source_close(r.source);
    token_list_free(&r.tokens);
    return rc;
}
