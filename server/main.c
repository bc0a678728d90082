/* main: the command line: subcommands, what a person sees on the terminal, exit codes.
 *
 * Exit codes: 0 served and drained (or asked for help); 1 socket, memory, device or engine failed,
 * or a second signal cut the drain short; 2 the command line, the configuration or the model's
 * files are wrong, and will be when it is tried again. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "engine/base/err.h"
#include "engine/base/log.h"
#include "server/app.h"
#include "server/cmd.h"
#include "server/serve.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Descriptors 0 to 2 are taken, if need be by nothing: a socket or a file of the model that became
 * one of them would get the log's lines, and libuv aborts when it is to close one. */
static void main_take_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

static char sigbus_line[600];
static size_t sigbus_size;

/* A mapped model file shrank under us: nothing can go on. Async-signal-safe. */
static void main_on_sigbus(int number)
{
    (void)number;
    if (write(STDERR_FILENO, sigbus_line, sigbus_size) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

static void main_catch_sigbus(const char *model)
{
    int n = snprintf(sigbus_line, sizeof sigbus_line,
                     "sirocco: a file of the model %.400s became shorter or unreadable while it "
                     "was in use\n",
                     model != NULL ? model : "(embedded)");
    sigbus_size = n > 0 ? (size_t)n : 0;
    signal(SIGBUS, main_on_sigbus);
}

static void main_progress(void *user, const char *what, double fraction)
{
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    int full = (int)(fraction * WIDTH);
    (void)user;
    full = full < 0 ? 0 : full > WIDTH ? WIDTH : full;
    memset(bar, ' ', WIDTH);
    memset(bar, '#', (size_t)full);
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r\033[K[%s] %3.0f%% %s%s", bar, fraction * 100, what,
            fraction >= 1 ? "\n" : "");
    fflush(stderr);
}

static void main_plan(const char *text)
{
    fputs(text, stderr);
}

static void main_ready(const char *url)
{
    printf("listening on %s\n", url);
    fflush(stdout);
}

static void main_log_init(const struct config *c)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", "off"};
    int level = LOG_INFO;
    for (int i = 0; i < (int)(sizeof levels / sizeof levels[0]); i++)
        if (c->log_level != NULL && strcmp(c->log_level, levels[i]) == 0)
            level = i;
    log_init((enum log_level)level,
             c->log_format != NULL && strcmp(c->log_format, "json") == 0 ? LOG_JSON : LOG_TEXT);
}

/* What reads a model: options and files that are wrong stay so when it is tried again. */
static int exit_of_model(int code)
{
    return code == ERR_USAGE || code == ERR_FORMAT || code == ERR_IO ? EXIT_USAGE : EXIT_FAILED;
}

static int main_serve(int argc, char **argv)
{
    static struct config config; /* outlives a hard exit's remaining threads */
    static struct serve_hooks hooks;
    char error[512] = "", warnings[2048] = "";
    int rc = config_parse(&config, argc, argv, error, sizeof error, warnings, sizeof warnings);
    if (rc > 0)
        return EXIT_OK;
    if (rc < 0) {
        fprintf(stderr, "sirocco: %s\n", error);
        return EXIT_USAGE;
    }
    main_log_init(&config);
    if (warnings[0] != '\0')
        fprintf(stderr, "%s%s", warnings, warnings[strlen(warnings) - 1] == '\n' ? "" : "\n");
    main_catch_sigbus(config.model);
    json_object_seed(0);
    hooks.progress = !config.quiet && isatty(STDERR_FILENO) ? main_progress : NULL;
    hooks.plan = config.quiet ? NULL : main_plan;
    hooks.ready = main_ready;
    struct err err = {0};
    enum serve_end end = serve_run(&config, &hooks, &err);
    switch (end) {
    case SERVE_DRAINED:
        config_free(&config);
        return EXIT_OK;
    case SERVE_QUIT:
        _exit(EXIT_OK);
    case SERVE_UNABLE:
    case SERVE_ERROR:
        fprintf(stderr, "sirocco: %s\n", err.text[0] != '\0' ? err.text : err_text(err.code));
        if (end == SERVE_UNABLE)
            _exit(err.code == ERR_USAGE ? EXIT_USAGE : EXIT_FAILED);
        _exit(exit_of_model(err.code));
    case SERVE_FORCED:
    case SERVE_DEAD:
        break;
    }
    _exit(EXIT_FAILED);
}

static int main_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("sirocco %s\n", SIROCCO_VERSION);
    return EXIT_OK;
}

/* Has all that was printed reached its file? A result that was cut off is none. */
static int main_flush(struct err *err)
{
    if (fflush(stdout) != 0)
        return err_set(err, ERR_IO, "cannot write the output: %s", strerror(errno));
    return ferror(stdout) ? err_set(err, ERR_IO, "cannot write the output") : 0;
}

/* A subcommand from stdin to stdout. */
static int main_lines(int (*run)(int, char **, FILE *, FILE *, struct err *), int argc, char **argv)
{
    struct err err = {0};
    int rc = run(argc, argv, stdin, stdout, &err);
    if (rc == 0)
        rc = main_flush(&err);
    if (rc == 0)
        return EXIT_OK;
    fprintf(stderr, "sirocco: %s\n", err.text[0] != '\0' ? err.text : err_text(rc));
    return rc == ERR_USAGE ? EXIT_USAGE : EXIT_FAILED;
}

static int main_render(int argc, char **argv)
{
    return main_lines(cmd_render, argc, argv);
}

static int main_tokenize(int argc, char **argv)
{
    return main_lines(cmd_tokenize, argc, argv);
}

static int main_bench(int argc, char **argv)
{
    main_catch_sigbus("of the benchmark");
    return main_lines(cmd_bench, argc, argv);
}

static int main_inspect(int argc, char **argv)
{
    main_catch_sigbus("to be inspected");
    return main_lines(cmd_inspect, argc, argv);
}

static int main_quantize(int argc, char **argv)
{
    main_catch_sigbus("to be quantized");
    return main_lines(cmd_quantize, argc, argv);
}

static int main_perplexity(int argc, char **argv)
{
    main_catch_sigbus("to be measured");
    return main_lines(cmd_perplexity, argc, argv);
}

static int main_imatrix(int argc, char **argv)
{
    main_catch_sigbus("to be measured");
    return main_lines(cmd_imatrix, argc, argv);
}

static int main_help(int argc, char **argv);

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand */
    const char *help;
    const char *usage; /* of --help; NULL: the subcommand's own, or what `help` prints */
} commands[] = {
    {"serve", main_serve, "serve a model over HTTP (what is done without a subcommand)", NULL},
    {"bench", main_bench, "measure prompt processing, generation and many sequences at once",
     cmd_bench_usage},
    {"quantize", main_quantize, "quantize a model, or convert it, to a GGUF file",
     cmd_quantize_usage},
    {"imatrix", main_imatrix, "measure what a model's matrices are multiplied with, for quantize",
     cmd_imatrix_usage},
    {"perplexity", main_perplexity, "measure how well a model predicts a text, or as another does",
     cmd_perplexity_usage},
    {"inspect", main_inspect, "show a model's shapes, memory plan, tokenizer and ops",
     cmd_inspect_usage},
    {"render", main_render, "render a chat template over JSON lines, for scripts and tests",
     cmd_render_usage},
    {"tokenize", main_tokenize, "tokens of texts and chats over JSON lines, for scripts and tests",
     cmd_tokenize_usage},
    {"version", main_version, "print the version", NULL},
    {"help", main_help, "print this; `sirocco serve --help` lists the options", NULL},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int main_help(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("usage: sirocco [subcommand] [options]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].help);
    printf("\n`sirocco SUBCOMMAND --help` prints its options.\n");
    return EXIT_OK;
}

static bool main_asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int main_run(const struct command *command, int argc, char **argv)
{
    if (!main_asks_help(argc, argv) || command->run == main_serve)
        return command->run(argc, argv);
    if (command->usage == NULL)
        return main_help(argc, argv);
    fputs(command->usage, stdout);
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    static char serve[] = "serve";
    main_take_standard();
    if (argc < 2)
        return main_serve(argc, argv);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
        return main_version(argc, argv);
    if (argv[1][0] == '-') {
        argv[0] = serve;
        return main_serve(argc, argv);
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return main_run(&commands[i], argc - 1, argv + 1);
    fprintf(stderr, "sirocco: unknown subcommand '%s'; there are:", argv[1]);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, " %s", commands[i].name);
    fprintf(stderr, "\n");
    return EXIT_USAGE;
}
