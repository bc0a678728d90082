/* cmd_inspect: `sirocco inspect`: what a model is and what it would take, as a table or as JSON.
 * One thread; no state beyond a call. The table shows what the JSON object holds. */
#include <stdlib.h>
#include <string.h>

#include "config/demo.h"
#include "engine/inspect.h"
#include "server/cmd.h"

enum { NAMED_SPECIAL = 12, BLOCK_SIZE = 16, BATCH_TOKENS = 512, SEQS = 64 };

const char cmd_inspect_usage[] =
    "usage: sirocco inspect [MODEL] [options]\n\n"
    "Shows what a model is and what it would take, without loading it: architecture, shapes,\n"
    "tensors, memory plan, tokenizer, template and the ops of a step. Without MODEL: the embedded\n"
    "demo model.\n\n"
    "  --model PATH            the same as MODEL\n"
    "  --memory SIZE           plan for so much memory, as in 24g (what is free)\n"
    "  --max-model-len N       plan for sequences of N tokens (what the model was made for)\n"
    "  --kv-cache-type TYPE    f32, f16, bf16, q8_0, fp8 (f16)\n"
    "  --max-batch-tokens N    plan for steps of N tokens (512)\n"
    "  --json                  one JSON object instead of a table\n";

/* ---- the table */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

static void print_size(FILE *out, const char *what, long long bytes)
{
    fprintf(out, "  %-22s %12.1f MiB", what, (double)bytes / 1048576);
}

static void print_shape(FILE *out, const json_t *shape)
{
    char text[96];
    size_t n = 0, i;
    json_t *dim;
    json_array_foreach(shape, i, dim) {
        if (n < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", i ? " x " : "",
                                  (long long)json_integer_value(dim));
    }
    fprintf(out, "%s", n ? text : "");
}

static void print_head(const json_t *root, FILE *out)
{
    const json_t *shapes = json_object_get(root, "shapes"), *value;
    const char *key;
    size_t i;
    fprintf(out, "%s: %s, %s, %.1f million parameters, %.1f MiB of weights in %zu file%s\n",
            text_of(root, "model"), text_of(root, "arch"), text_of(root, "format"),
            (double)number_of(root, "parameters") * 1e-6,
            (double)number_of(root, "weight_bytes") / 1048576,
            json_array_size(json_object_get(root, "files")),
            json_array_size(json_object_get(root, "files")) == 1 ? "" : "s");
    fprintf(out, " ");
    json_object_foreach((json_t *)shapes, key, value)
        fprintf(out, " %s %lld", key, (long long)json_integer_value(value));
    fprintf(out, "\n");
    json_array_foreach(json_object_get(root, "features"), i, value)
        fprintf(out, "%s%s", i ? ", " : "  with ", json_string_value(value));
    fprintf(out, "%s\ntensors\n",
            json_array_size(json_object_get(root, "features")) ? "\n" : "");
}

static void print_tensors(const json_t *root, FILE *out)
{
    const json_t *group;
    size_t i;
    json_array_foreach(json_object_get(root, "tensors"), i, group) {
        fprintf(out, "  %-44s %-8s %5lld of ", text_of(group, "names"), text_of(group, "type"),
                number_of(group, "count"));
        print_shape(out, json_object_get(group, "shape"));
        fprintf(out, ", %.1f MiB\n", (double)number_of(group, "bytes") / 1048576);
    }
}

static void print_memory(const json_t *plan, FILE *out)
{
    fprintf(out, "\nmemory\n");
    print_size(out, "weights", number_of(plan, "weight_bytes"));
    fprintf(out, "\n");
    print_size(out, "workspace", number_of(plan, "workspace_bytes"));
    fprintf(out, "  steps of up to %lld tokens\n", number_of(plan, "max_batch_tokens"));
    print_size(out, "KV cache, a sequence", number_of(plan, "kv_bytes_per_sequence"));
    fprintf(out, "  %lld tokens, %s, %lld bytes per token\n", number_of(plan, "max_model_len"),
            text_of(plan, "kv_type"), number_of(plan, "kv_bytes_per_token"));
    print_size(out, "planned with", number_of(plan, "memory_bytes"));
    fprintf(out, "  %lld such sequences fit, or %lld tokens of any\n", number_of(plan, "sequences"),
            number_of(plan, "kv_tokens"));
}

static void print_token(FILE *out, const json_t *token)
{
    if (json_is_object(token))
        fprintf(out, " %s (%lld)", text_of(token, "text"), number_of(token, "id"));
    else
        fprintf(out, " none");
}

static void print_tokenizer(const json_t *root, FILE *out)
{
    const json_t *t = json_object_get(root, "tokenizer"), *chat = json_object_get(root, "chat");
    const json_t *token;
    size_t i;
    if (json_object_get(t, "error")) {
        fprintf(out, "\ntokenizer\n  %s\n", text_of(t, "error"));
        return;
    }
    fprintf(out, "\ntokenizer\n  %s, %lld tokens, %lld of them special\n  begins with",
            text_of(t, "kind"), number_of(t, "tokens"), number_of(t, "n_special"));
    print_token(out, json_object_get(t, "bos"));
    fprintf(out, "%s, ends with",
            json_is_true(json_object_get(t, "adds_bos")) ? "" : ", not added to texts");
    json_array_foreach(json_object_get(t, "eos"), i, token)
        print_token(out, token);
    fprintf(out, "\n  special:");
    json_array_foreach(json_object_get(t, "special"), i, token) {
        if (i == NAMED_SPECIAL) {
            fprintf(out, " ...");
            break;
        }
        print_token(out, token);
    }
    fprintf(out, "\n\nchat\n  ");
    if (json_object_get(chat, "error"))
        fprintf(out, "%s\n", text_of(chat, "error"));
    else if (json_object_get(chat, "version"))
        fprintf(out, "by %s, version %lld\n", text_of(chat, "by"), number_of(chat, "version"));
    else
        fprintf(out, "by %s%s\n", text_of(chat, "by"),
                json_is_true(json_object_get(chat, "takes_tools")) ? ", which takes tools" : "");
}

static void print_ops(const json_t *ops, FILE *out)
{
    const json_t *op, *name;
    size_t i, j;
    json_array_foreach(ops, i, op) {
        fprintf(out, "    %-11s", text_of(op, "op"));
        json_array_foreach(json_object_get(op, "weights"), j, name) {
            fprintf(out, "%s%s ", j ? ", " : "", json_string_value(name));
            print_shape(out, json_array_get(json_object_get(op, "shapes"), j));
            fprintf(out, " %s",
                    json_string_value(json_array_get(json_object_get(op, "types"), j)));
        }
        const char *note = text_of(op, "note");
        fprintf(out, "%s%s\n", j && *note ? "; " : "", note);
    }
}

static void print_pass(const json_t *pass, FILE *out)
{
    const json_t *layer;
    size_t i;
    fprintf(out, "\nthe pass of a step\n");
    print_ops(json_object_get(pass, "before"), out);
    json_array_foreach(json_object_get(pass, "layers"), i, layer) {
        long long first = number_of(layer, "first"), last = number_of(layer, "last");
        if (first == last)
            fprintf(out, "  layer %lld\n", first);
        else
            fprintf(out, "  layers %lld to %lld, each\n", first, last);
        print_ops(json_object_get(layer, "ops"), out);
    }
    fprintf(out, "  then\n");
    print_ops(json_object_get(pass, "after"), out);
}

/* ---- options */

static int read_kv_type(const char *name, enum quant_type *type, struct err *err)
{
    int found = quant_from_name(name); /* whether a cache can have it is inspect_model's to say */
    if (found < 0)
        return err_set(err, ERR_USAGE, "inspect: --kv-cache-type '%.40s' is no storage format",
                       name);
    *type = (enum quant_type)found;
    return 0;
}

/* What the machine has free now. */
static int64_t memory_free(void)
{
    const struct device_options options = {.n_threads = 1, .cpu_isa = "auto"};
    const struct kernels *k = kernels_cpu();
    struct device *device;
    if (k->open(&options, &device, NULL, 0))
        return 0;
    int64_t bytes = (int64_t)k->memory_free(device);
    k->close(device);
    return bytes;
}

static int read_options(int argc, char **argv, struct inspect_options *o, const char **model,
                        bool *json, struct err *err)
{
    const char *memory = NULL, *len = NULL, *batch = NULL, *kv = "f16";
    const struct cmd_option options[] = {
        {"--model", model, NULL},      {"--memory", &memory, NULL},
        {"--json", NULL, json},        {"--max-model-len", &len, NULL},
        {"--kv-cache-type", &kv, NULL}, {"--max-batch-tokens", &batch, NULL}};
    int path = argc > 1 && argv[1][0] != '-';
    *model = path ? argv[1] : NULL;
    *o = (struct inspect_options){.max_batch_tokens = BATCH_TOKENS, .max_seqs = SEQS,
                                 .block_size = BLOCK_SIZE};
    if (path)
        argv[1] = argv[0];
    int rc = cmd_options(argc - path, argv + path, options, sizeof options / sizeof *options, err);
    if (!rc)
        rc = cmd_count("inspect", "--max-model-len", len, 1, 1 << 27, &o->max_model_len, err);
    if (!rc)
        rc = cmd_count("inspect", "--max-batch-tokens", batch, 1, 65536, &o->max_batch_tokens, err);
    if (!rc)
        rc = read_kv_type(kv, &o->kv_type, err);
    if (!rc && memory)
        return cmd_bytes("inspect", "--memory", memory, &o->memory, err);
    o->memory = rc ? 0 : memory_free();
    return rc;
}

static int open_source(const char *model, struct source_file **files, struct source **source,
                       struct err *err)
{
    if (model)
        return source_open(model, source, err);
    *files = calloc(demo_n_files, sizeof **files);
    if (!*files)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < demo_n_files; i++)
        (*files)[i] =
            (struct source_file){demo_files[i].name, demo_files[i].data, demo_files[i].size};
    return source_open_memory("sirocco-demo", *files, demo_n_files, source, err);
}

int cmd_inspect(int argc, char **argv, FILE *in, FILE *out, struct err *err)
{
    struct inspect_options options;
    struct source_file *files = NULL;
    struct source *source = NULL;
    const char *model = NULL;
    json_t *root = NULL;
    bool json = false;
    (void)in;
    int rc = read_options(argc, argv, &options, &model, &json, err);
    if (!rc)
        rc = open_source(model, &files, &source, err);
    if (!rc)
        rc = inspect_model(source, &options, &root, err);
    if (!rc && json) {
        json_dumpf(root, out, JSON_COMPACT);
        fprintf(out, "\n");
    } else if (!rc) {
        print_head(root, out);
        print_tensors(root, out);
        print_memory(json_object_get(root, "memory"), out);
        print_tokenizer(root, out);
        print_pass(json_object_get(root, "pass"), out);
    }
    json_decref(root);
    source_close(source);
    free(files);
    return rc;
}
