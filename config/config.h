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
    const char *chat_template;  /* file */
    const char *tokenizer;      /* auto, spm, json */
    /* engine */
    const char *device, *cpu_isa, *kv_cache_type;
    int64_t threads, max_seqs, max_batch_tokens, max_model_len, block_size, kv_cache_bytes;
    double kv_cache_fraction;
    bool prefix_cache;
    int64_t max_queue;
    /* server */
    const char *host;
    int64_t port;
    struct config_list api_key;
    const char *api_key_file;
    struct config_list cors_origin;
    int64_t max_body_bytes, max_header_bytes, max_connections;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
    int64_t queue_timeout_ms, sse_ping_interval_ms, stall_timeout_ms;
    double shutdown_timeout;    /* seconds */
    const char *metrics_compat; /* none, vllm */
    const char *log_level, *log_format;
    bool quiet;                 /* no memory plan, no progress bar */
    const char *config_file;
};

/* Sizes take suffixes k, m, g (1024), times ms, s, m. Fill c from defaults, the file, environ and
 * argv[1..argc) of one subcommand. Strings borrow argv/environ or live in static storage of config.c.
 * Returns 0; 1 when --help was asked (printed to stdout); -1 with one line in error: the option, its
 * value, its range. Known no-op options of other servers are accepted with a warning in *warnings. */
int config_parse(struct config *c, int argc, char **argv, char *error, size_t error_bytes,
                 char *warnings, size_t warnings_bytes);
void config_free(struct config *c); /* what the file reader allocated */

/* Write default.conf (every option with its help, default and bounds), or the README's table. */
void config_write_default(FILE *out);
void config_write_markdown(FILE *out);

#endif
