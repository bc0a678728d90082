/* render: chat templates without a server, for tests/bench/template_speed.py.
 *
 *     render PATH < CONTEXTS      a JSON object of variables per line -> {"text": ..., "per_s": ...}
 *
 * PATH is what `sirocco render --template` takes. per_s: renders per second of CPU, the best of
 * RUNS rounds of at least ROUND_SECONDS; a context that the template refuses gives {"error": ...}.
 * What is timed is what a request costs: JSON values to the template's, the render, the release. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/template/chat.h"

static const char *const trusted[] = {"bos_token", "eos_token", NULL};

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double renders_per_second(const struct template *t, const json_t *context)
{
    enum { RUNS = 3, BATCH = 16 };
    static const double ROUND_SECONDS = 0.1;
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        double start = cpu_seconds(), seconds = 0;
        long n = 0;
        for (; seconds < ROUND_SECONDS; seconds = cpu_seconds() - start)
            for (int i = 0; i < BATCH; i++, n++) {
                struct template_text text;
                struct err err = {0};
                if (!template_render(t, context, trusted, 1752148800, &text, &err))
                    template_text_free(&text);
            }
        best = (double)n / seconds > best ? (double)n / seconds : best;
    }
    return best;
}

static int answer(const struct chat *chat, const char *line)
{
    json_error_t where;
    json_t *context = json_loads(line, 0, &where);
    if (!json_is_object(context)) {
        fprintf(stderr, "no context in: %s\n", where.text);
        json_decref(context);
        return 1;
    }
    const struct template *t =
        chat_template(chat, json_array_size(json_object_get(context, "tools")) > 0);
    struct template_text text = {0};
    struct err err = {0};
    struct buf out;
    int refused = template_render(t, context, trusted, 1752148800, &text, &err);
    buf_init(&out, 0);
    buf_text(&out, refused ? "{\"error\": " : "{\"text\": ");
    if (refused)
        buf_json_string(&out, err.text, strlen(err.text));
    else
        buf_json_string(&out, text.text.data ? text.text.data : "", text.text.size);
    if (!refused)
        buf_format(&out, ", \"per_s\": %.1f", renders_per_second(t, context));
    buf_byte(&out, '}');
    int failed = out.failed || printf("%s\n", out.data) < 0;
    buf_free(&out);
    template_text_free(&text);
    json_decref(context);
    return failed;
}

int main(int argc, char **argv)
{
    struct chat *chat = NULL;
    struct err err = {0};
    char *line = NULL;
    size_t capacity = 0;
    int failed = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: render PATH < CONTEXTS\n");
        return 2;
    }
    if (chat_open_path(argv[1], NULL, &chat, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    while (!failed && getline(&line, &capacity, stdin) > 0)
        failed = answer(chat, line);
    free(line);
    chat_close(chat);
    return failed;
}
