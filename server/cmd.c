/* cmd: options, progress and JSON lines of the subcommands. One thread; the only state beyond a
 * call is whether a signal asked the command to stop. */
#include "server/cmd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

void cmd_catch_interrupt(void)
{
    const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

bool cmd_interrupted(void)
{
    return interrupted != 0;
}

void cmd_progress(const char *what, double fraction)
{
    enum { WIDTH = 30 };
    static const char full[] = "##############################";
    int n = fraction <= 0 ? 0 : fraction >= 1 ? WIDTH : (int)(fraction * WIDTH);
    if (!isatty(STDERR_FILENO))
        return;
    if (what)
        fprintf(stderr, "\r\033[K[%-*.*s] %3.0f%% %s", WIDTH, n, full, fraction * 100, what);
    else
        fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

/* The next operand without a value; NULL: there is none. */
static const struct cmd_option *next_operand(const struct cmd_option *options, int n)
{
    for (int k = 0; k < n; k++)
        if (options[k].name[0] != '-' && !*options[k].value)
            return &options[k];
    return NULL;
}

int cmd_options(int argc, char **argv, const struct cmd_option *options, int n, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        const struct cmd_option *operand =
            argv[i][0] != '-' || !argv[i][1] ? next_operand(options, n) : NULL;
        if (operand) {
            *operand->value = argv[i];
            continue;
        }
        size_t name_bytes = strcspn(argv[i], "=");
        const struct cmd_option *o = NULL;
        for (int k = 0; k < n && !o; k++)
            if (strlen(options[k].name) == name_bytes &&
                memcmp(options[k].name, argv[i], name_bytes) == 0)
                o = &options[k];
        bool inline_value = argv[i][name_bytes] == '=';
        if (!o || (inline_value && !o->value))
            return err_set(err, ERR_USAGE, "%s: unknown option '%.100s'", argv[0], argv[i]);
        if (!o->value)
            *o->flag = true;
        else if (inline_value)
            *o->value = argv[i] + name_bytes + 1;
        else if (++i < argc)
            *o->value = argv[i];
        else
            return err_set(err, ERR_USAGE, "%s: %s needs a value", argv[0], o->name);
    }
    return 0;
}

int cmd_count(const char *command, const char *option, const char *text, long min, long max,
              int *out, struct err *err)
{
    char *end;
    if (!text)
        return 0;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return err_set(err, ERR_USAGE, "%s: %s needs a number from %ld to %ld, not '%.40s'",
                       command, option, min, max, text);
    *out = (int)value;
    return 0;
}

int cmd_bytes(const char *command, const char *option, const char *text, int64_t *out,
              struct err *err)
{
    static const char units[] = "kmgt";
    char *end;
    if (!text)
        return 0;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    const char *unit = *end ? strchr(units, *end | 32) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (end == text || errno || value < 1 || value > INT64_MAX >> shift ||
        (*end && (!unit || end[1])))
        return err_set(err, ERR_USAGE,
                       "%s: %s needs bytes, also with k, m, g or t, not '%.40s'", command, option,
                       text);
    *out = (int64_t)value << shift;
    return 0;
}

int cmd_read_file(const char *path, struct buf *out, struct err *err)
{
    char block[1 << 13];
    FILE *in = fopen(path, "re");
    if (!in)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;)
        buf_add(out, block, n);
    bool failed = ferror(in) != 0;
    fclose(in);
    if (failed)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(EIO));
    return out->failed ? err_set(err, out->failed, "%s: %s", path, err_text(out->failed)) : 0;
}

void cmd_error(struct buf *out, const char *kind, const char *text)
{
    buf_text(out, "{\"error\":");
    buf_json_string(out, kind, strlen(kind));
    buf_text(out, ",\"message\":");
    buf_json_string(out, text, strlen(text));
    buf_byte(out, '}');
}

static int answer_line(const char *text, size_t n, cmd_answer *answer, void *user, struct buf *out,
                       struct err *err)
{
    json_error_t where;
    json_t *line = json_loadb(text, n, JSON_ALLOW_NUL, &where);
    int rc = 0;
    if (json_is_object(line))
        rc = answer(user, line, out, err);
    else
        cmd_error(out, "InvalidLine", line ? "not a JSON object" : where.text);
    json_decref(line);
    return rc;
}

int cmd_lines(FILE *in, FILE *out, cmd_answer *answer, void *user, struct err *err)
{
    char *text = NULL;
    size_t capacity = 0;
    ssize_t n;
    struct buf answered;
    int rc = 0;
    buf_init(&answered, 0);
    while (!rc && (n = getline(&text, &capacity, in)) > 0) {
        if (strspn(text, " \t\r\n") == (size_t)n)
            continue;
        buf_clear(&answered);
        rc = answer_line(text, (size_t)n, answer, user, &answered, err);
        buf_byte(&answered, '\n');
        if (!rc && answered.failed)
            rc = err_set(err, answered.failed, "out of memory for an answer");
        if (!rc && (fwrite(answered.data, 1, answered.size, out) != answered.size || fflush(out)))
            rc = err_set(err, ERR_IO, "cannot write: %s", strerror(errno));
    }
    if (!rc && ferror(in))
        rc = err_set(err, ERR_IO, "cannot read: %s", strerror(errno));
    buf_free(&answered);
    free(text);
    return rc;
}
