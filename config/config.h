/* config: THE TABLE of options: name, type, default, bounds, help. The command line (both - and _),
 * SIROCCO_* environment, the configuration file, --help, default.conf and the README's table all
 * come from it. Precedence: command line, environment, file, default.
 *
 * Read by server/main.c alone, before threads start; includes libc only. */
#ifndef SIROCCO_CONFIG_H
#define SIROCCO_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CONFIG_LIST_MAX = 64 };

struct config_list { /* a repeatable option */
    int n;
    const char *items[CONFIG_LIST_MAX];
};

struct config {
    /* model */
    const char *model;          /* NULL: the embedded demo model */
    struct config_list served_model_name;
    const char *chat_template;  /* file, or the name of one of the model's */
    bool mistral_native;
    const char *tokenizer;      /* auto, spm, json */
    const char *repack_cache; /* folder, or NULL */
    const char *tool_call_parser, *reasoning_parser; /* auto, none, or a row of toolcall.c */
    const char *tool_call_stream; /* fragments, whole */
    /* engine */
    const char *device, *cuda_plugin, *cpu_isa, *quant, *kv_cache_type;
    int64_t threads, max_seqs, max_batch_tokens, max_model_len, block_size, kv_cache_bytes;
    int64_t itl_target_ms;
    double kv_cache_fraction, gpu_memory_fraction;
    bool deterministic;
    bool prefix_cache;
    int64_t max_queue;
    /* server */
    const char *host;
    int64_t port;
    struct config_list api_key;
    const char *api_key_file;
    struct config_list cors_origin, allowed_host;
    int64_t max_body_bytes, max_header_bytes, max_connections;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
    int64_t queue_timeout_ms, sse_ping_interval_ms, stall_timeout_ms;
    double shutdown_timeout;    /* seconds */
    const char *metrics_compat; /* none, vllm */
    const char *log_level, *log_format;
    bool quiet;                 /* no memory plan, no progress bar */
    const char *config_file;
    struct config_text *texts;  /* strings that config_parse made; config_free frees them */
};

/* One row of THE TABLE. */
enum config_kind {
    CONFIG_TEXT,
    CONFIG_CHOICE,  /* one of the words of `value` */
    CONFIG_ITEMS,   /* repeatable; in environment and file separated by commas */
    CONFIG_BOOL,    /* --name, --no-name, --name=true|false */
    CONFIG_INT,
    CONFIG_BYTES,   /* suffixes k, m, g, t */
    CONFIG_MS,      /* suffixes ms, s, m */
    CONFIG_DECIMAL,
    CONFIG_SECONDS  /* a decimal; suffixes ms, s, m */
};
struct config_option {
    const char *name;     /* key in the file; --name and SIROCCO_NAME are made of it */
    enum config_kind kind;
    size_t offset;        /* in struct config */
    const char *standard; /* the default as one would write it; NULL: none */
    double min, max;      /* of numbers; whole numbers are exact */
    bool power_of_two;
    const char *value;    /* what --help calls the value; of CONFIG_CHOICE the words: "f32|f16" */
    const char *group, *help;
};
extern const struct config_option config_options[];
extern const int config_n_options;

/* Fill c from defaults, the file, environ and argv[1..argc) of one subcommand. Sizes take the
 * suffixes k, m, g, t (1024), times ms, s, m. Strings borrow argv/environ or belong to c.
 * Returns 0; 1 when --help was asked for (printed to stdout); -1 with one line in error: the
 * option, its value, its range. Known no-op options of other servers are accepted with a line in
 * warnings. */
int config_parse(struct config *c, int argc, char **argv, char *error, size_t error_bytes,
                 char *warnings, size_t warnings_bytes);
void config_free(struct config *c); /* its strings; NULL and zeroed allowed */

/* Write --help's text, default.conf (every option with its help, default and bounds), or the
 * README's table. */
void config_write_help(FILE *out);
void config_write_default(FILE *out);
void config_write_markdown(FILE *out);

#endif
