/* cmd: the subcommands without a server: those that answer JSON lines for scripts and tests, and
 * the benchmark. One thread; in and out are the caller's. */
#ifndef SIROCCO_CMD_H
#define SIROCCO_CMD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* `sirocco render --template PATH [--name NAME] [--now YYYY-MM-DDTHH:MM:SS] --jsonl`: each line
 * {"context": {...}, "continue_final_message": BOOL (optional)} becomes {"text": ...} or {"error":
 * KIND, "message": ...}; KIND is Jinja's TemplateSyntaxError, TemplateRuntimeError, TemplateError
 * (raise_exception) or, for a line that is none of these objects, InvalidLine. ERR_USAGE, ERR_IO,
 * ERR_FORMAT. */
int cmd_render(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco tokenize --tokenizer PATH [--mistral-version vN] --jsonl`: each line {"text": ...} or
 * {"request": {...}, "mode": "serving|test|finetuning|fim"} becomes {"token_ids": [...], "text":
 * the tokens' pieces joined} or {"error": KIND, "message": ...}. A text is encoded without BOS, EOS
 * and control tokens; a request by Mistral's own encoding (mistral.h), KIND its exception or
 * InvalidLine. ERR_USAGE, ERR_IO, ERR_FORMAT. */
int cmd_tokenize(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco bench [--model PATH] [-p N,..] [-n N,..] [-s N,..] [-d N] [-r N] [--json|--csv] ...`:
 * tokens per second of prompts of N tokens (-p), of generating N tokens (-n; behind a prompt of -d
 * tokens), of N sequences at once, each a prompt of --seq-prompt (128) and --seq-generate (64)
 * tokens (-s: generated tokens over all sequences, prompts' time included); median, least and most
 * of -r runs (3). --serve-load: --requests (64) of --shape P/G,.. tokens through the scheduler,
 * --concurrency N,.. at a time (0: all) or --rate R,.. a second (bench.h). Also --device,
 * --cuda-plugin, --threads, --cpu-isa, --kv-cache-type, --kv-cache-bytes, --quant,
 * --max-batch-tokens, --max-seqs. Without any test: -p 512 -n 128. ERR_USAGE, and what engine_open
 * and a request may fail with. */
int cmd_bench(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco inspect [MODEL] [--json] [--memory 24g] [--max-model-len N] [--kv-cache-type T]
 * [--max-batch-tokens N]`: architecture, shapes, tensors, memory plan, tokenizer, template and the
 * pass of a step (inspect.h), without loading the model; without MODEL of the demo model. The plan
 * is for --memory bytes, else for what is free. ERR_USAGE, and what model_open may fail with. */
int cmd_inspect(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco quantize SRC DST --type T [--imatrix FILE] [--threads N]`: any checkpoint that can be
 * read as a GGUF file (model_export.h); one line about it on out. ERR_USAGE, and what
 * model_export_run and imatrix_open may fail with. */
int cmd_quantize(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco perplexity MODEL TEXT [--kl REF] [--quant T] [--context N] [--chunks N] [--json] ...`:
 * the perplexity of a text and, against a reference, the KL divergence. ERR_USAGE, ERR_IO,
 * ERR_FORMAT, and what evaluate_open may fail with. */
int cmd_perplexity(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* `sirocco imatrix MODEL TEXT FILE [--context N] [--chunks N] ...`: what each column of a model's
 * matrices is multiplied with over a text, for `quantize --imatrix`. Fails as cmd_perplexity. */
int cmd_imatrix(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* What `sirocco NAME --help` prints. */
extern const char cmd_bench_usage[], cmd_imatrix_usage[], cmd_inspect_usage[],
    cmd_perplexity_usage[], cmd_quantize_usage[], cmd_render_usage[], cmd_tokenize_usage[];

/* ---- what they share (cmd.c) */

struct cmd_option {
    const char *name;   /* "--template"; without a dash: an operand, "SRC" */
    const char **value; /* takes a value, NULL until it is given; NULL: a flag */
    bool *flag;
};
/* Reads argv[1..argc): "--name value" or "--name=value", and operands in their order. ERR_USAGE;
 * operands may be missing. */
int cmd_options(int argc, char **argv, const struct cmd_option *options, int n, struct err *err);

/* The number from min to max that an option's text is; text NULL: *out stays. ERR_USAGE. */
int cmd_count(const char *command, const char *option, const char *text, long min, long max,
              int *out, struct err *err);

/* Bytes, at least 1, also with k, m, g or t (of 1024): "24g". text NULL: *out stays. ERR_USAGE. */
int cmd_bytes(const char *command, const char *option, const char *text, int64_t *out,
              struct err *err);

/* From now on SIGINT, SIGTERM and SIGHUP make cmd_interrupted true, the second of a kind kills. */
void cmd_catch_interrupt(void);
bool cmd_interrupted(void);

/* A bar on stderr, where that is a terminal; what NULL: wipe it. */
void cmd_progress(const char *what, double fraction);

/* Calls answer for each line of in that holds a JSON object; it appends one JSON object to out.
 * Empty lines are passed over. ERR_IO, ERR_NOMEM, or what answer returned. */
typedef int cmd_answer(void *user, const json_t *line, struct buf *out, struct err *err);
int cmd_lines(FILE *in, FILE *out, cmd_answer *answer, void *user, struct err *err);

/* Append the file's bytes. ERR_IO, ERR_NOMEM, ERR_TOO_LARGE (out's maximum). */
int cmd_read_file(const char *path, struct buf *out, struct err *err);

/* Append {"error": kind, "message": text}. */
void cmd_error(struct buf *out, const char *kind, const char *text);

#endif
