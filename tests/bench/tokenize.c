/* tokenize: a tokenizer without a server, for tests/bench/tokenizer_speed.py and tests/diff.
 *
 *     tokenize PATH < LINES             {"text": ..., "trusted": bool} -> {"ids": [...], "text": ...}
 *     tokenize PATH --bench FILE...     one line per file: megabytes per second of CPU, tokens
 *
 * PATH is a model folder or a tokenizer file; "text" in an answer is the decoding of the ids. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int answer(const struct tokenizer *t, const char *line)
{
    json_error_t where;
    json_t *root = json_loads(line, JSON_ALLOW_NUL, &where);
    const json_t *text = json_object_get(root, "text");
    const char *bytes = json_string_value(text);
    struct token_list ids = {0};
    struct text_span all = {0, json_string_length(text)};
    struct err err;
    if (!bytes) {
        fprintf(stderr, "no text in: %s\n", where.text);
        return 1;
    }
    bool trusted = json_is_true(json_object_get(root, "trusted"));
    if (tokenizer_encode(t, bytes, all.end, false, &all, trusted, &ids, &err)) {
        fprintf(stderr, "%s\n", err.text);
        json_decref(root);
        return 1;
    }
    struct buf decoded, json;
    buf_init(&decoded, 0);
    buf_init(&json, 0);
    int failed = tokenizer_decode(t, ids.ids, ids.n, true, true, &decoded);
    buf_text(&json, "{\"ids\": [");
    for (size_t i = 0; i < ids.n; i++)
        buf_format(&json, "%s%d", i ? ", " : "", ids.ids[i]);
    buf_text(&json, "], \"text\": ");
    buf_json_string(&json, decoded.data ? decoded.data : "", decoded.size);
    failed = failed || json.failed || printf("%s}\n", json.data) < 0;
    buf_free(&decoded);
    buf_free(&json);
    token_list_free(&ids);
    json_decref(root);
    return failed;
}

static int answer_lines(const struct tokenizer *t)
{
    char *line = NULL;
    size_t capacity = 0;
    int failed = 0;
    while (!failed && getline(&line, &capacity, stdin) > 0)
        failed = answer(t, line);
    free(line);
    return failed;
}

static int bench(const struct tokenizer *t, const char *path)
{
    enum { RUNS = 5 };
    struct buf text;
    char block[1 << 14];
    FILE *file = fopen(path, "rb");
    buf_init(&text, 0);
    for (size_t n; file && (n = fread(block, 1, sizeof block, file)) > 0;)
        buf_add(&text, block, n);
    if (!file || text.failed || !text.size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    fclose(file);
    double best = 1e9;
    size_t n_tokens = 0;
    for (int i = 0; i < RUNS; i++) {
        struct token_list ids = {0};
        struct err err;
        double start = cpu_seconds();
        int code = tokenizer_encode(t, text.data, text.size, false, NULL, 0, &ids, &err);
        double seconds = cpu_seconds() - start;
        if (code)
            fprintf(stderr, "%s\n", err.text);
        best = !code && seconds < best ? seconds : best;
        n_tokens = ids.n;
        token_list_free(&ids);
    }
    printf("%.2f %zu %s\n", (double)text.size / best / 1e6, n_tokens, path);
    buf_free(&text);
    return 0;
}

int main(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct err err;
    if (argc < 2 || (argc > 2 && strcmp(argv[2], "--bench") != 0)) {
        fprintf(stderr, "usage: tokenize PATH [--bench FILE...]\n");
        return 2;
    }
    if (tokenizer_open_path(argv[1], 0, NULL, &t, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int failed = argc == 2 ? answer_lines(t) : 0;
    for (int i = 3; i < argc && !failed; i++)
        failed = bench(t, argv[i]);
    tokenizer_close(t);
    return failed;
}
