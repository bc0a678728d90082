/* config: THE TABLE of options, and what is written from it: --help, default.conf, the README's
 * table. Main thread, before other threads start; constants otherwise. config_parse.c reads values
 * into struct config. */
#include "config/config.h"

#include <string.h>

#include "config/config_parse.h"

#define AT(field) offsetof(struct config, field)
#define TEXT(field, value) CONFIG_TEXT, AT(field), NULL, 0, 0, false, value
#define WORD(field, standard, words) CONFIG_CHOICE, AT(field), standard, 0, 0, false, words
#define ITEMS(field, value) CONFIG_ITEMS, AT(field), NULL, 0, 0, false, value
#define BOOL(field, standard) CONFIG_BOOL, AT(field), standard, 0, 0, false, NULL
#define INT(field, standard, min, max) CONFIG_INT, AT(field), standard, min, max, false, "N"
#define BYTES(field, standard, min, max) CONFIG_BYTES, AT(field), standard, min, max, false, "BYTES"
#define MS(field, standard, min) CONFIG_MS, AT(field), standard, min, 86400000, false, "MS"

#define MODEL "Model"
#define ENGINE "Engine"
#define SERVER "Server"
#define LIMITS "Limits and timeouts"
#define LOGS "Logs and metrics"

const struct config_option config_options[] = {
    {"model", TEXT(model, "PATH"), MODEL,
     "model folder (config.json, safetensors, tokenizer) or GGUF file; also accepted without the "
     "option's name; without it the embedded demo model is served"},
    {"served_model_name", ITEMS(served_model_name, "NAME"), MODEL,
     "name that requests may give as `model`; repeatable, the first is the one in answers; "
     "otherwise the name of the folder or file"},
    {"chat_template", TEXT(chat_template, "FILE or NAME"), MODEL,
     "Jinja chat template to use: a file, or the name of one of the model's named templates; "
     "otherwise the model's own"},
    {"mistral_native", BOOL(mistral_native, "false"), MODEL,
     "encode chats as Mistral's own library does, whatever template there is; this is what happens "
     "anyway where a tekken.json or tokenizer.model of Mistral's comes without a template"},
    {"tokenizer", WORD(tokenizer, "auto", "auto|json|tekken|spm"), MODEL,
     "which tokenizer file to read when there are several: tokenizer.json, tekken.json or "
     "tokenizer.model (spm); auto takes the first of these"},
    {"tool_call_parser", WORD(tool_call_parser, "auto", "auto|none|mistral|hermes|apriel|llama3"),
     MODEL,
     "how the model writes tool calls; auto tells it from the chat template and the tokenizer; "
     "with none, requests with tools are refused"},
    {"tool_call_stream", WORD(tool_call_stream, "fragments", "fragments|whole"), MODEL,
     "how streams carry tool calls: their arguments as they are generated, in fragments, or all "
     "calls whole in one chunk at the end, as Mistral's API does it and its clients need it"},
    {"reasoning_parser", WORD(reasoning_parser, "auto", "auto|none|mistral|think"), MODEL,
     "how the model marks its reasoning: [THINK] (mistral) or <think> (think); none leaves it in "
     "the text"},
    {"max_model_len", INT(max_model_len, "0", 0, 16777216), MODEL,
     "tokens of prompt and answer together; 0 takes the model's own context length"},
    {"repack_cache", TEXT(repack_cache, "FOLDER"), MODEL,
     "where repacked weights (of FP8, GPTQ, AWQ and compressed-tensors checkpoints) are kept, so "
     "that the next start maps them instead of repacking; what is there is checked, and made again "
     "when the model has changed"},

    {"device", CONFIG_TEXT, AT(device), "auto", 0, 0, false, "DEVICE", ENGINE,
     "where the model runs: cpu, cuda, cuda:N (the GPU of that number) or auto, which takes CUDA "
     "when the plugin and a GPU are there"},
    {"cuda_plugin", TEXT(cuda_plugin, "FILE"), ENGINE,
     "the CUDA backend, sirocco-cuda.so; otherwise looked for beside the program and in "
     "../lib/sirocco"},
    {"gpu_memory_fraction", CONFIG_DECIMAL, AT(gpu_memory_fraction), "0.92", 0.01, 1, false,
     "FRACTION", ENGINE,
     "share of a GPU's memory that is taken at start for weights, workspace and KV cache"},
    {"deterministic", BOOL(deterministic, "false"), ENGINE,
     "on a GPU: what is computed for a sequence does not depend on what else is in the batch, bit "
     "by bit, and takes longer; on the CPU it never depends on it"},
    {"cpu_isa", WORD(cpu_isa, "auto", "auto|base|avx2|avx512|avx512-bf16"), ENGINE,
     "strongest CPU instructions to use; all below avx512-bf16 keep the inputs of BF16 weights in "
     "float32"},
    {"threads", INT(threads, "0", 0, 512), ENGINE,
     "threads that compute on the CPU; 0 takes one for each core available, as far as a limit of "
     "the control group (a container's CPU limit) allows"},
    {"max_seqs", INT(max_seqs, "0", 0, 4096), ENGINE,
     "sequences that run at the same time; 0 takes 64, on a GPU 256"},
    {"max_batch_tokens", INT(max_batch_tokens, "0", 0, 65536), ENGINE,
     "tokens per step, prompt chunks and decodes together; 0 takes 512, on a GPU 2,048, or 8,192 "
     "where 36 GiB or more of its memory may be taken"},
    {"itl_target_ms", MS(itl_target_ms, "100", 0), ENGINE,
     "between two tokens of a sequence while prompts of others are computed: these go on in pieces "
     "that keep to it, or to one and a half times a step without them where that is more; 0 sets "
     "no limit, for the most tokens per second"},
    {"block_size", CONFIG_INT, AT(block_size), "16", 8, 256, true, "N", ENGINE,
     "tokens per block of the KV cache"},
    {"quant", TEXT(quant, "TYPE"), ENGINE,
     "quantize a model of floats to this type while loading (q8_0, q6_k, q4_k, q4_0 and so on: the "
     "types of `sirocco quantize`), embeddings and output head one step finer"},
    {"kv_cache_type", WORD(kv_cache_type, "f16", "f32|f16|bf16|q8_0|fp8"), ENGINE,
     "number format of the KV cache; fp8 (E4M3, saturating) takes half of f16's memory, q8_0 a "
     "little more and loses less"},
    {"kv_cache_bytes", BYTES(kv_cache_bytes, "0", 0, 70368744177664), ENGINE,
     "size of the KV cache; 0 takes kv_cache_fraction of the free memory"},
    {"kv_cache_fraction", CONFIG_DECIMAL, AT(kv_cache_fraction), "0.5", 0.01, 0.98, false,
     "FRACTION", ENGINE, "share of the free memory for the KV cache when kv_cache_bytes is 0"},
    {"prefix_cache", BOOL(prefix_cache, "true"), ENGINE,
     "share the KV cache of equal prompt beginnings"},

    {"host", CONFIG_TEXT, AT(host), "127.0.0.1", 0, 0, false, "ADDRESS", SERVER,
     "address to listen on; 0.0.0.0 or :: for every interface"},
    {"port", INT(port, "8000", 0, 65535), SERVER, "TCP port; 0 picks a free one"},
    {"api_key", ITEMS(api_key, "KEY"), SERVER,
     "key that requests must carry as a bearer token; repeatable; better given by SIROCCO_API_KEY "
     "or api_key_file, as a command line is visible to other users"},
    {"api_key_file", TEXT(api_key_file, "FILE"), SERVER, "file with one API key per line"},
    {"allowed_host", ITEMS(allowed_host, "NAME"), SERVER,
     "public name (as a Host header has it, without port) under which a server on a loopback "
     "address may be called without API keys, or *; repeatable; addresses and local names always "
     "may"},
    {"cors_origin", ITEMS(cors_origin, "ORIGIN"), SERVER,
     "web origin whose pages may call the server, or *; repeatable; none by default"},
    {"shutdown_timeout", CONFIG_SECONDS, AT(shutdown_timeout), "30", 0, 86400, false, "SECONDS",
     SERVER, "how long running requests may go on after SIGTERM"},
    {"config_file", TEXT(config_file, "FILE"), SERVER, "file of `name = value` lines"},

    {"max_queue", INT(max_queue, "512", 1, 1000000), LIMITS,
     "requests that may wait for their turn; more are refused with status 503"},
    {"max_connections", INT(max_connections, "10240", 1, 100000), LIMITS,
     "open client connections"},
    {"max_body_bytes", BYTES(max_body_bytes, "8m", 1024, 1073741824), LIMITS,
     "size of a request's body"},
    {"max_header_bytes", BYTES(max_header_bytes, "16k", 1024, 1048576), LIMITS,
     "size of a request's headers"},
    {"header_timeout_ms", MS(header_timeout_ms, "10000", 1), LIMITS,
     "for a request's headers to arrive"},
    {"body_timeout_ms", MS(body_timeout_ms, "30000", 1), LIMITS, "for a request's body to arrive"},
    {"idle_timeout_ms", MS(idle_timeout_ms, "75000", 1), LIMITS,
     "between two requests of a connection"},
    {"write_timeout_ms", MS(write_timeout_ms, "30000", 1), LIMITS,
     "a client that reads nothing for so long is dropped"},
    {"queue_timeout_ms", MS(queue_timeout_ms, "60000", 0), LIMITS,
     "a request that waits longer for its turn is refused; 0 waits for ever"},
    {"stall_timeout_ms", MS(stall_timeout_ms, "30000", 1), LIMITS,
     "an engine step longer than this makes /health fail"},
    {"sse_ping_interval_ms", MS(sse_ping_interval_ms, "5000", 0), LIMITS,
     "between keep-alive comments of a stream that has nothing to send; 0 sends none"},

    {"metrics_compat", WORD(metrics_compat, "none", "none|vllm"), LOGS,
     "also publish the metrics under another server's names"},
    {"log_level", WORD(log_level, "info", "debug|info|warn|error|off"), LOGS,
     "least important lines to log"},
    {"log_format", WORD(log_format, "text", "text|json"), LOGS, "form of the log lines"},
    {"quiet", BOOL(quiet, "false"), LOGS, "no memory plan and no progress bar at start"},
};
const int config_n_options = sizeof config_options / sizeof *config_options;

enum { COLUMNS = 80, HELP_COLUMN = 28, BOUNDS_BYTES = 96, FLAG_BYTES = 96 };

/* ---- what a row allows, in words ---- */

/* A bound without its unit; decimals by hand, because printf's point depends on the locale. */
static void format_bound(char *out, size_t out_bytes, enum config_kind kind, double bound)
{
    static const char suffixes[] = " kmgt";
    long long whole = (long long)bound;
    int suffix = 0;
    if (kind == CONFIG_DECIMAL) {
        long long hundredths = (long long)(bound * 100 + 0.5);
        snprintf(out, out_bytes, "%lld.%02lld", hundredths / 100, hundredths % 100);
        return;
    }
    for (; kind == CONFIG_BYTES && whole >= 1024 && whole % 1024 == 0 && suffix < 4; suffix++)
        whole /= 1024;
    if (suffix > 0)
        snprintf(out, out_bytes, "%lld%c", whole, suffixes[suffix]);
    else
        snprintf(out, out_bytes, "%lld", whole);
}

void config_bounds(const struct config_option *o, char *out, size_t out_bytes)
{
    char low[32], high[32];
    switch (o->kind) {
    case CONFIG_TEXT:
    case CONFIG_ITEMS:
        snprintf(out, out_bytes, "%s", "");
        return;
    case CONFIG_CHOICE:
        snprintf(out, out_bytes, "one of %s", o->value);
        for (char *c = out; *c; c++)
            *c = *c == '|' ? ' ' : *c;
        return;
    case CONFIG_BOOL:
        snprintf(out, out_bytes, "true or false");
        return;
    default:
        break;
    }
    format_bound(low, sizeof low, o->kind, o->min);
    format_bound(high, sizeof high, o->kind, o->max);
    snprintf(out, out_bytes, "%s to %s%s%s", low, high,
             o->kind == CONFIG_MS        ? " ms"
             : o->kind == CONFIG_SECONDS ? " seconds"
             : o->kind == CONFIG_BYTES   ? " bytes"
                                         : "",
             o->power_of_two ? ", a power of two" : "");
}

void config_flag(const struct config_option *o, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "--%s", o->name);
    for (char *c = out; *c; c++)
        *c = *c == '_' ? '-' : *c;
}

/* ---- --help ---- */

/* Words of text, wrapped; every line but the first starts with prefix. */
static void write_wrapped(FILE *out, const char *text, int column, const char *prefix)
{
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column + n > COLUMNS) {
            fprintf(out, "\n%s", prefix);
            column = (int)strlen(prefix);
        }
        fprintf(out, "%.*s", n, text);
        text += n;
        column += n + 1;
        if (*text == ' ')
            text++;
        if (*text && column + (int)strcspn(text, " ") <= COLUMNS)
            fputc(' ', out);
    }
    fputc('\n', out);
}

static void write_option_help(FILE *out, const struct config_option *o)
{
    char flag[FLAG_BYTES], left[2 * FLAG_BYTES], bounds[BOUNDS_BYTES], help[512], indent[40];
    config_flag(o, flag, sizeof flag);
    config_bounds(o, bounds, sizeof bounds);
    if (o->kind == CONFIG_BOOL)
        snprintf(left, sizeof left, "  --[no-]%s", flag + 2);
    else
        snprintf(left, sizeof left, "  %s %s", flag, o->value);
    bool range = bounds[0] && o->kind != CONFIG_CHOICE && o->kind != CONFIG_BOOL;
    snprintf(help, sizeof help, "%s%s%s%s%s%s%s", o->help, range || o->standard ? " [" : "",
             range ? bounds : "", range && o->standard ? "; " : "", o->standard ? "default " : "",
             o->standard ? o->standard : "", range || o->standard ? "]" : "");
    snprintf(indent, sizeof indent, "%*s", HELP_COLUMN, "");
    if (strlen(left) + 2 > HELP_COLUMN)
        fprintf(out, "%s\n%s", left, indent);
    else
        fprintf(out, "%-*s", HELP_COLUMN, left);
    write_wrapped(out, help, HELP_COLUMN, indent);
}

void config_write_help(FILE *out)
{
    fputs("usage: sirocco serve [options] [MODEL]\n\n"
          "Serve a model over HTTP with OpenAI's API. Without MODEL, the embedded demo\n"
          "model. Precedence: command line, environment, file, default.\n", out);
    const char *group = "";
    for (int i = 0; i < config_n_options; i++) {
        if (strcmp(group, config_options[i].group) != 0)
            fprintf(out, "\n%s\n", config_options[i].group);
        group = config_options[i].group;
        write_option_help(out, &config_options[i]);
    }
    fputs("\nEvery option is also a variable of the environment (SIROCCO_MAX_SEQS) and a\n"
          "line of the configuration file (max_seqs = 64). Sizes take the suffixes k, m,\n"
          "g and t, times ms, s and m; - and _ are the same in option names. The usual\n"
          "names of other servers' options are understood.\n", out);
}

/* ---- default.conf and the README ---- */

void config_write_default(FILE *out)
{
    fputs("# Sirocco's configuration: every option at its default. Remove the # before a name\n"
          "# to set the option. The value runs to the end of its line; a # after a blank\n"
          "# starts a comment; items of a list are separated by commas. The command line and\n"
          "# the environment (SIROCCO_MAX_SEQS) go before this file.\n", out);
    const char *group = "";
    for (int i = 0; i < config_n_options; i++) {
        const struct config_option *o = &config_options[i];
        char bounds[BOUNDS_BYTES];
        if (!strcmp(o->name, "config_file"))
            continue; /* a file does not name another */
        if (strcmp(group, o->group) != 0)
            fprintf(out, "\n# ---- %s\n", o->group);
        group = o->group;
        config_bounds(o, bounds, sizeof bounds);
        fputs("\n# ", out);
        write_wrapped(out, o->help, 2, "# ");
        if (bounds[0])
            fprintf(out, "# (%s)\n", bounds);
        fprintf(out, "#%s =%s%s\n", o->name, o->standard ? " " : "",
                o->standard ? o->standard : "");
    }
}

void config_write_markdown(FILE *out)
{
    fputs("| option | default | values | meaning |\n| --- | --- | --- | --- |\n", out);
    for (int i = 0; i < config_n_options; i++) {
        const struct config_option *o = &config_options[i];
        char flag[FLAG_BYTES], bounds[BOUNDS_BYTES];
        config_flag(o, flag, sizeof flag);
        config_bounds(o, bounds, sizeof bounds);
        fprintf(out, "| `%s` | %s | %s | %s |\n", flag, o->standard ? o->standard : "",
                bounds[0] ? bounds : o->value, o->help);
    }
}
