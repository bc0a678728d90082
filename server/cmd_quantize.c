/* cmd_quantize: `sirocco quantize`: a checkpoint as a GGUF file. One thread, beside those that
 * quantize; stops between two blocks of rows when a signal asks for it, and leaves nothing then. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/imatrix.h"
#include "engine/model_export.h"
#include "server/cmd.h"

enum { THREADS_MAX = 1024 };

const char cmd_quantize_usage[] =
    "usage: sirocco quantize SRC DST --type TYPE [--imatrix FILE] [--threads N]\n\n"
    "Writes the model SRC (a model folder or a .gguf file, in any format that can be served) to\n"
    "the GGUF file DST, with its tokenizer and chat template. DST appears when it is complete.\n\n"
    "  --type TYPE       Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 Q3_K Q2_K;\n"
    "                    BF16, F16 and F32 convert without quantizing\n"
    "  --imatrix FILE    how much each column of each matrix matters (sirocco imatrix)\n"
    "  --threads N       0: as many as there are (0)\n\n"
    "Embeddings and output head get the next finer type: Q2_K -> Q3_K -> Q4_K -> Q5_K -> Q6_K ->\n"
    "Q8_0, IQ4_XS -> Q5_K, Q4_0, IQ4_NL and MXFP4 -> Q5_0, Q4_1 -> Q5_1, Q5_0 and Q5_1 -> Q8_0.\n"
    "Norms, biases and what routes to experts stay F32. Rows that are no multiple of the type's\n"
    "block get a type of smaller blocks: Q4_K -> Q5_0, Q5_K -> Q5_1, Q6_K -> Q8_0, others IQ4_NL,\n"
    "or F16.\n";

static int on_progress(void *user, const char *what, double fraction)
{
    (void)user;
    cmd_progress(what, fraction);
    return cmd_interrupted();
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void report(const char *path, const struct model_export_result *r, double seconds, FILE *out)
{
    fprintf(out, "%s: %d tensors, %.1f million parameters, %.1f MiB, %.2f bits per parameter, in "
                 "%.1f s\n",
            path, r->n_tensors, (double)r->n_parameters * 1e-6, (double)r->bytes / 1048576,
            8 * (double)r->bytes / (double)(r->n_parameters ? r->n_parameters : 1), seconds);
    if (r->n_requantized)
        fprintf(stderr, "sirocco: %d matrices were quantized before: what that lost stays lost\n",
                r->n_requantized);
    if (r->n_without)
        fprintf(stderr, "sirocco: the importance matrix says nothing of %d matrices\n",
                r->n_without);
}

int cmd_quantize(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    const char *from = NULL, *to = NULL, *type = NULL, *importance = NULL, *threads = NULL;
    const struct cmd_option options[] = {{"SRC", &from, NULL},
                                         {"DST", &to, NULL},
                                         {"--type", &type, NULL},
                                         {"--imatrix", &importance, NULL},
                                         {"--threads", &threads, NULL}};
    struct model_export_options o = {.progress = on_progress};
    struct model_export_result result;
    struct source *source = NULL;
    struct imatrix *imatrix = NULL;
    double start = now();
    (void)in;
    int rc = cmd_options(argc, argv, options, sizeof options / sizeof *options, err);
    if (!rc && (!from || !to || !type))
        rc = err_set(err, ERR_USAGE, "quantize: SRC, DST and --type are needed (see --help)");
    int found = !rc ? quant_from_name(type) : -1;
    if (!rc && found < 0)
        rc = err_set(err, ERR_USAGE, "quantize: --type '%.40s' is none that is known (see --help)",
                     type);
    if (!rc)
        rc = cmd_count("quantize", "--threads", threads, 0, THREADS_MAX, &o.threads, err);
    if (!rc && importance)
        rc = imatrix_open(importance, &imatrix, err);
    if (!rc)
        rc = source_open(from, &source, err);
    if (!rc) {
        cmd_catch_interrupt();
        o.source = source;
        o.type = (enum quant_type)found;
        o.imatrix = imatrix;
        rc = model_export_run(&o, to, &result, err);
        cmd_progress(NULL, 0);
    }
    if (!rc)
        report(to, &result, now() - start, out);
    imatrix_close(imatrix);
    source_close(source);
    return rc;
}
