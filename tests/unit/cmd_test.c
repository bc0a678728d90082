/* Cmd: the subcommands for scripts: their options, their lines, what they answer to bad ones. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/cmd.h"
#include "tests/test.h"

typedef int command(int argc, char **argv, FILE *in, FILE *out, struct err *err);

/* Runs a subcommand over input; what it wrote stands in a static buffer. */
static const char *run(command *cmd, const char *const *args, const char *input, int expected,
                       struct err *err)
{
    static char written[1 << 16];
    char *argv[24];
    int n = 0;
    for (; args[n]; n++)
        argv[n] = strdup(args[n]);
    FILE *in = tmpfile(), *out = tmpfile();
    EXPECT(in != NULL && out != NULL);
    fputs(input, in);
    rewind(in);
    *err = (struct err){0};
    EXPECT_INT(cmd(n, argv, in, out, err), expected);
    rewind(out);
    written[fread(written, 1, sizeof written - 1, out)] = '\0';
    fclose(in);
    fclose(out);
    while (n)
        free(argv[--n]);
    return written;
}

/* A file of the test's own, gone when the child ends its test. */
static const char *temporary(const char *suffix, const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/sirocco-cmd-XXXXXX%s", suffix);
    int fd = mkstemps(path, (int)strlen(suffix));
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    EXPECT(file != NULL);
    fputs(text, file);
    fclose(file);
    return path;
}

static void expect_rendered(const char *suffix, const char *source, const char *name,
                            const char *input, const char *expected)
{
    const char *path = temporary(suffix, source);
    const char *args[] = {"render", "--template", path,     "--now=2025-07-10T12:00:00",
                          "--jsonl", name ? "--name" : NULL, name, NULL};
    struct err err;
    const char *written = run(cmd_render, args, input, 0, &err);
    remove(path);
    EXPECT_STR(written, expected);
}

TEST(render_answers_each_line)
{
    expect_rendered(".jinja", "{{ a }} {{ strftime_now('%d %b %Y %H:%M') }}", NULL,
                    "{\"context\": {\"a\": 1}}\n\n{\"context\": {\"a\": \"\\u0000\xc3\xa9\"}}",
                    "{\"text\":\"1 10 Jul 2025 12:00\"}\n"
                    "{\"text\":\"\\u0000\xc3\xa9 10 Jul 2025 12:00\"}\n");
}

TEST(render_names_what_went_wrong)
{
    expect_rendered(".jinja", "{{ raise_exception('no') if a else 1 + [] }}", NULL,
                    "{\"context\": {\"a\": 1}}\n{\"context\": {}}\n{\"context\": []}\nnot json\n[]\n",
                    "{\"error\":\"TemplateError\",\"message\":\"no\"}\n"
                    "{\"error\":\"TemplateRuntimeError\",\"message\":\"line 1, column 38: "
                    "unsupported operand type(s) for +: 'int' and 'list'\"}\n"
                    "{\"error\":\"InvalidLine\",\"message\":\"context is not an object\"}\n"
                    "{\"error\":\"InvalidLine\",\"message\":\"'[' or '{' expected near 'not'\"}\n"
                    "{\"error\":\"InvalidLine\",\"message\":\"not a JSON object\"}\n");
    expect_rendered(".jinja", "{% if %}", NULL, "{\"context\": {}}\n",
                    "{\"error\":\"TemplateSyntaxError\",\"message\":\"chat_template.jinja: line 1, "
                    "column 7: expected an expression, got 'end of statement block'\"}\n");
}

TEST(render_takes_json_and_names)
{
    static const char two[] = "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"},"
                              "{\"name\": \"tool_use\", \"template\": \"t\"}]}";
    static const char lines[] = "{\"context\": {}}\n{\"context\": {\"tools\": [1]}}\n";
    expect_rendered(".json", two, NULL, lines, "{\"text\":\"d\"}\n{\"text\":\"t\"}\n");
    expect_rendered(".json", two, "default", lines, "{\"text\":\"d\"}\n{\"text\":\"d\"}\n");
    expect_rendered(".json", "{\"chat_template\": \"x\"}", NULL, "{\"context\": {}}\n",
                    "{\"text\":\"x\"}\n");
}

TEST(render_leaves_the_final_message_open)
{
    expect_rendered(".jinja", "{% for m in messages %}<{{ m.content }}>{% endfor %}", NULL,
                    "{\"context\": {\"messages\": [{\"content\": \"a\"}, {\"content\": \"b \"}]}, "
                    "\"continue_final_message\": true}\n",
                    "{\"text\":\"<a><b \"}\n");
}

static void expect_refused(const char *const *args, int code, const char *words)
{
    struct err err;
    run(cmd_render, args, "", code, &err);
    if (!strstr(err.text, words))
        EXPECT_STR(err.text, words);
}

TEST(render_refuses_wrong_options)
{
    const char *path = temporary(".json", "{}");
    expect_refused((const char *[]){"render", "--jsonl", NULL}, ERR_USAGE, "usage:");
    expect_refused((const char *[]){"render", "--template", path, NULL}, ERR_USAGE, "usage:");
    expect_refused((const char *[]){"render", "--nothing", NULL}, ERR_USAGE, "'--nothing'");
    expect_refused((const char *[]){"render", "--jsonl=1", NULL}, ERR_USAGE, "'--jsonl=1'");
    expect_refused((const char *[]){"render", "--template", NULL}, ERR_USAGE, "needs a value");
    expect_refused((const char *[]){"render", "--template", path, "--jsonl", "--now", "noon", NULL},
                   ERR_USAGE, "--now");
    expect_refused((const char *[]){"render", "--template", path, "--jsonl", NULL}, ERR_FORMAT,
                   "no chat template");
    expect_refused((const char *[]){"render", "--template", path, "--jsonl", "--name", "x", NULL},
                   ERR_USAGE, "named 'x'");
    expect_refused((const char *[]){"render", "--template", "/nonexistent", "--jsonl", NULL},
                   ERR_IO, "/nonexistent");
    remove(path);
}

TEST(tokenize_answers_each_line)
{
    const char *args[] = {"tokenize", "--tokenizer", test_path("config/demo"), "--jsonl", NULL};
    struct err err;
    const char *written = run(cmd_tokenize, args,
                              "{\"text\": \"Hello world\"}\n"
                              "{\"request\": {\"messages\": []}, \"mode\": \"test\"}\n"
                              "{\"request\": {}, \"mode\": \"x\"}\n"
                              "{\"request\": {}, \"mode\": \"fim\"}\n"
                              "{}\n",
                              0, &err);
    EXPECT_STR(written,
               "{\"token_ids\":[1061,1183],\"text\":\"\xE2\x96\x81Hello\xE2\x96\x81world\"}\n"
               "{\"error\":\"InvalidMessageStructureException\",\"message\":\"Conversation must have "
               "at least one message\"}\n"
               "{\"error\":\"InvalidLine\",\"message\":\"mode is none of serving, test, finetuning, "
               "fim\"}\n"
               "{\"error\":\"ValidationError\",\"message\":\"prompt must be a text\"}\n"
               "{\"error\":\"InvalidLine\",\"message\":\"neither a text nor a request\"}\n");
}

TEST(tokenize_refuses_wrong_options)
{
    const char *demo = test_path("config/demo");
    static const char *const versions[] = {"v4", "3", "v", "v3x", "v-1", ""};
    struct err err;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        const char *args[] = {"tokenize", "--tokenizer", demo, "--jsonl", "--mistral-version",
                              versions[i], NULL};
        run(cmd_tokenize, args, "", ERR_USAGE, &err);
    }
    run(cmd_tokenize, (const char *[]){"tokenize", "--tokenizer", demo, NULL}, "", ERR_USAGE, &err);
    run(cmd_tokenize, (const char *[]){"tokenize", "--tokenizer", "/nonexistent", "--jsonl", NULL},
        "", ERR_IO, &err);
}

static void expect_bench_usage(const char *option, const char *value, const char *message)
{
    const char *args[] = {"bench", option, value, NULL};
    struct err err;
    run(cmd_bench, args, "", ERR_USAGE, &err);
    EXPECT_STR(err.text, message);
}

TEST(bench_refuses_what_is_no_test)
{
    expect_bench_usage("-p", "0", "bench: -p needs numbers from 1 to 1048576, not '0'");
    expect_bench_usage("-p", "12;", "bench: -p needs numbers with commas between");
    expect_bench_usage("-n", "7,x", "bench: -n needs numbers from 1 to 1048575, not 'x'");
    expect_bench_usage("-s", "1025", "bench: -s needs numbers from 1 to 1024, not '1025'");
    expect_bench_usage("-r", "3,4", "bench: -r needs one number");
    expect_bench_usage("--speed", NULL, "bench: unknown option '--speed'");
    const char *args[] = {"bench", "--model", "/nonexistent", NULL};
    struct err err;
    run(cmd_bench, args, "", ERR_IO, &err);
    EXPECT(strstr(err.text, "/nonexistent") != NULL);
}

/* Every test is there under its name, with a rate between its least and its most. */
TEST(bench_measures_what_it_is_asked)
{
    static const char *const names[] = {"pp40", "tg3@d20", "s2_pp9_tg4"};
    const char *args[] = {"bench", "-p", "40", "-n", "3", "-d", "20", "-s", "2", "--seq-prompt", "9",
                          "--seq-generate", "4", "-r", "2", "--json", NULL};
    struct err err;
    json_t *answer = json_loads(run(cmd_bench, args, "", 0, &err), 0, NULL), *result;
    const json_t *results = json_object_get(answer, "results");
    size_t i;
    EXPECT_INT(json_array_size(results), 3);
    EXPECT_STR(json_string_value(json_object_get(answer, "model")), "sirocco-demo");
    json_array_foreach(results, i, result) {
        double rate = json_number_value(json_object_get(result, "tokens_per_s"));
        EXPECT_STR(json_string_value(json_object_get(result, "test")), names[i]);
        EXPECT(rate > 0 && json_number_value(json_object_get(result, "min")) <= rate);
        EXPECT(json_number_value(json_object_get(result, "max")) >= rate);
    }
    json_decref(answer);
}

static double number_at(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    EXPECT(json_is_number(value));
    return json_number_value(value);
}

static void expect_times(const json_t *result, const char *name)
{
    const json_t *times = json_object_get(result, name);
    EXPECT(number_at(times, "p50") > 0 && number_at(times, "p50") <= number_at(times, "p95"));
    EXPECT(number_at(times, "p95") <= number_at(times, "p99"));
    EXPECT(number_at(times, "p99") <= number_at(times, "max"));
}

/* A load in a pool too small for all of it: sequences give way and come back, and every request
 * still gets the tokens that it gets alone (--verify would fail). */
TEST(bench_loads_the_scheduler)
{
    static const char *const names[] = {"load12_pp40_tg30", "load12_pp40_tg30_c3",
                                        "load12_pp9_tg1", "load12_pp9_tg1_c3"};
    const char *args[] = {"bench", "--serve-load", "--requests", "2", "--shape", "40/30x12,9/1x12",
                          "--concurrency", "0,3", "--verify", "12", "--kv-cache-bytes", "1m",
                          "--json", NULL};
    struct err err;
    json_t *answer = json_loads(run(cmd_bench, args, "", 0, &err), 0, NULL), *result;
    const json_t *results = json_object_get(answer, "results");
    size_t i;
    EXPECT_INT(json_array_size(results), 4);
    json_array_foreach(results, i, result) {
        int generate = i < 2 ? 30 : 1;
        double rate = number_at(result, "tokens_per_s"), seconds = number_at(result, "seconds");
        EXPECT_STR(json_string_value(json_object_get(result, "test")), names[i]);
        EXPECT(fabs(rate * seconds / (12 * generate) - 1) < 0.05);
        EXPECT(number_at(result, "steps") >= generate);
        expect_times(result, "ttft_ms");
        EXPECT(number_at(result, "kv_blocks_peak") <= number_at(result, "kv_blocks"));
        if (i == 0)
            EXPECT(number_at(result, "preemptions") > 0 && number_at(result, "stall_steps") > 1.5);
        if (i < 2)
            expect_times(result, "itl_ms");
    }
    json_decref(answer);
}

/* Arrivals by the clock: 10 at 40 a second take about a quarter of a second, whatever the machine
 * could do. */
TEST(bench_lets_requests_arrive_at_a_rate)
{
    const char *args[] = {"bench", "--serve-load", "--requests", "10", "--shape", "8/2", "--rate",
                          "40", "-r", "3", "--csv", NULL};
    struct err err;
    const char *out = run(cmd_bench, args, "", 0, &err), *row = strchr(out, '\n');
    EXPECT(strncmp(out, "test,tokens_per_s,min,max,ready_s,read_gb_per_s,gflop_per_s,total_tokens_per_s,",
                   79) == 0);
    EXPECT(row && strncmp(row + 1, "load10_pp8_tg2_r40,", 19) == 0);
    double rate = strtod(row + 20, NULL);
    EXPECT(rate > 10 && rate < 250); /* 80 tokens a second are asked for on average */
}

TEST(bench_refuses_what_is_no_load)
{
    static const struct {
        const char *args[5], *message;
    } cases[] = {
        {{"--rate", "3"}, "bench: --requests, --shape, --concurrency, --rate, --seed and --verify "
                          "go with --serve-load"},
        {{"--serve-load", "--rate", "3", "--concurrency", "2"},
         "bench: --rate or --concurrency, not both"},
        {{"--serve-load", "--rate", "0"},
         "bench: --rate needs numbers from 0.001 to 1000000, not '0'"},
        {{"--serve-load", "--rate", "nan"},
         "bench: --rate needs numbers from 0.001 to 1000000, not 'nan'"},
        {{"--serve-load", "--shape", "12"}, "bench: --shape needs P/G, as in 128/64"},
        {{"--serve-load", "--shape", "12/3x0"},
         "bench: --shape needs numbers from 1 to 65536, not '0'"},
        {{"--serve-load", "--shape", "12/0"},
         "bench: --shape needs numbers from 1 to 1048576, not '0'"},
        {{"--serve-load", "--concurrency", "-1"},
         "bench: --concurrency needs numbers from 0 to 65536, not '-1'"},
        {{"--serve-load", "--requests", "70000"},
         "bench: --requests needs numbers from 1 to 65536, not '70000'"},
        {{"--kv-cache-bytes", "5x"},
         "bench: --kv-cache-bytes needs bytes, also with k, m, g or t, not '5x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *args[8] = {"bench"};
        struct err err;
        for (int k = 0; k < 5; k++)
            args[k + 1] = cases[i].args[k];
        run(cmd_bench, args, "", ERR_USAGE, &err);
        EXPECT_STR(err.text, cases[i].message);
    }
    const char *big[] = {"bench", "--serve-load", "--requests", "2", "--shape", "3000/9",
                         "--kv-cache-bytes", "1m", NULL};
    struct err err;
    run(cmd_bench, big, "", ERR_CONTEXT, &err);
}
