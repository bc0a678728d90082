/* config_parse: fills struct config from the command line, the environment and the file.
 *
 * Main thread, before other threads start. The sources are read from the strongest to the weakest;
 * level[] notes which one set an option, and what a weaker source says about it is still checked
 * (into a struct that is thrown away), so that a wrong line is reported whether or not it counts.
 * No value of an option with secrets ever gets into a message. */
#include "config/config_parse.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 1 << 20, NAME_BYTES = 64, WHERE_BYTES = 600, OPTIONS_MAX = 128 };
enum level { LEVEL_NONE, LEVEL_STANDARD, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_LINE };

struct config_text { /* strings of our own, chained */
    struct config_text *next;
    char bytes[];
};

struct parse {
    struct config *c;
    struct config unused; /* takes what a stronger source overrides */
    enum level level[OPTIONS_MAX];
    char where[WHERE_BYTES]; /* "--port", "SIROCCO_PORT", "FILE:12: port" */
    char *error, *warnings;
    size_t error_bytes, warnings_bytes;
};

/* ---- messages: one line each, whatever is quoted in them ---- */

static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            *text = '?';
}

__attribute__((format(printf, 2, 3))) static int fail(struct parse *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(p->error, p->error_bytes, format, args);
    va_end(args);
    one_line(p->error);
    return -1;
}

__attribute__((format(printf, 2, 3))) static void warn(struct parse *p, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    one_line(line);
    size_t n = strlen(p->warnings), n_line = strlen(line);
    if (n + n_line + 2 <= p->warnings_bytes) {
        memcpy(p->warnings + n, line, n_line);
        memcpy(p->warnings + n + n_line, "\n", 2);
    }
}

static char *keep_text(struct config *c, const char *text, size_t n)
{
    struct config_text *kept = malloc(sizeof *kept + n + 1);
    if (!kept)
        return NULL;
    memcpy(kept->bytes, text, n);
    kept->bytes[n] = 0;
    kept->next = c->texts;
    c->texts = kept;
    return kept->bytes;
}

/* ---- names ---- */

/* Other servers' names for our options. */
static const struct alias {
    const char *name, *option;
} ALIASES[] = {
    {"max_num_seqs", "max_seqs"},
    {"parallel", "max_seqs"},
    {"max_num_batched_tokens", "max_batch_tokens"},
    {"batch_size", "max_batch_tokens"},
    {"ctx_size", "max_model_len"},
    {"kv_cache_dtype", "kv_cache_type"},
    {"enable_deterministic_inference", "deterministic"},
    {"enable_prefix_caching", "prefix_cache"},
    {"max_num_queued_reqs", "max_queue"},
    {"allowed_origins", "cors_origin"},
    {"alias", "served_model_name"},
    {"config", "config_file"},
};

/* Other servers' options that mean nothing here, or what is always done here. */
static const struct no_op {
    const char *name;
    bool takes_value;
    const char *only; /* another value would change what is served: refused */
} NO_OPS[] = {
    {"enable_chunked_prefill", false, NULL},
    {"trust_remote_code", false, NULL},
    {"enforce_eager", false, NULL},
    {"disable_log_stats", false, NULL},
    {"disable_log_requests", false, NULL},
    {"enable_log_requests", false, NULL},
    {"disable_uvicorn_access_log", false, NULL},
    {"disable_frontend_multiprocessing", false, NULL},
    {"async_scheduling", false, NULL},
    {"allow_credentials", false, NULL},
    {"enable_prompt_tokens_details", false, NULL},
    {"enable_request_id_headers", false, NULL},
    {"cont_batching", false, NULL},
    {"enable_auto_tool_choice", false, NULL},
    {"enable_reasoning", false, NULL},
    {"jinja", false, NULL},
    {"mmap", false, NULL},
    {"dtype", true, NULL},
    {"gpu_memory_utilization", true, NULL},
    {"swap_space", true, NULL},
    {"seed", true, NULL},
    {"max_logprobs", true, NULL},
    {"stream_interval", true, NULL},
    {"load_format", true, "auto"},
    {"tokenizer_mode", true, "auto"},
    {"revision", true, NULL},
    {"tokenizer_revision", true, NULL},
    {"download_dir", true, NULL},
    {"generation_config", true, "auto"},
    {"allowed_methods", true, NULL},
    {"allowed_headers", true, NULL},
    {"h11_max_header_count", true, NULL},
    {"h11_max_incomplete_event_size", true, NULL},
    {"max_log_len", true, NULL},
    {"uvicorn_log_level", true, NULL},
    {"scheduling_policy", true, "fcfs"},
    {"tensor_parallel_size", true, "1"},
    {"pipeline_parallel_size", true, "1"},
    {"data_parallel_size", true, "1"},
};

/* Other servers' words for our choices. */
static const struct synonym {
    const char *option, *word, *ours;
} SYNONYMS[] = {
    {"kv_cache_type", "auto", "f16"},      {"kv_cache_type", "half", "f16"},
    {"kv_cache_type", "float16", "f16"},   {"kv_cache_type", "fp16", "f16"},
    {"kv_cache_type", "bfloat16", "bf16"}, {"kv_cache_type", "float32", "f32"},
    {"kv_cache_type", "fp8_e4m3", "fp8"},
    {"tool_call_parser", "llama3_json", "llama3"}, {"reasoning_parser", "deepseek_r1", "think"},
    {"reasoning_parser", "qwen3", "think"},
    {"log_level", "warning", "warn"},
};

#define LENGTH(array) ((int)(sizeof(array) / sizeof *(array)))

/* Lower case, - as _. False when it does not fit, and so is no name of ours. */
static bool normal_name(const char *text, size_t n, char out[NAME_BYTES])
{
    if (n == 0 || n >= NAME_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        out[i] = text[i] == '-' ? '_' : text[i];
    out[n] = 0;
    return true;
}

/* Index of the option with this name or alias, or -1. */
static int find_option(const char *name)
{
    for (int i = 0; i < LENGTH(ALIASES); i++)
        if (!strcmp(ALIASES[i].name, name))
            name = ALIASES[i].option;
    for (int i = 0; i < config_n_options; i++)
        if (!strcmp(config_options[i].name, name))
            return i;
    return -1;
}

static const struct no_op *find_no_op(const char *name)
{
    for (int i = 0; i < LENGTH(NO_OPS); i++)
        if (!strcmp(NO_OPS[i].name, name))
            return &NO_OPS[i];
    return NULL;
}

/* Levenshtein's distance: insertions, deletions, substitutions. */
static int distance(const char *a, const char *b)
{
    int row[NAME_BYTES + 1], n = (int)strlen(b);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 0; a[i]; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int best = corner + (a[i] != b[j]);
            corner = row[j + 1];
            best = corner + 1 < best ? corner + 1 : best;
            row[j + 1] = row[j] + 1 < best ? row[j] + 1 : best;
        }
    }
    return row[n];
}

/* The option or alias nearest to a name that is none, or NULL when nothing is near. */
static const char *nearest(const char *name)
{
    const char *best = NULL;
    int best_distance = (int)strlen(name) / 3 + 2;
    for (int i = 0; i < config_n_options + LENGTH(ALIASES); i++) {
        const char *other = i < config_n_options ? config_options[i].name
                                                 : ALIASES[i - config_n_options].name;
        int d = distance(name, other);
        if (d < best_distance) {
            best = other;
            best_distance = d;
        }
    }
    return best;
}

/* ---- values ---- */

static int set_number(struct parse *p, struct config *c, const struct config_option *o,
                      const char *text)
{
    char bounds[96];
    double value = 0;
    int64_t whole = 0;
    int verdict = config_number(o, text, &value, &whole);
    config_bounds(o, bounds, sizeof bounds);
    bool decimal = o->kind == CONFIG_DECIMAL || o->kind == CONFIG_SECONDS;
    if (verdict < 0)
        return fail(p, "%s: \"%.60s\" is not %s; expected %s", p->where, text,
                    decimal ? "a number" : "an integer", bounds);
    if (verdict > 0)
        return fail(p, "%s: %.60s is out of range; expected %s", p->where, text, bounds);
    if (decimal)
        *(double *)((char *)c + o->offset) = value;
    else
        *(int64_t *)((char *)c + o->offset) = whole;
    return 0;
}

static int set_choice(struct parse *p, struct config *c, const struct config_option *o,
                      const char *text)
{
    char bounds[96];
    const char *wanted = text;
    for (int i = 0; i < LENGTH(SYNONYMS); i++)
        if (!strcmp(SYNONYMS[i].option, o->name) && !strcasecmp(SYNONYMS[i].word, text))
            wanted = SYNONYMS[i].ours;
    for (const char *word = o->value; *word;) {
        size_t n = strcspn(word, "|");
        if (strlen(wanted) == n && !strncasecmp(word, wanted, n)) {
            const char *kept = keep_text(c, word, n);
            if (!kept)
                return fail(p, "out of memory");
            *(const char **)((char *)c + o->offset) = kept;
            return 0;
        }
        word += n + (word[n] == '|');
    }
    config_bounds(o, bounds, sizeof bounds);
    return fail(p, "%s: \"%.60s\" is not %s", p->where, text, bounds);
}

static int set_bool(struct parse *p, struct config *c, const struct config_option *o,
                    const char *text)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < LENGTH(words); i++)
        if (!strcasecmp(words[i], text)) {
            *(bool *)((char *)c + o->offset) = i % 2 == 1;
            return 0;
        }
    return fail(p, "%s: \"%.60s\" is not true or false", p->where, text);
}

static int add_item(struct parse *p, struct config *c, const struct config_option *o,
                    const char *text, size_t n)
{
    struct config_list *list = (struct config_list *)((char *)c + o->offset);
    while (n > 0 && isspace((unsigned char)*text))
        text++, n--;
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        n--;
    if (n == 0)
        return fail(p, "%s: an item is empty", p->where);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= 0x20 || text[i] == 0x7F)
            return fail(p, "%s: an item has a blank or a control character in it", p->where);
    if (list->n == CONFIG_LIST_MAX)
        return fail(p, "%s: more than %d items", p->where, CONFIG_LIST_MAX);
    const char *kept = keep_text(c, text, n);
    if (!kept)
        return fail(p, "out of memory");
    list->items[list->n++] = kept;
    return 0;
}

/* a,b,c, or a JSON array of strings without escapes, as vLLM's --allowed-origins takes it */
static int add_items(struct parse *p, struct config *c, const struct config_option *o,
                     const char *text)
{
    size_t n = strlen(text);
    bool array = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    const char *end = text + n - (array ? 1 : 0);
    for (text += array ? 1 : 0; text <= end; text++) {
        const char *start = text;
        while (text < end && *text != ',')
            text++;
        size_t n_item = (size_t)(text - start);
        while (array && n_item > 0 && isspace((unsigned char)*start))
            start++, n_item--;
        while (array && n_item > 0 && isspace((unsigned char)start[n_item - 1]))
            n_item--;
        if (array && (n_item < 2 || start[0] != '"' || start[n_item - 1] != '"'))
            return fail(p, "%s: not an array of strings", p->where);
        int code = add_item(p, c, o, start + array, n_item - (array ? 2 : 0));
        if (code != 0)
            return code;
    }
    return 0;
}

/* text: all of the value; borrowed unless copy. */
static int set_value(struct parse *p, int option, enum level level, const char *text, bool copy)
{
    const struct config_option *o = &config_options[option];
    struct config *c = p->level[option] > level ? &p->unused : p->c;
    bool again = p->level[option] == level;
    if (again && o->kind != CONFIG_ITEMS)
        return fail(p, "%s: given twice", p->where);
    if (p->level[option] < level)
        p->level[option] = level;
    if (*text == 0)
        return fail(p, "%s: the value is empty", p->where);
    switch (o->kind) {
    case CONFIG_TEXT:
        if (copy && !(text = keep_text(c, text, strlen(text))))
            return fail(p, "out of memory");
        *(const char **)((char *)c + o->offset) = text;
        return 0;
    case CONFIG_CHOICE:
        return set_choice(p, c, o, text);
    case CONFIG_ITEMS:
        if (level == LEVEL_LINE && *text != '[')
            return add_item(p, c, o, text, strlen(text));
        return add_items(p, c, o, text);
    case CONFIG_BOOL:
        return set_bool(p, c, o, text);
    default:
        return set_number(p, c, o, text);
    }
}

/* ---- the command line ---- */

static int unknown_option(struct parse *p, const char *where, const char *name)
{
    const char *near = nearest(name);
    char flag[NAME_BYTES] = "";
    snprintf(flag, sizeof flag, "%s", near ? near : "");
    for (char *c = flag; *c && where[0] == '-'; c++)
        *c = *c == '_' ? '-' : *c;
    return near ? fail(p, "%s: unknown option; did you mean %s%s?", where,
                       where[0] == '-' ? "--" : "", flag)
                : fail(p, "%s: unknown option; --help lists them", where);
}

static int skip_no_op(struct parse *p, const struct no_op *o, const char *value)
{
    if (o->only && strcmp(value, o->only) != 0)
        return fail(p, "%s: only %s is supported", p->where, o->only);
    warn(p, "%s: accepted for compatibility, has no effect", p->where);
    return 0;
}

/* argv[*at] starts with "--"; *at moves over its value. */
static int read_flag(struct parse *p, int argc, char **argv, int *at)
{
    const char *flag = argv[*at], *value = strchr(flag, '=');
    size_t n_flag = value ? (size_t)(value - flag) : strlen(flag);
    char name[NAME_BYTES];
    bool no = false;
    snprintf(p->where, sizeof p->where, "%.*s", (int)(n_flag < 80 ? n_flag : 80), flag);
    if (!normal_name(flag + 2, n_flag - 2, name))
        return fail(p, "%s: unknown option; --help lists them", p->where);
    int option = find_option(name);
    const struct no_op *no_op = find_no_op(name);
    if (option < 0 && !no_op && !strncmp(name, "no_", 3)) {
        no = true;
        option = find_option(name + 3);
        no_op = find_no_op(name + 3);
        if (option >= 0 && config_options[option].kind != CONFIG_BOOL)
            return fail(p, "%s: --%s takes a value and cannot be negated", p->where, flag + 5);
    }
    if (option < 0 && (!no_op || (no && no_op->takes_value)))
        return unknown_option(p, p->where, name);
    bool takes_value = option >= 0 ? config_options[option].kind != CONFIG_BOOL
                                   : no_op->takes_value;
    if (no && value)
        return fail(p, "%s: takes no value", p->where);
    if (value) {
        value++;
    } else if (takes_value) {
        if (*at + 1 >= argc || !strncmp(argv[*at + 1], "--", 2))
            return fail(p, "%s: the value is missing", p->where);
        value = argv[++*at];
    } else {
        value = no ? "false" : "true";
    }
    return option >= 0 ? set_value(p, option, LEVEL_LINE, value, false)
                       : skip_no_op(p, no_op, value);
}

static int read_line(struct parse *p, int argc, char **argv)
{
    bool flags_end = false;
    int code = 0;
    for (int i = 1; i < argc && code == 0; i++) {
        const char *arg = argv[i];
        if (!flags_end && !strcmp(arg, "--")) {
            flags_end = true;
        } else if (!flags_end && (!strcmp(arg, "--help") || !strcmp(arg, "-h"))) {
            config_write_help(stdout);
            return 1;
        } else if (!flags_end && !strncmp(arg, "--", 2)) {
            code = read_flag(p, argc, argv, &i);
        } else if (!flags_end && arg[0] == '-') {
            code = fail(p, "%.80s: unknown option; options start with --", arg);
        } else if (p->c->model) {
            code = fail(p, "unexpected argument \"%.80s\": the model is \"%.80s\"", arg,
                        p->c->model);
        } else {
            snprintf(p->where, sizeof p->where, "MODEL");
            code = set_value(p, find_option("model"), LEVEL_LINE, arg, false);
        }
    }
    if (code == 0 && p->c->api_key.n > 0)
        warn(p, "--api-key: a command line is visible to other users of the machine; "
                "SIROCCO_API_KEY or --api-key-file is not");
    return code;
}

/* ---- the environment ---- */

static void variable_name(const char *option, char out[WHERE_BYTES])
{
    snprintf(out, WHERE_BYTES, "SIROCCO_%s", option);
    for (; *out; out++)
        *out = (char)toupper((unsigned char)*out);
}

/* A variable that is nearly an option's, or has another server's name for one: its value counts for
 * nothing, which must not stay unnoticed. What resembles none may be anybody's: Kubernetes' links
 * to a Service, a script's. */
static void warn_unknown_variable(struct parse *p, const char *variable)
{
    char name[NAME_BYTES];
    size_t n = strcspn(variable, "=");
    if (n - 8 >= NAME_BYTES)
        return;
    for (size_t i = 8; i < n; i++)
        name[i - 8] = (char)tolower((unsigned char)variable[i]);
    name[n - 8] = 0;
    const char *near = NULL;
    for (int i = 0; i < config_n_options; i++) {
        if (!strcmp(config_options[i].name, name))
            return;
        if (distance(name, config_options[i].name) <= (n - 8 < 8 ? 1 : 2))
            near = config_options[i].name;
    }
    int alias = find_option(name);
    near = alias >= 0 ? config_options[alias].name : near;
    if (!near)
        return;
    variable_name(near, p->where);
    warn(p, "%.*s: no option, ignored; did you mean %s?", (int)n, variable, p->where);
}

static int read_environment(struct parse *p)
{
    for (char **variable = environ; *variable; variable++)
        if (!strncmp(*variable, "SIROCCO_", 8))
            warn_unknown_variable(p, *variable);
    for (int i = 0; i < config_n_options; i++) {
        variable_name(config_options[i].name, p->where);
        const char *value = getenv(p->where);
        if (!value || *value == 0)
            continue;
        /* Kubernetes sets NAME_PORT for every Service: one named sirocco must not stop the start */
        if (!strcmp(config_options[i].name, "port") && !strncmp(value, "tcp://", 6)) {
            warn(p, "%s: looks like a Kubernetes service link, ignored", p->where);
            continue;
        }
        int code = set_value(p, i, LEVEL_ENVIRONMENT, value, false);
        if (code != 0)
            return code;
    }
    return 0;
}

/* ---- the file ---- */

/* Well-formed UTF-8 (RFC 3629) without NUL; the line of the first error otherwise, 0 when fine. */
static int bad_text_line(const unsigned char *s, size_t n)
{
    int line = 1;
    for (size_t i = 0; i < n;) {
        size_t more = s[i] < 0x80 ? 0 : s[i] < 0xC2 ? 9 : s[i] < 0xE0 ? 1 : s[i] < 0xF0 ? 2
                      : s[i] < 0xF5 ? 3 : 9;
        if (s[i] == 0 || more == 9 || more >= n - i)
            return line;
        unsigned low = s[i] == 0xE0 ? 0xA0 : s[i] == 0xF0 ? 0x90 : 0x80;
        unsigned high = s[i] == 0xED ? 0x9F : s[i] == 0xF4 ? 0x8F : 0xBF;
        for (size_t j = 1; j <= more; j++, low = 0x80, high = 0xBF)
            if (s[i + j] < low || s[i + j] > high)
                return line;
        line += s[i] == '\n';
        i += more + 1;
    }
    return 0;
}

/* All of a file, NUL-terminated, to be freed; NULL with the error set. */
static char *read_all(struct parse *p, const char *path, size_t *n)
{
    struct stat info;
    char *bytes = NULL;
    int saved = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    *n = 0;
    if (fd < 0 || fstat(fd, &info) != 0)
        saved = errno;
    else if (S_ISDIR(info.st_mode))
        saved = EISDIR;
    else if (!(bytes = malloc(FILE_BYTES_MAX + 2)))
        saved = ENOMEM;
    while (saved == 0 && *n <= FILE_BYTES_MAX) {
        ssize_t got = read(fd, bytes + *n, FILE_BYTES_MAX + 1 - *n);
        if (got > 0)
            *n += (size_t)got;
        else if (got == 0)
            break;
        else if (errno != EINTR)
            saved = errno;
    }
    if (fd >= 0)
        close(fd);
    if (saved == 0 && *n <= FILE_BYTES_MAX) {
        bytes[*n] = 0;
        return bytes;
    }
    free(bytes);
    if (saved != 0)
        fail(p, "config_file %.300s: %s", path, strerror(saved));
    else
        fail(p, "%.300s: larger than a configuration can be (1 MiB)", path);
    return NULL;
}

static char *trimmed(char *start, char *end)
{
    while (start < end && isspace((unsigned char)*start))
        start++;
    while (end > start && isspace((unsigned char)end[-1]))
        end--;
    *end = 0;
    return start;
}

/* `name = value`, cut at a # that starts the line or follows a blank. line is NUL-terminated. */
static int read_file_line(struct parse *p, const char *path, int number, char *line)
{
    char name[NAME_BYTES], *end = line + strlen(line);
    for (char *c = line; c < end; c++)
        if (*c == '#' && (c == line || isspace((unsigned char)c[-1])))
            *(end = c) = 0;
    line = trimmed(line, end);
    if (*line == 0)
        return 0;
    char *equals = strchr(line, '=');
    if (!equals)
        return fail(p, "%.300s:%d: not of the form name = value", path, number);
    char *value = trimmed(equals + 1, equals + 1 + strlen(equals + 1));
    char *key = trimmed(line, equals);
    snprintf(p->where, sizeof p->where, "%.300s:%d: %.80s", path, number, key);
    if (!normal_name(key, strlen(key), name))
        return fail(p, "%s: unknown option", p->where);
    int option = find_option(name);
    if (option < 0)
        return unknown_option(p, p->where, name);
    if (!strcmp(config_options[option].name, "config_file"))
        return fail(p, "%s: a configuration file cannot name another", p->where);
    if (p->level[option] == LEVEL_FILE)
        return fail(p, "%s: given twice", p->where);
    return set_value(p, option, LEVEL_FILE, value, true);
}

static int read_file(struct parse *p, const char *path)
{
    size_t n;
    char *bytes = read_all(p, path, &n);
    if (!bytes)
        return -1;
    int code = 0, number = bad_text_line((const unsigned char *)bytes, n);
    if (number > 0)
        code = fail(p, "%.300s:%d: not UTF-8 text", path, number);
    number = 1;
    for (char *line = bytes + (n >= 3 && !memcmp(bytes, "\xEF\xBB\xBF", 3) ? 3 : 0);
         code == 0 && line < bytes + n; number++) {
        char *end = memchr(line, '\n', (size_t)(bytes + n - line));
        if (end)
            *end = 0;
        char *next = end ? end + 1 : bytes + n;
        code = read_file_line(p, path, number, line);
        line = next;
    }
    free(bytes);
    return code;
}

/* ---- public ---- */

int config_parse(struct config *c, int argc, char **argv, char *error, size_t error_bytes,
                 char *warnings, size_t warnings_bytes)
{
    struct parse p = {.c = c, .error = error, .error_bytes = error_bytes, .warnings = warnings,
                      .warnings_bytes = warnings_bytes};
    _Static_assert(sizeof p.level / sizeof *p.level == OPTIONS_MAX, "one level for each option");
    memset(c, 0, sizeof *c);
    error[0] = warnings[0] = 0;
    int code = config_n_options <= OPTIONS_MAX ? read_line(&p, argc, argv)
                                               : fail(&p, "the table has too many rows");
    if (code == 0)
        code = read_environment(&p);
    if (code == 0 && c->config_file)
        code = read_file(&p, c->config_file);
    for (int i = 0; i < config_n_options && code == 0; i++)
        if (p.level[i] == LEVEL_NONE && config_options[i].standard) {
            snprintf(p.where, sizeof p.where, "default of %s", config_options[i].name);
            code = set_value(&p, i, LEVEL_STANDARD, config_options[i].standard, false);
        }
    config_free(&p.unused);
    if (code != 0)
        config_free(c);
    return code;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (struct config_text *text = c->texts; text;) {
        struct config_text *next = text->next;
        free(text);
        text = next;
    }
    memset(c, 0, sizeof *c);
}
