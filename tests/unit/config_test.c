/* Tests of config/config*.c: most walk THE TABLE, so that a new row is tested by being there. */
#include "config/config.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/test.h"

static struct config c;
static char error[512], warnings[2048], folder[64];

static int parse(int n, const char *const *args)
{
    char *argv[16] = {(char *)"serve"};
    for (int i = 0; i < n; i++)
        argv[i + 1] = (char *)args[i];
    config_free(&c);
    int code = config_parse(&c, n + 1, argv, error, sizeof error, warnings, sizeof warnings);
    EXPECT(code >= 0 || strlen(error) > 0);
    EXPECT(!strchr(error, '\n'));
    return code;
}

#define PARSE(...)                                                                                 \
    parse((int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)),                           \
          (const char *[]){__VA_ARGS__})

static void clear_environment(void)
{
    for (int i = 0; i < config_n_options; i++) {
        char name[128];
        snprintf(name, sizeof name, "SIROCCO_%s", config_options[i].name);
        for (char *p = name; *p; p++)
            *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        unsetenv(name);
    }
}

static const char *file_path(void)
{
    static char path[128];
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/sirocco-config-XXXXXX");
        EXPECT(mkdtemp(folder) != NULL);
    }
    snprintf(path, sizeof path, "%s/test.conf", folder);
    return path;
}

static void clean_up(void)
{
    unlink(file_path());
    rmdir(folder);
    config_free(&c);
}

static void write_file(const void *bytes, size_t n)
{
    FILE *f = fopen(file_path(), "wb");
    EXPECT(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static int parse_file(const char *text)
{
    write_file(text, strlen(text));
    return PARSE("--config-file", file_path());
}

enum source { FLAG, FLAG_EQUALS, FLAG_UNDERSCORES, ENVIRONMENT, FILE_LINE, N_SOURCES };

/* Sets one option to value by way of one source. */
static int parse_by(enum source source, const struct config_option *o, const char *value)
{
    char text[1024], name[128];
    int code;
    clear_environment();
    snprintf(name, sizeof name, "--%s", o->name);
    for (char *p = name; source != FLAG_UNDERSCORES && *p; p++)
        *p = *p == '_' ? '-' : *p;
    if (source == FLAG && o->kind != CONFIG_BOOL) /* a boolean takes its value by = alone */
        return PARSE(name, value);
    switch (source) {
    case FLAG:
    case FLAG_EQUALS:
    case FLAG_UNDERSCORES:
        snprintf(text, sizeof text, "%s=%s", name, value);
        return PARSE(text);
    case ENVIRONMENT:
        snprintf(name, sizeof name, "SIROCCO_%s", o->name);
        for (char *p = name; *p; p++)
            *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
        setenv(name, value, 1);
        code = parse(0, NULL);
        unsetenv(name);
        return code;
    default:
        snprintf(text, sizeof text, "# a comment\n\n%s = %s # and one more\n", o->name, value);
        return parse_file(text);
    }
}

/* A field as text, to compare. */
static void show(const struct config_option *o, char *out, size_t out_bytes)
{
    const char *at = (const char *)&c + o->offset;
    const struct config_list *list = (const struct config_list *)at;
    size_t n = 0;
    out[0] = 0;
    switch (o->kind) {
    case CONFIG_TEXT:
    case CONFIG_CHOICE:
        snprintf(out, out_bytes, "%s", *(char *const *)at ? *(char *const *)at : "(none)");
        return;
    case CONFIG_ITEMS:
        for (int i = 0; i < list->n; i++)
            n += (size_t)snprintf(out + n, out_bytes - n, "%s;", list->items[i]);
        return;
    case CONFIG_BOOL:
        snprintf(out, out_bytes, "%d", *(const bool *)at);
        return;
    case CONFIG_DECIMAL:
    case CONFIG_SECONDS:
        snprintf(out, out_bytes, "%a", *(const double *)at);
        return;
    default:
        snprintf(out, out_bytes, "%lld", (long long)*(const int64_t *)at);
    }
}

static bool is_number(const struct config_option *o)
{
    return o->kind >= CONFIG_INT;
}

/* Values that must be accepted, and what the field must then show. Returns how many. */
static int good_values(const struct config_option *o, char values[8][64], char shown[8][64])
{
    int n = 0;
    long long low = (long long)o->min, high = (long long)o->max;
    switch (o->kind) {
    case CONFIG_TEXT:
        snprintf(values[0], 64, "some/path-1.5");
        snprintf(shown[0], 64, "some/path-1.5");
        return strcmp(o->name, "config_file") ? 1 : 0;
    case CONFIG_ITEMS:
        snprintf(values[0], 64, "one");
        snprintf(shown[0], 64, "one;");
        return 1;
    case CONFIG_CHOICE:
        for (const char *word = o->value; *word; n++) {
            size_t size = strcspn(word, "|");
            snprintf(values[n], 64, "%.*s", (int)size, word);
            snprintf(shown[n], 64, "%.*s", (int)size, word);
            word += size + (word[size] == '|');
        }
        return n;
    case CONFIG_BOOL:
        for (; n < 6; n++) {
            snprintf(values[n], 64, "%s", (const char *[]){"true", "false", "1", "0", "Yes",
                                                           "off"}[n]);
            snprintf(shown[n], 64, "%d", n % 2 == 0);
        }
        return n;
    case CONFIG_DECIMAL:
        snprintf(values[n], 64, "0.25");
        snprintf(shown[n++], 64, "%a", 0.25);
        snprintf(values[n], 64, "%.2f", o->min);
        snprintf(shown[n++], 64, "%a", o->min);
        snprintf(values[n], 64, "%.2f", o->max);
        snprintf(shown[n++], 64, "%a", o->max);
        return n;
    case CONFIG_SECONDS:
        snprintf(values[n], 64, "1500ms");
        snprintf(shown[n++], 64, "%a", 1.5);
        snprintf(values[n], 64, "2m");
        snprintf(shown[n++], 64, "%a", 120.0);
        snprintf(values[n], 64, "0.1");
        snprintf(shown[n++], 64, "%a", 0.1);
        return n;
    default:
        break;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(values[n], 64, "%lld", i ? high : low);
        snprintf(shown[n++], 64, "%lld", i ? high : low);
    }
    if (o->kind == CONFIG_BYTES || o->kind == CONFIG_MS) {
        snprintf(values[n], 64, "%s", o->kind == CONFIG_BYTES ? "64K" : "2s");
        snprintf(shown[n++], 64, "%d", o->kind == CONFIG_BYTES ? 65536 : 2000);
    }
    return n;
}

TEST(flag_environment_and_file_agree)
{
    int n_checked = 0;
    for (int i = 0; i < config_n_options; i++) {
        const struct config_option *o = &config_options[i];
        char values[8][64], shown[8][64], got[512];
        int n = good_values(o, values, shown);
        for (int j = 0; j < n; j++)
            for (int source = 0; source < N_SOURCES; source++) {
                int code = parse_by(source, o, values[j]);
                if (code != 0)
                    printf("    %s\n", error);
                EXPECT_INT(code, 0);
                show(o, got, sizeof got);
                EXPECT_STR(got, shown[j]);
                n_checked++;
            }
    }
    EXPECT(n_checked > 300);
    clean_up();
}

/* The message names the option, in the source's spelling, and what is allowed. */
static void expect_refused(const struct config_option *o, const char *value)
{
    for (int source = 0; source < N_SOURCES; source++) {
        char low[16];
        int code = parse_by(source, o, value);
        if (code != -1)
            printf("    %s accepts \"%s\"\n", o->name, value);
        EXPECT_INT(code, -1);
        char named[128];
        snprintf(named, sizeof named, "%s", o->name);
        for (char *p = named; *p; p++) {
            if (source == FLAG || source == FLAG_EQUALS)
                *p = *p == '_' ? '-' : *p;
            if (source == ENVIRONMENT && *p >= 'a' && *p <= 'z')
                *p = (char)(*p - 32);
        }
        EXPECT(strstr(error, named) != NULL);
        if (source == FILE_LINE)
            EXPECT(strstr(error, "test.conf:3: ") != NULL);
        snprintf(low, sizeof low, "%lld", (long long)o->min);
        if (o->kind == CONFIG_INT || o->kind == CONFIG_MS)
            EXPECT(strstr(error, low) != NULL && strstr(error, " to ") != NULL);
    }
}

TEST(numbers_out_of_range_and_garbage_are_refused)
{
    static const char *const garbage[] = {"abc", "1e3",  "8080x", "+5",  "0x10", "5 5",
                                          "1,5", "nan",  "inf",   "1..2", "-",   ".",   "12kk",
                                          "5q",  "\xEF\xBC\x95"};
    int n_numbers = 0;
    for (int i = 0; i < config_n_options; i++) {
        const struct config_option *o = &config_options[i];
        char value[64];
        if (!is_number(o))
            continue;
        n_numbers++;
        for (size_t j = 0; j < sizeof garbage / sizeof *garbage; j++)
            expect_refused(o, garbage[j]);
        bool decimal = o->kind == CONFIG_DECIMAL || o->kind == CONFIG_SECONDS;
        snprintf(value, sizeof value, decimal ? "%.3f" : "%.0f", o->min - (decimal ? 0.001 : 1));
        expect_refused(o, value);
        snprintf(value, sizeof value, decimal ? "%.3f" : "%.0f", o->max + (decimal ? 0.001 : 1));
        expect_refused(o, value);
        expect_refused(o, "9223372036854775808");
        expect_refused(o, "-9223372036854775809");
        expect_refused(o, "99999999999999999999999999999999999999");
        expect_refused(o, "18446744073709551617");
        if (!decimal)
            expect_refused(o, "16.5");
        if (o->kind == CONFIG_INT)
            expect_refused(o, "16k");
        if (o->kind == CONFIG_BYTES)
            expect_refused(o, "9007199254740993t"); /* overflows by its suffix */
        if (o->kind == CONFIG_MS)
            expect_refused(o, "1h");
        if (o->power_of_two)
            expect_refused(o, "24");
    }
    EXPECT(n_numbers >= 20);
    clean_up();
}

TEST(words_and_booleans_are_checked)
{
    for (int i = 0; i < config_n_options; i++) {
        const struct config_option *o = &config_options[i];
        if (o->kind == CONFIG_CHOICE || o->kind == CONFIG_BOOL) {
            expect_refused(o, "maybe");
            expect_refused(o, "f1");
            expect_refused(o, "2");
        }
    }
    clear_environment();
    EXPECT_INT(PARSE("--tokenizer", "gpu"), -1);
    EXPECT_STR(error, "--tokenizer: \"gpu\" is not one of auto json tekken spm");
    EXPECT_INT(PARSE("--no-prefix-cache", "--quiet"), 0);
    EXPECT(!c.prefix_cache && c.quiet);
    EXPECT_INT(PARSE("--no-port"), -1);
    EXPECT_INT(PARSE("--no-quiet=true"), -1);
    clean_up();
}

TEST(defaults)
{
    clear_environment();
    EXPECT_INT(parse(0, NULL), 0);
    EXPECT(c.model == NULL && c.api_key_file == NULL && c.chat_template == NULL);
    EXPECT_STR(c.host, "127.0.0.1");
    EXPECT_INT(c.port, 8000);
    EXPECT_INT(c.max_seqs, 0);
    EXPECT_INT(c.max_body_bytes, 8 << 20);
    EXPECT_INT(c.max_header_bytes, 16 << 10);
    EXPECT_INT(c.block_size, 16);
    EXPECT(c.kv_cache_fraction == 0.5 && c.shutdown_timeout == 30.0);
    EXPECT_STR(c.kv_cache_type, "f16");
    EXPECT_STR(c.log_level, "info");
    EXPECT(c.prefix_cache && !c.quiet);
    EXPECT_STR(warnings, "");
    for (int i = 0; i < config_n_options; i++) { /* each default passes its own row's check */
        if (config_options[i].standard)
            EXPECT_INT(parse_by(FLAG_EQUALS, &config_options[i], config_options[i].standard), 0);
    }
    clean_up();
}

TEST(precedence_is_line_environment_file_default)
{
    clear_environment();
    EXPECT_INT(parse_file("port = 1\nmax_seqs = 11\nhost = file\n"), 0);
    setenv("SIROCCO_CONFIG_FILE", file_path(), 1);
    setenv("SIROCCO_PORT", "2", 1);
    setenv("SIROCCO_MAX_SEQS", "12", 1);
    setenv("SIROCCO_API_KEY", "one, two", 1);
    EXPECT_INT(PARSE("--port=3", "--api-key", "three"), 0);
    EXPECT_INT(c.port, 3);
    EXPECT_INT(c.max_seqs, 12);
    EXPECT_STR(c.host, "file");
    EXPECT_INT(c.api_key.n, 1);
    EXPECT_STR(c.api_key.items[0], "three");
    EXPECT(strstr(warnings, "--api-key") && !strstr(warnings, "three"));
    EXPECT_INT(PARSE("--port=3"), 0);
    EXPECT_INT(c.api_key.n, 2);
    EXPECT_STR(c.api_key.items[1], "two");
    EXPECT_STR(warnings, "");
    setenv("SIROCCO_PORT", "nonsense", 1); /* overridden, and still wrong */
    EXPECT_INT(PARSE("--port=3"), -1);
    EXPECT(!strncmp(error, "SIROCCO_PORT: ", 14));
    setenv("SIROCCO_PORT", "", 1); /* empty is unset */
    EXPECT_INT(parse(0, NULL), 0);
    EXPECT_INT(c.port, 1);
    setenv("SIROCCO_PORT", "tcp://10.0.0.7:8000", 1); /* a Kubernetes service link */
    EXPECT_INT(parse(0, NULL), 0);
    EXPECT_INT(c.port, 1);
    EXPECT(strstr(warnings, "SIROCCO_PORT") != NULL);
    clear_environment();
    clean_up();
}

TEST(variables_of_no_option)
{
    clear_environment();
    setenv("SIROCCO_MAX_SEQ", "4", 1);
    setenv("SIROCCO_MAX_NUM_BATCHED_TOKENS", "4", 1); /* another server's name */
    setenv("SIROCCO_THREADS", "3", 1);
    setenv("SIROCCO_SERVICE_HOST", "10.0.0.7", 1); /* Kubernetes' */
    setenv("SIROCCO_PORT_8000_TCP", "tcp://10.0.0.7:8000", 1);
    setenv("SIROCCO_HOME", "/srv", 1);
    EXPECT_INT(parse(0, NULL), 0);
    EXPECT_INT(c.threads, 3);
    EXPECT(strstr(warnings, "SIROCCO_MAX_SEQ: ") && strstr(warnings, "mean SIROCCO_MAX_SEQS?"));
    EXPECT(strstr(warnings, "SIROCCO_MAX_NUM_BATCHED_TOKENS: ") &&
           strstr(warnings, "mean SIROCCO_MAX_BATCH_TOKENS?"));
    int lines = 0;
    for (const char *at = warnings; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    EXPECT_INT(lines, 2);
    unsetenv("SIROCCO_MAX_SEQ");
    unsetenv("SIROCCO_MAX_NUM_BATCHED_TOKENS");
    unsetenv("SIROCCO_SERVICE_HOST");
    unsetenv("SIROCCO_PORT_8000_TCP");
    unsetenv("SIROCCO_HOME");
    clear_environment();
    clean_up();
}

TEST(command_line_mistakes_are_named)
{
    clear_environment();
    EXPECT_INT(PARSE("--max-seq", "4"), -1);
    EXPECT_STR(error, "--max-seq: unknown option; did you mean --max-seqs?");
    EXPECT_INT(PARSE("--frobnicate-everything"), -1);
    EXPECT_STR(error, "--frobnicate-everything: unknown option; --help lists them");
    EXPECT_INT(PARSE("--port"), -1);
    EXPECT_STR(error, "--port: the value is missing");
    EXPECT_INT(PARSE("--port", "--quiet"), -1);
    EXPECT_STR(error, "--port: the value is missing");
    EXPECT_INT(PARSE("--port="), -1);
    EXPECT_STR(error, "--port: the value is empty");
    EXPECT_INT(PARSE("--port", "65536"), -1);
    EXPECT_STR(error, "--port: 65536 is out of range; expected 0 to 65535");
    EXPECT_INT(PARSE("--port", "-1"), -1);
    EXPECT_STR(error, "--port: -1 is out of range; expected 0 to 65535");
    EXPECT_INT(PARSE("--port=1", "--port=1"), -1);
    EXPECT_STR(error, "--port: given twice");
    EXPECT_INT(PARSE("--max-seqs=1", "--max_num_seqs=1"), -1);
    EXPECT_INT(PARSE("-p", "1"), -1);
    EXPECT_INT(PARSE("--"), 0);
    EXPECT_INT(PARSE("--=5"), -1);
    EXPECT_INT(PARSE("--host", "a\nb\x1b[31m", "--port=x\ny"), -1);
    EXPECT(!strchr(error, '\x1b') && !strchr(error, '\n'));
    EXPECT_INT(PARSE("--api-key", "sk-very secret"), -1);
    EXPECT(!strstr(error, "secret"));
    char longest[4096];
    memset(longest, 'x', sizeof longest);
    longest[0] = longest[1] = '-';
    longest[sizeof longest - 1] = 0;
    EXPECT_INT(PARSE(longest), -1);
    clean_up();
}

TEST(positional_argument_is_the_model)
{
    clear_environment();
    EXPECT_INT(PARSE("models/a", "--port", "1"), 0);
    EXPECT_STR(c.model, "models/a");
    EXPECT_INT(PARSE("--port", "1", "--", "-odd-name"), 0);
    EXPECT_STR(c.model, "-odd-name");
    EXPECT_INT(PARSE("a", "b"), -1);
    EXPECT_INT(PARSE("--model", "a", "b"), -1);
    EXPECT_INT(PARSE("b", "--model", "a"), -1);
    clean_up();
}

TEST(lists_gather_their_items)
{
    clear_environment();
    EXPECT_INT(PARSE("--served-model-name", "a", "--served_model_name=b", "--alias", "c"), 0);
    EXPECT_INT(c.served_model_name.n, 3);
    EXPECT_STR(c.served_model_name.items[2], "c");
    EXPECT_INT(PARSE("--allowed-origins", "[\"https://a.example\", \"*\"]"), 0);
    EXPECT_INT(c.cors_origin.n, 2);
    EXPECT_STR(c.cors_origin.items[0], "https://a.example");
    EXPECT_STR(c.cors_origin.items[1], "*");
    EXPECT_INT(PARSE("--allowed-origins", "[a]"), -1);
    EXPECT_INT(PARSE("--allowed-origins", "[]"), -1);
    EXPECT_INT(PARSE("--allowed-origins", "["), 0); /* an odd name, and no array */
    char many[CONFIG_LIST_MAX * 2 + 3];
    for (size_t i = 0; i + 1 < sizeof many; i++)
        many[i] = i % 2 ? ',' : 'k';
    many[CONFIG_LIST_MAX * 2 - 1] = 0;
    setenv("SIROCCO_API_KEY", many, 1);
    EXPECT_INT(parse(0, NULL), 0);
    EXPECT_INT(c.api_key.n, CONFIG_LIST_MAX);
    many[CONFIG_LIST_MAX * 2 - 1] = ',';
    many[CONFIG_LIST_MAX * 2 + 1] = 0;
    setenv("SIROCCO_API_KEY", many, 1);
    EXPECT_INT(parse(0, NULL), -1);
    setenv("SIROCCO_API_KEY", "a,,b", 1);
    EXPECT_INT(parse(0, NULL), -1);
    clear_environment();
    clean_up();
}

TEST(options_of_other_servers)
{
    clear_environment();
    EXPECT_INT(PARSE("--max-num-seqs", "8", "--max_num_batched_tokens=256", "--kv-cache-dtype",
                     "bfloat16", "--no-enable-prefix-caching", "--ctx-size", "2048"), 0);
    EXPECT_INT(c.max_seqs, 8);
    EXPECT_INT(c.max_batch_tokens, 256);
    EXPECT_INT(c.max_model_len, 2048);
    EXPECT_STR(c.kv_cache_type, "bf16");
    EXPECT(!c.prefix_cache);
    EXPECT_STR(warnings, "");
    EXPECT_INT(PARSE("--enable-prefix-caching", "--kv-cache-dtype=auto"), 0);
    EXPECT(c.prefix_cache);
    EXPECT_STR(c.kv_cache_type, "f16");
    EXPECT_INT(PARSE("--kv-cache-dtype", "fp8_e4m3"), 0);
    EXPECT_STR(c.kv_cache_type, "fp8");
    EXPECT_INT(PARSE("--kv-cache-dtype", "fp8_e5m2"), -1);
    EXPECT_INT(PARSE("--enable-chunked-prefill", "--no-enable-chunked-prefill"), 0);
    EXPECT_INT(PARSE("--dtype", "auto", "--gpu_memory_utilization", "0.9", "--trust-remote-code",
                     "--tensor-parallel-size", "1", "folder"), 0);
    EXPECT_STR(c.model, "folder");
    EXPECT(strstr(warnings, "--dtype: ") && strstr(warnings, "--gpu_memory_utilization: ") &&
           strstr(warnings, "--trust-remote-code: "));
    EXPECT_INT(PARSE("--tensor-parallel-size", "2"), -1);
    EXPECT_STR(error, "--tensor-parallel-size: only 1 is supported");
    EXPECT_INT(PARSE("--dtype"), -1);
    EXPECT_INT(PARSE("--enable-lora"), -1); /* would change what is served: not ignored */
    clean_up();
}

static void expect_file_error(const char *text, const char *part)
{
    EXPECT_INT(parse_file(text), -1);
    if (!strstr(error, part))
        printf("    %s\n", error);
    EXPECT(strstr(error, part) != NULL);
}

TEST(file_mistakes_name_their_line)
{
    clear_environment();
    EXPECT_INT(parse_file("\xEF\xBB\xBFport = 5\r\n\r\n  max-seqs=7\t# seven\r\nmodel = a#b c"), 0);
    EXPECT_INT(c.port, 5);
    EXPECT_INT(c.max_seqs, 7);
    EXPECT_STR(c.model, "a#b c");
    EXPECT_INT(parse_file(""), 0);
    expect_file_error("port = 1\nport = 2\n", "test.conf:2: port: given twice");
    expect_file_error("\n\nporto = 1\n", "test.conf:3: porto: unknown option; did you mean port?");
    expect_file_error("port\n", "test.conf:1: not of the form name = value");
    expect_file_error("port =\n", "test.conf:1: port: the value is empty");
    expect_file_error("port = # 5\n", "test.conf:1: port: the value is empty");
    expect_file_error("= 5\n", "test.conf:1: ");
    expect_file_error("config_file = x\n", "cannot name another");
    expect_file_error("port = 1\nhost = \xFF\n", "test.conf:2: not UTF-8");
    expect_file_error("\xC0\xAF", "test.conf:1: not UTF-8");
    expect_file_error("# \xED\xA0\x80\n", "not UTF-8");
    expect_file_error("#\n# \xE2\x82", "test.conf:2: not UTF-8");
    write_file("port = 1\n\0", 10);
    EXPECT_INT(PARSE("--config", file_path()), -1);
    size_t n = (1 << 20) + 1;
    char *big = malloc(n + 1);
    memset(big, '\n', n);
    big[n] = 0;
    expect_file_error(big, "larger than");
    big[n - 1] = 0;
    EXPECT_INT(parse_file(big), 0);
    free(big);
    EXPECT_INT(PARSE("--config-file", "/"), -1);
    EXPECT(strstr(error, "config_file /: ") == error && strstr(error, "directory"));
    EXPECT_INT(PARSE("--config-file", "/nowhere/at-all"), -1);
    EXPECT(strstr(error, "config_file /nowhere/at-all: ") == error);
    clean_up();
}

TEST(the_locale_changes_nothing)
{
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "tr_TR.UTF-8"};
    bool any = false;
    clear_environment();
    for (int i = 0; i < 3; i++) {
        if (!setlocale(LC_ALL, names[i]))
            continue;
        any = true;
        EXPECT_INT(PARSE("--kv-cache-fraction", "0.25", "--KV-CACHE-TYPE=f16"), -1);
        EXPECT_INT(PARSE("--kv-cache-fraction", "0.25", "--log-level", "INFO"), 0);
        EXPECT(c.kv_cache_fraction == 0.25);
        EXPECT_INT(PARSE("--kv-cache-fraction", "0,25"), -1);
        EXPECT(strstr(error, "0.01 to 0.98") != NULL);
    }
    clean_up();
    if (!any)
        SKIP("no locale with a decimal comma is installed");
}

static char *written(void (*write)(FILE *))
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    write(f);
    fclose(f);
    return text;
}

TEST(default_conf_is_what_the_table_writes)
{
    size_t n;
    char *file = test_read(test_path("config/default.conf"), &n);
    EXPECT(file != NULL);
    char *text = written(config_write_default);
    EXPECT_STR(file, text);
    free(file);
    /* with every line that has a default made active, it loads and changes nothing */
    char before[64][64], after[64];
    clear_environment();
    EXPECT_INT(parse(0, NULL), 0);
    for (int i = 0; i < config_n_options; i++)
        show(&config_options[i], before[i], sizeof before[i]);
    char *active = calloc(strlen(text) + 1, 1);
    size_t n_active = 0;
    int n_lines = 0;
    for (char *line = text; *line;) {
        size_t size = strcspn(line, "\n");
        bool option = line[0] == '#' && line[1] >= 'a' && line[1] <= 'z' && line[size - 1] != '=';
        memcpy(active + n_active, line + option, size + 1 - option);
        n_active += size + 1 - option;
        n_lines += option;
        line += size + 1;
    }
    EXPECT_INT(parse_file(active), 0);
    int n_standards = 0;
    for (int i = 0; i < config_n_options; i++) {
        n_standards += config_options[i].standard != NULL;
        show(&config_options[i], after, sizeof after);
        if (strcmp(config_options[i].name, "config_file"))
            EXPECT_STR(after, before[i]);
    }
    EXPECT_INT(n_lines, n_standards);
    free(active);
    free(text);
    clean_up();
}

TEST(help_fits_eighty_columns_and_lists_every_option)
{
    char *help = written(config_write_help), *table = written(config_write_markdown);
    for (const char *line = help; *line;) {
        size_t n = strcspn(line, "\n");
        EXPECT(n <= 80);
        EXPECT(n == 0 || line[n - 1] != ' ');
        line += n + (line[n] == '\n');
    }
    for (int i = 0; i < config_n_options; i++) {
        char flag[128], cell[160];
        snprintf(flag, sizeof flag, "%s", config_options[i].name);
        for (char *p = flag; *p; p++)
            *p = *p == '_' ? '-' : *p;
        snprintf(cell, sizeof cell, "| `--%s` |", flag);
        EXPECT(strstr(help, flag) != NULL);
        EXPECT(strstr(table, cell) != NULL);
    }
    free(help);
    free(table);
    EXPECT_INT(freopen("/dev/null", "w", stdout) != NULL, 1);
    EXPECT_INT(PARSE("--port", "1", "--help"), 1);
    EXPECT_INT(PARSE("-h"), 1);
}
