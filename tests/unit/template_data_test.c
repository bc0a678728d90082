/* Templates as published, against renderings by Jinja2 3.1.6 set up as transformers does: the
 * reference files of SIROCCO_TEST_DATA. Errors must be errors; texts must be equal byte for byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/template.h"
#include "tests/test.h"

enum { NOW = 1752148800 }; /* 2025-07-10 12:00:00 UTC */

static const char *const trusted_names[] = {"bos_token", "eos_token", NULL};

static json_t *load(const char *relative)
{
    const char *path = test_data(relative);
    json_t *json = path ? json_load_file(path, 0, NULL) : NULL;
    return json;
}

/* 1 when the rendering is as expected ({"text": ...} or {"error": ...}). */
static int agrees(const char *source, size_t n, const json_t *context, const json_t *expected)
{
    struct template *t;
    struct template_text out = {0};
    struct err err;
    int rc = template_parse(source, n, &t, &err);
    if (!rc)
        rc = template_render(t, context, trusted_names, NOW, &out, &err);
    template_free(t);
    const json_t *text = json_object_get(expected, "text");
    int same = !text ? rc != 0
                     : !rc && out.text.size == json_string_length(text) &&
                           memcmp(out.text.data ? out.text.data : "", json_string_value(text),
                                  out.text.size) == 0;
    template_text_free(&out);
    return same;
}

/* The template that a line of expected.jsonl names: "file.jinja", "file.json#key" or
 * "file.jsonl#key", where key@2 is the second of that name. malloced. */
static char *read_template(const char *name)
{
    char relative[512];
    const char *key = strchr(name, '#');
    snprintf(relative, sizeof relative, "chat-templates/%.*s",
             key ? (int)(key - name) : (int)strlen(name), name);
    const char *path = test_data(relative);
    char *text = path ? test_read(path, &(size_t){0}) : NULL;
    if (!text || !key)
        return text;
    char plain[128];
    const char *at = strchr(key, '@');
    int wanted = at ? (int)strtol(at + 1, NULL, 10) : 1, seen = 0;
    snprintf(plain, sizeof plain, "%.*s", at ? (int)(at - key - 1) : (int)strlen(key + 1), key + 1);
    char *source = NULL;
    for (char *p = text; *p && !source;) {
        size_t used = 0;
        json_error_t error;
        json_t *line = json_loads(p, JSON_DISABLE_EOF_CHECK, &error);
        if (!line)
            break;
        const char *value = json_string_value(json_object_get(line, plain));
        if (value && ++seen == wanted)
            source = strdup(value);
        json_decref(line);
        used = (size_t)error.position;
        p += used;
        p += strspn(p, " \r\n\t");
    }
    free(text);
    return source;
}

TEST_SECONDS(published_templates_render_as_in_jinja2, 120)
{
    setenv("TZ", "UTC", 1);
    json_t *contexts = load("chat-templates/rendered/contexts.json");
    const char *path = test_data("chat-templates/rendered/expected.jsonl");
    FILE *lines = path ? fopen(path, "r") : NULL;
    if (!contexts || !lines) {
        json_decref(contexts);
        SKIP("SIROCCO_TEST_DATA has no chat-templates/rendered");
    }
    char *line = NULL, *source = NULL, name[512] = "";
    size_t capacity = 0;
    int wrong = 0, seen = 0;
    while (getline(&line, &capacity, lines) > 0) {
        json_t *expected = json_loads(line, 0, NULL);
        const char *wanted = json_string_value(json_object_get(expected, "template"));
        const char *context = json_string_value(json_object_get(expected, "context"));
        EXPECT(wanted != NULL && context != NULL);
        if (strcmp(name, wanted) != 0) {
            free(source);
            source = read_template(wanted);
            snprintf(name, sizeof name, "%s", wanted);
        }
        EXPECT(source != NULL);
        seen++;
        if (!agrees(source, strlen(source), json_object_get(contexts, context), expected)) {
            wrong++;
            fprintf(stderr, "differs: %s with %s\n", wanted, context);
        }
        json_decref(expected);
    }
    free(line);
    free(source);
    fclose(lines);
    json_decref(contexts);
    EXPECT(seen >= 2000);
    EXPECT_INT(wrong, 0);
}

/* jansson has no NUL in keys: another control character takes its place, in the expected text
 * too. */
static void replace_nul(char *text)
{
    while ((text = strstr(text, "\\u0000")) != NULL)
        text[5] = '1';
}

static void run_cases(const char *relative, size_t at_least)
{
    char *text = test_data(relative) ? test_read(test_data(relative), &(size_t){0}) : NULL;
    json_t *cases, *item;
    size_t i, seen = 0;
    int wrong = 0;
    if (!text)
        SKIP("SIROCCO_TEST_DATA has no huggingface.js-jinja");
    replace_nul(text);
    cases = json_loads(text, 0, NULL);
    free(text);
    EXPECT(cases != NULL);
    json_array_foreach(cases, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *source = json_object_get(item, "template");
        const json_t *expected = json_object_get(item, "jinja2");
        if (!expected || strcmp(name, "REPLACE") == 0) /* functions; count= needs Python 3.13 */
            continue;
        seen++;
        if (!agrees(json_string_value(source), json_string_length(source),
                    json_object_get(item, "context"), expected)) {
            wrong++;
            fprintf(stderr, "differs: %s\n", name);
        }
    }
    json_decref(cases);
    EXPECT(seen >= at_least);
    EXPECT_INT(wrong, 0);
}

TEST(model_templates_of_other_renderers)
{
    setenv("TZ", "UTC", 1);
    run_cases("chat-templates/huggingface.js-jinja/e2e.json", 50);
}

TEST(unit_cases_of_other_renderers)
{
    setenv("TZ", "UTC", 1);
    run_cases("chat-templates/huggingface.js-jinja/unit.json", 100);
}
