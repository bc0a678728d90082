/* engine_open: loads the parts of an engine and plans its memory (engine_open.h). Runs on the
 * thread that calls engine_open, before the engine's thread exists; the parts are immutable after.
 *
 * The memory plan. Weights lie in the source's mapping and are counted as if all of them were
 * resident; activations and logits follow from max_batch_tokens. The KV cache takes kv_cache_bytes,
 * or kv_cache_fraction of what is left (on a GPU: all of it), but never more than max_seqs
 * sequences of max_model_len tokens can use, and, when not given in bytes, no more than four times
 * the weights or 64 MiB: beyond that a small model would take a machine's memory to remember
 * prompts it recomputes in no time. */
#include "engine/engine_open.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/model_quantize.h"
#include "engine/sched.h"
#include "kernels/kv_cache.h"

enum {
    SEQUENCE_TOKENS_MIN = 256,      /* one sequence of so many must fit, or open fails */
    LOGITS_ROWS_MAX = 64,           /* per call: more is sliced */
    LOGITS_BYTES_MAX = 64 << 20,
    DRAWN_BYTES_MAX = 256 << 20,    /* logits of a pass whose tokens a device draws, */
    DRAWN_SHARE = 64,               /* at most this part of its memory */
    SEQS = 64, SEQS_GPU = 256,      /* at a time, and tokens per step: settle */
    BATCH = 512, BATCH_GPU = 2048, BATCH_LARGE_GPU = 8192,
    KV_AUTO_BYTES_MIN = 64 << 20,   /* see above */
    KV_AUTO_WEIGHTS = 4,
    LARGE_GPU_GIB = 36,
    GPUS_MAX = 1 << 16,
    REPACK_BYTES = 128 << 20
};

static void tell(const struct engine_options *o, const char *what, double fraction)
{
    if (o->progress)
        o->progress(o->user, what, fraction);
}

/* ---- options */

/* The number of the GPU that the device asks for, -1: none; auto: the first. False: no device. */
static bool find_gpu(const char *device, int *gpu)
{
    char *end;
    *gpu = -1;
    if (device && !strcmp(device, "cpu"))
        return true;
    *gpu = 0;
    if (!device || !strcmp(device, "auto") || !strcmp(device, "cuda"))
        return true;
    if (strncmp(device, "cuda:", 5) || device[5] < '0' || device[5] > '9')
        return false;
    long n = strtol(device + 5, &end, 10);
    *gpu = n < GPUS_MAX ? (int)n : GPUS_MAX;
    return !*end;
}

static int check_options(const struct engine_options *o, struct err *err)
{
    int gpu;
    if (!find_gpu(o->device, &gpu))
        return err_set(err, ERR_USAGE, "device %.40s: must be cpu, cuda, cuda:N or auto",
                       o->device);
    if (o->max_seqs < 0 || o->max_batch_tokens < 0 || o->max_queue < 0 || o->max_model_len < 0 ||
        o->itl_target_ms < 0 || o->pause_ms_max < 0 || o->kv_cache_bytes < 0 || o->threads < 0)
        return err_set(err, ERR_USAGE, "an engine option is out of range");
    if (o->block_size < 8 || o->block_size > KV_BLOCK_SIZE_MAX ||
        (o->block_size & (o->block_size - 1)))
        return err_set(err, ERR_USAGE, "block_size %d: must be 8, 16, 32, 64, 128 or 256",
                       o->block_size);
    if (!o->kv_cache_bytes && !(o->kv_cache_fraction > 0 && o->kv_cache_fraction <= 1))
        return err_set(err, ERR_USAGE, "kv_cache_fraction %g: must be above 0 and at most 1",
                       o->kv_cache_fraction);
    return 0;
}

static int kv_type(const char *name, enum quant_type *type, struct err *err)
{
    int found = kv_cache_type(name ? name : "f16");
    if (found < 0)
        return err_set(err, ERR_USAGE, "kv_cache_type %s: must be f32, f16, bf16, q8_0 or fp8",
                       name);
    *type = (enum quant_type)found;
    return 0;
}

/* ---- files */

/* SentencePiece writes the space before a word into its piece; whether decoding takes it off the
 * first word of a text differs between tokenizers, so one such piece is decoded to see. */
static int find_strip(struct engine_parts *p, struct err *err)
{
    int n = tokenizer_n_tokens(p->tokenizer);
    for (int32_t id = 0; id < n; id++) {
        size_t size;
        const char *piece = tokenizer_piece(p->tokenizer, id, false, &size);
        struct buf text;
        if (size < 2 || piece[0] != ' ' || piece[1] == ' ')
            continue;
        buf_init(&text, 0);
        int rc = tokenizer_decode(p->tokenizer, &id, 1, false, true, &text);
        p->strips_first_space = !rc && text.size + 1 == size;
        buf_free(&text);
        return rc ? err_set(err, rc, "%s", err_text(rc)) : 0;
    }
    return 0;
}

struct quantizing {
    const struct engine_options *o;
};

static int quantize_progress(void *user, const char *what, double fraction)
{
    const struct quantizing *q = user;
    tell(q->o, what, 0.3 * fraction);
    return 0;
}

static int quantize_model(const struct engine_options *o, struct model *m, struct err *err)
{
    struct quantizing q = {o};
    int type = quant_from_name(o->quant);
    if (type < 0 || type <= QUANT_F32)
        return err_set(err, ERR_USAGE, "quant %s: no type that weights can be quantized to",
                       o->quant);
    int rc = weights_load(m->weights, o->repack_cache, err);
    if (rc)
        return rc;
    return model_quantize(m, o->source, (enum quant_type)type, o->threads, quantize_progress, &q,
                          err);
}

static int open_files(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    const struct source_file *gguf = source_gguf(o->source);
    int rc = gguf ? gguf_open(gguf, &p->gguf, err) : 0;
    tell(o, "reading the model", 0);
    if (!rc)
        rc = model_open(o->source, p->gguf, &p->model, err);
    if (!rc && o->quant && strcmp(o->quant, "none") != 0)
        rc = quantize_model(o, p->model, err);
    tell(o, "reading the tokenizer", 0.3);
    if (!rc) {
        rc = tokenizer_open(o->source, p->gguf, p->model->vocab, o->tokenizer, &p->tokenizer, err);
        if (rc && !o->tokenizer)
            err_prefix(err, "%s", source_path(o->source));
    }
    if (!rc)
        rc = find_strip(p, err);
    tell(o, "reading the chat template", 0.5);
    if (!rc)
        rc = chat_open(o->source, p->gguf, p->tokenizer, o->chat_template, o->chat_template_name,
                       &p->chat, err);
    if (!rc)
        rc = chat_choose_native(p->chat, p->tokenizer, o->mistral_native, err);
    return rc;
}

static int open_device(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    char reason[256] = "";
    struct device_options options = {.n_threads = o->threads,
                                     .cpu_isa = o->cpu_isa ? o->cpu_isa : "auto",
                                     .gpu_memory_fraction = o->gpu_memory_fraction,
                                     .deterministic = o->deterministic};
    bool must = o->device && strcmp(o->device, "auto");
    find_gpu(o->device, &options.gpu);
    if (options.gpu >= 0) {
        p->kernels = kernels_plugin(o->cuda_plugin, reason, sizeof reason);
        if (p->kernels && !p->kernels->open(&options, &p->device, reason, sizeof reason)) {
            const char *warning = p->kernels->warning ? p->kernels->warning(p->device) : "";
            if (warning[0])
                log_event(LOG_WARN, "%s", warning);
            return 0;
        }
        if (must && p->kernels) /* a GPU that is not there yet, or full, may be ours later */
            return err_set(err, ERR_DEVICE, "device %.40s: %s", o->device, reason);
        if (must)
            return err_set(err, ERR_USAGE, "device %.40s: %s", o->device,
                           reason[0] ? reason : "this build has no sirocco-cuda.so, neither beside "
                                                "the program nor in ../lib/sirocco");
        if (reason[0])
            log_event(LOG_INFO, "the model runs on the CPU: %s", reason);
    }
    p->kernels = kernels_cpu();
    if (p->kernels->open(&options, &p->device, reason, sizeof reason))
        return err_set(err, ERR_DEVICE, "device %s: %s", p->kernels->name, reason);
    return 0;
}

/* ---- the memory plan */

static double mib(double bytes)
{
    return bytes / 1048576.0;
}

static int find_model_len(const struct engine_options *o, const struct model *m, int *len,
                          struct err *err)
{
    if (o->max_model_len > m->context_length)
        return err_set(err, ERR_USAGE, "max_model_len %d: the model was made for %d tokens",
                       o->max_model_len, m->context_length);
    *len = o->max_model_len ? o->max_model_len : m->context_length;
    return *len >= 2 ? 0 : err_set(err, ERR_USAGE, "max_model_len %d: must be at least 2", *len);
}

/* Bytes the KV cache may take. */
static int kv_budget(const struct engine_options *o, struct engine_parts *p, int64_t *bytes,
                     struct err *err)
{
    bool own = p->kernels != kernels_cpu(); /* memory that nothing else wants */
    int64_t taken = p->model->weight_bytes + p->info.workspace_bytes;
    if (own) /* repacked weights are padded, and wait in a slice while they are */
        taken += p->model->weight_bytes / 16 + (p->model->weight_bytes < REPACK_BYTES
                                                    ? p->model->weight_bytes
                                                    : REPACK_BYTES);
    int64_t left = p->memory_free - taken, most = KV_AUTO_WEIGHTS * p->model->weight_bytes;
    if (left <= 0)
        return err_set(err, ERR_NOMEM,
                       "the model needs %.0f MiB of weights and %.0f MiB of workspace (set by "
                       "max_batch_tokens), and %.0f MiB of memory are free",
                       mib((double)p->model->weight_bytes), mib((double)p->info.workspace_bytes),
                       mib((double)p->memory_free));
    *bytes = o->kv_cache_bytes;
    if (*bytes > left)
        return err_set(err, ERR_NOMEM, "kv_cache_bytes %lld: %lld bytes of memory are left",
                       (long long)*bytes, (long long)left);
    if (own && !*bytes)
        *bytes = left;
    if (*bytes)
        return 0;
    *bytes = (int64_t)((double)left * o->kv_cache_fraction);
    if (most < KV_AUTO_BYTES_MIN)
        most = KV_AUTO_BYTES_MIN;
    if (*bytes > most)
        *bytes = most;
    return 0;
}

static int plan_blocks(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    const struct model *m = p->model;
    struct engine_info *info = &p->info;
    int64_t budget = 0;
    struct kv_options kv = {.n_layers = m->n_layers, .n_kv_heads = m->n_kv_heads,
                            .head_dim = m->head_dim, .n_blocks = 1, .block_size = o->block_size,
                            .type = p->forward_options.kv_type};
    size_t block_bytes = p->kernels->kv_bytes_per_block(&kv);
    int rc = kv_budget(o, p, &budget, err);
    if (rc)
        return rc;
    if (m->head_dim % quant_formats[kv.type].block)
        return err_set(err, ERR_USAGE,
                       "kv_cache_type q8_0: needs heads of a multiple of %d values; "
                       "the model's have %d",
                       quant_formats[kv.type].block, m->head_dim);
    if (!block_bytes || block_bytes > INT64_MAX / 2)
        return err_set(err, ERR_USAGE, "the device can not hold a KV cache of %s, %d layers, %d "
                       "heads of %d values in blocks of %d", quant_formats[kv.type].name,
                       m->n_layers, m->n_kv_heads, m->head_dim, o->block_size);
    int64_t whole = ((int64_t)info->max_model_len + o->block_size - 1) / o->block_size;
    int64_t n_blocks = budget / (int64_t)block_bytes;
    if (n_blocks > whole * o->max_seqs)
        n_blocks = whole * o->max_seqs;
    if (n_blocks > INT32_MAX / o->block_size)
        n_blocks = INT32_MAX / o->block_size;
    int shortest = info->max_model_len < SEQUENCE_TOKENS_MIN ? info->max_model_len
                                                             : SEQUENCE_TOKENS_MIN;
    int64_t fewest = sched_blocks_min(shortest, o->block_size, m->window_max);
    if (n_blocks < fewest)
        return err_set(err, ERR_NOMEM, "the KV cache of one sequence of %d tokens takes %lld "
                       "bytes, and %lld may be used for it", shortest,
                       (long long)(fewest * (int64_t)block_bytes), (long long)budget);
    if (sched_blocks_min(info->max_model_len, o->block_size, m->window_max) > n_blocks) {
        log_event(LOG_WARN, "max_model_len lowered from %d to %lld: the KV cache holds no more",
                  info->max_model_len, (long long)(n_blocks * o->block_size));
        info->max_model_len = (int)(n_blocks * o->block_size);
    }
    info->n_blocks = p->forward_options.n_blocks = (int)n_blocks;
    info->kv_bytes_per_token = (int64_t)block_bytes / o->block_size;
    p->kv_bytes = n_blocks * (int64_t)block_bytes;
    return 0;
}

int engine_open_logits_rows(const struct model *m, int max_seqs, int max_batch_tokens)
{
    int64_t logits = LOGITS_BYTES_MAX / ((int64_t)m->vocab * (int64_t)sizeof(float));
    int rows = max_seqs < max_batch_tokens ? max_seqs : max_batch_tokens;
    if (rows > LOGITS_ROWS_MAX)
        rows = LOGITS_ROWS_MAX;
    if (logits < rows)
        rows = logits > 0 ? (int)logits : 1;
    return rows;
}

/* Rows whose tokens the device draws in one pass: all sequences', where memory allows, else at
 * least those of a call. */
static int draw_rows(const struct engine_options *o, const struct engine_parts *p, int call_rows)
{
    int64_t bytes = p->memory_free / DRAWN_SHARE;
    int64_t fit = (bytes < DRAWN_BYTES_MAX ? bytes : DRAWN_BYTES_MAX) /
                  ((int64_t)p->model->vocab * (int64_t)sizeof(float));
    int rows = o->max_seqs < o->max_batch_tokens ? o->max_seqs : o->max_batch_tokens;
    if (!forward_can_draw(p->model, p->kernels))
        return 0;
    if (fit < call_rows)
        fit = call_rows;
    return fit < rows ? (int)fit : rows;
}

/* What is left to us: a GPU wants more work at a time, and more room for its activations the more
 * memory it has. */
static void settle(struct engine_options *o, struct engine_parts *p)
{
    bool own = p->kernels != kernels_cpu();
    p->memory_free = (int64_t)p->kernels->memory_free(p->device);
    bool large = p->memory_free >= (int64_t)LARGE_GPU_GIB << 30;
    if (!o->max_seqs)
        o->max_seqs = own ? SEQS_GPU : SEQS;
    if (!o->max_batch_tokens)
        o->max_batch_tokens = !own ? BATCH : large ? BATCH_LARGE_GPU : BATCH_GPU;
}

static int plan(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    int rows = engine_open_logits_rows(p->model, o->max_seqs, o->max_batch_tokens);
    p->forward_options = (struct forward_options){.n_tokens_max = o->max_batch_tokens,
                                                  .n_logits_max = rows,
                                                  .n_draws_max = draw_rows(o, p, rows),
                                                  .block_size = o->block_size};
    int rc = kv_type(o->kv_cache_type, &p->forward_options.kv_type, err);
    if (!rc)
        rc = find_model_len(o, p->model, &p->info.max_model_len, err);
    if (rc)
        return rc;
    p->info.workspace_bytes =
        (int64_t)forward_workspace_bytes(p->model, p->kernels, &p->forward_options);
    return plan_blocks(o, p, err);
}

/* ---- what is told about it */

static void find_defaults(const struct model *m, struct sample_params *d)
{
    sample_params_init(d);
    if (!isnan(m->default_temperature))
        d->temperature = m->default_temperature;
    if (!isnan(m->default_top_p))
        d->top_p = m->default_top_p;
    if (!isnan(m->default_min_p))
        d->min_p = m->default_min_p;
    if (!isnan(m->default_repetition_penalty))
        d->repetition_penalty = m->default_repetition_penalty;
    if (m->default_top_k >= 0)
        d->top_k = m->default_top_k;
}

/* What `used` of n like matrices cost a token. */
static void count_work(struct engine_info *info, const struct matrix *w, int used)
{
    if (!w || !w->data)
        return;
    info->layers_operations += 2.0 * used * (double)w->rows * (double)w->cols;
    info->layers_bytes += (double)used * (double)w->rows *
                          (double)quant_row_bytes(w->type, (size_t)w->cols);
}

static void find_work(const struct model *m, struct engine_info *info)
{
    for (int i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct matrix *own[] = {&l->wq,   &l->wk, &l->wv,   &l->wo,
                                      &l->gate, &l->up, &l->down, &l->router};
        for (size_t j = 0; j < sizeof own / sizeof *own; j++)
            count_work(info, own[j], 1);
        count_work(info, l->expert_gate, m->n_experts_used);
        count_work(info, l->expert_up, m->n_experts_used);
        count_work(info, l->expert_down, m->n_experts_used);
    }
    info->head_operations = 2.0 * (double)m->head.rows * (double)m->head.cols;
    info->head_bytes =
        (double)m->head.rows * (double)quant_row_bytes(m->head.type, (size_t)m->head.cols);
}

static int find_limits(struct engine_parts *p, struct err *err)
{
    struct device_limits limits;

    if (!p->kernels->limits)
        return 0;
    if (p->kernels->limits(p->device, p->model->layers[0].wq.type, &limits))
        return err_set(err, ERR_DEVICE, "%s", p->kernels->device_error(p->device));
    p->info.limit_read_bytes = limits.read_bytes;
    p->info.limit_operations = limits.operations;
    p->info.limit_instruction = limits.instruction;
    return 0;
}

static int fill_info(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    const struct model *m = p->model;
    struct engine_info *info = &p->info;
    info->model_name = source_name(o->source);
    info->arch = m->arch->name;
    info->device = p->kernels->describe(p->device);
    info->quant = quant_formats[m->layers[0].wq.type].name;
    info->vocab_size = m->vocab;
    info->context_length = m->context_length;
    info->block_size = o->block_size;
    info->max_seqs = o->max_seqs;
    info->max_batch_tokens = o->max_batch_tokens;
    info->n_parameters = m->n_parameters;
    info->weight_bytes = m->weight_bytes;
    info->kv_type = kv_cache_type_name(p->forward_options.kv_type);
    info->has_chat_template = chat_has_template(p->chat);
    find_work(m, info);
    for (int i = 0; i < m->n_eos; i++)
        if (m->eos[i] >= 0 && m->eos[i] < m->vocab && info->n_eos < 16)
            info->eos[info->n_eos++] = m->eos[i];
    int32_t eos = tokenizer_eos(p->tokenizer);
    if (!info->n_eos && eos >= 0)
        info->eos[info->n_eos++] = eos;
    find_defaults(m, &info->defaults);
    struct err wrong = {0};
    if (sample_params_check(&info->defaults, &wrong))
        return err_set(err, ERR_FORMAT, "generation_config.json: %s", wrong.text);
    return 0;
}

/* One token through the whole pass: pages are touched, and a broken model shows now. */
static int warm_up(struct engine_parts *p, struct err *err)
{
    const struct draw_result *results;
    struct batch batch;
    float *logits;
    int32_t block = 0, token = p->model->bos >= 0 ? p->model->bos : 0;
    int rc = batch_init(&batch, 1, 1);
    if (rc)
        return err_set(err, rc, "%s", err_text(rc));
    batch_want_logits(&batch, batch_add(&batch, &token, 1, 0, &block, p->info.block_size));
    rc = forward_run(p->forward, &batch, err);
    if (!rc)
        rc = forward_logits(p->forward, &batch, 0, 1, &logits, &results, err);
    if (!rc && results[0].pick.bad)
        log_event(LOG_WARN, "the model computes numbers that are not finite: its weights may be "
                            "damaged");
    batch_free(&batch);
    return rc;
}

int engine_open_parts(const struct engine_options *o, struct engine_parts *p, struct err *err)
{
    struct engine_options settled = *o;
    *p = (struct engine_parts){0};
    int rc = check_options(o, err);
    if (!rc)
        rc = open_files(o, p, err);
    if (!rc)
        rc = open_device(o, p, err);
    if (!rc) {
        settle(&settled, p);
        rc = plan(&settled, p, err);
    }
    if (!rc)
        rc = fill_info(&settled, p, err);
    tell(o, "loading the weights", 0.6);
    if (!rc)
        rc = weights_load(p->model->weights, o->repack_cache, err);
    if (!rc)
        rc = forward_open(p->model, p->kernels, p->device, &p->forward_options, &p->forward, err);
    tell(o, "warming up", 0.9);
    if (!rc)
        rc = warm_up(p, err);
    if (!rc && o->measure_limits)
        rc = find_limits(p, err);
    if (rc)
        engine_open_free(p);
    else
        tell(o, "ready", 1);
    return rc;
}

void engine_open_free(struct engine_parts *p)
{
    forward_close(p->forward);
    if (p->kernels)
        p->kernels->close(p->device);
    chat_close(p->chat);
    tokenizer_close(p->tokenizer);
    model_close(p->model);
    gguf_close(p->gguf);
    *p = (struct engine_parts){0};
}

/* ---- the plan as text */

static void add_size(struct buf *out, const char *what, double bytes)
{
    buf_format(out, "  %-12s %10.1f MiB", what, mib(bytes));
}

int engine_open_describe(const struct engine_parts *p, struct buf *out)
{
    const struct engine_info *i = &p->info;
    int64_t tokens = (int64_t)i->n_blocks * i->block_size;
    int per_seq = sched_blocks_min(i->max_model_len, i->block_size, p->model->window_max);
    double fit = (double)i->n_blocks / per_seq;
    buf_format(out, "%s: %s, %.1f million parameters, %s, on %s\n", i->model_name, i->arch,
               (double)i->n_parameters / 1e6, i->quant, i->device);
    add_size(out, "weights", (double)i->weight_bytes);
    buf_text(out, "\n");
    add_size(out, "workspace", (double)i->workspace_bytes);
    buf_format(out, "  steps of up to %d tokens\n", i->max_batch_tokens);
    add_size(out, "KV cache", (double)p->kv_bytes);
    buf_format(out, "  %d blocks of %d tokens (%lld tokens), %s, %lld bytes per token\n",
               i->n_blocks, i->block_size, (long long)tokens, i->kv_type,
               (long long)i->kv_bytes_per_token);
    add_size(out, "sum", (double)(i->weight_bytes + i->workspace_bytes + p->kv_bytes));
    buf_format(out, "  of %.1f MiB free\n", mib((double)p->memory_free));
    buf_format(out, "  %-12s %10.1f of %d tokens fit at once; %d run at most\n", "sequences",
               fit < i->max_seqs ? fit : i->max_seqs, i->max_model_len, i->max_seqs);
    return out->failed;
}
