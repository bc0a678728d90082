/* answer_rig: the exchange, the engine and the template, played for the tests of answers; request
 * parsing, the tokenizer (the demo model's), the parsers and the writers are the real ones. One
 * test program includes it once. */
#ifndef SIROCCO_ANSWER_RIG_H
#define SIROCCO_ANSWER_RIG_H

#include "server/answer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/chat.h"
#include "engine/template/mistral.h"
#include "server/api.h"
#include "server/app.h"
#include "tests/test.h"

/* ---- the players */

enum { SUBMITTED_MAX = 128 };
static struct app app;
static struct engine_info info;
static struct tokenizer *tok;
static struct exchange x;
static struct {
    struct engine_request request;
    int32_t *tokens;
} submitted[SUBMITTED_MAX];
static int n_submitted, submit_fails_at;
static struct err failed;

const struct engine_info *engine_info(const struct engine *e)
{
    (void)e;
    return &info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    (void)e;
    return tok;
}

const struct chat *engine_chat(const struct engine *e)
{
    (void)e;
    return NULL;
}

/* The template: "<s>" if the first message says "bos", then the contents, untrusted. */
int chat_render(const struct chat *c, const struct chat_request *request, struct template_text *out,
                struct err *err)
{
    (void)c;
    const char *first =
        json_string_value(json_object_get(json_array_get(request->messages, 0), "content"));
    if (!strcmp(first, "raise"))
        return err_set(err, ERR_VALUE, "roles must alternate");
    if (!strcmp(first, "bos")) {
        buf_text(&out->text, tokenizer_token_text(tok, tokenizer_bos(tok)));
        out->trusted = malloc(sizeof *out->trusted);
        *out->trusted = (struct text_span){0, out->text.size};
        out->n_trusted = 1;
    }
    for (size_t i = 0; i < json_array_size(request->messages); i++)
        buf_text(&out->text, json_string_value(
                                 json_object_get(json_array_get(request->messages, i), "content")));
    return 0;
}

static bool takes_tools;

bool chat_takes_tools(const struct chat *c)
{
    (void)c;
    return takes_tools;
}

bool chat_holds(const struct chat *c, const char *text)
{
    (void)c;
    (void)text;
    return false;
}

static int native; /* 0: the template serves */

int chat_native(const struct chat *c)
{
    (void)c;
    return native;
}

/* Mistral's encoding: BOS and one token for each message; "raise" as the template. */
int mistral_encode_chat(const struct tokenizer *t, int version, enum mistral_mode mode,
                        const json_t *request, struct token_list *out, const char **kind,
                        struct err *err)
{
    const json_t *messages = json_object_get(request, "messages");
    const char *first = json_string_value(json_object_get(json_array_get(messages, 0), "content"));
    EXPECT_INT(version, native);
    EXPECT_INT(mode, MISTRAL_SERVING);
    *kind = first && !strcmp(first, "raise") ? "InvalidMessageStructureException" : NULL;
    if (*kind)
        return err_set(err, ERR_VALUE, "roles must alternate");
    token_list_add(out, tokenizer_bos(t));
    for (size_t i = 0; i < json_array_size(messages); i++)
        token_list_add(out, 5 + (int32_t)i);
    return 0;
}

void template_text_free(struct template_text *t)
{
    buf_free(&t->text);
    free(t->trusted);
}

int app_ready(const struct app *a, struct err *err)
{
    return a->phase == APP_READY ? 0 : err_set(err, ERR_LOADING, "The model is loading.");
}

void exchange_answer(struct exchange *e, int status, const char *content_type, const char *bytes,
                     size_t n)
{
    EXPECT(!e->status);
    e->status = status;
    e->content_type = content_type;
    buf_add(&e->out, bytes, n);
    e->complete = true;
}

void exchange_fail(struct exchange *e, const struct err *err)
{
    EXPECT(!e->complete);
    failed = *err;
    e->complete = true;
}

void exchange_prepare(struct exchange *e)
{
    struct err err = {0};
    int code = e->prepare(e, &err);
    EXPECT_INT(code, err.code);
    e->prepared(e, code, &err);
}

int exchange_submit(struct exchange *e, const struct engine_request *request, struct err *err)
{
    if (n_submitted == submit_fails_at)
        return err_set(err, ERR_FULL, "full");
    EXPECT(n_submitted < SUBMITTED_MAX);
    submitted[n_submitted].request = *request;
    submitted[n_submitted].tokens = malloc((size_t)request->n_tokens * sizeof(int32_t));
    memcpy(submitted[n_submitted].tokens, request->tokens,
           (size_t)request->n_tokens * sizeof(int32_t));
    n_submitted++;
    e->n_channels++;
    return 0;
}

void exchange_stream_begin(struct exchange *e)
{
    e->status = 200;
    e->streaming = true;
}

void exchange_flush(struct exchange *e)
{
    EXPECT(!e->complete);
}

void exchange_end(struct exchange *e)
{
    e->complete = true;
}

static void end(void)
{
    if (x.api_free)
        x.api_free(&x);
    buf_free(&x.body);
    buf_free(&x.out);
    arena_free(&x.arena);
    for (int i = 0; i < n_submitted; i++)
        free(submitted[i].tokens);
    n_submitted = 0;
    memset(&x, 0, sizeof x);
}

/* A ready server with the demo model's tokenizer. */
static void open_rig(void)
{
    static struct source *source; /* lives as long as the tokenizer */
    struct err err;
    if (!tok) {
        EXPECT_INT(source_open(test_path("config/demo"), &source, &err), 0);
        EXPECT_INT(tokenizer_open(source, NULL, 4096, "json", &tok, &err), 0);
    }
    submit_fails_at = -1;
    info = (struct engine_info){.model_name = "demo",
                                .arch = "llama",
                                .quant = "f32",
                                .kv_type = "f32",
                                .max_model_len = 64,
                                .context_length = 64,
                                .vocab_size = tokenizer_vocab_size(tok)};
    sample_params_init(&info.defaults);
    app = (struct app){.phase = APP_READY, .names = {"demo"}, .n_names = 1};
}

/* The handler, with a request's body, in an exchange of its own. */
static void run(void (*api)(struct exchange *), const char *body)
{
    end();
    memset(&failed, 0, sizeof failed);
    x.app = &app;
    arena_init(&x.arena, 0);
    buf_text(&x.body, body);
    api(&x);
}

static int32_t word(const char *text)
{
    int32_t id = tokenizer_find(tok, text, strlen(text));
    EXPECT(id >= 0);
    return id;
}

static void token_event(int channel, const char *piece, const char *text, float logprob)
{
    struct event event = {.kind = EVENT_TOKEN,
                          .token = word(piece),
                          .logprob = logprob,
                          .text = text,
                          .text_size = strlen(text)};
    if (!isnan(logprob)) {
        event.n_top = 1;
        event.top[0] = (struct sample_top){event.token, logprob};
    }
    x.on_event(&x, channel, &event);
}

static struct event done_event(enum finish_reason finish, const char *text, int prompt, int output)
{
    return (struct event){
        .kind = EVENT_DONE,
        .finish = finish,
        .text = text,
        .text_size = strlen(text),
        .stop_index = -1,
        .stop_token = -1,
        .usage = {.prompt_tokens = prompt, .output_tokens = output, .cached_tokens = 1}};
}

static void done(int channel, enum finish_reason finish, const char *text, int prompt, int output)
{
    struct event event = done_event(finish, text, prompt, output);
    x.on_event(&x, channel, &event);
}

/* The answer's JSON. */
static json_t *answer(void)
{
    EXPECT(x.complete && x.status == 200);
    json_t *json = json_loadb(x.out.data, x.out.size, JSON_REJECT_DUPLICATES, NULL);
    EXPECT(json != NULL);
    return json;
}

/* Frame i of the stream: its JSON, or NULL for [DONE]; fails where a frame is none. */
static json_t *frame(int i)
{
    char *at = x.out.data;
    EXPECT(at != NULL);
    for (; i > 0; i--) {
        at = strstr(at, "\n\n");
        EXPECT(at != NULL);
        at += 2;
    }
    EXPECT(!strncmp(at, "data: ", 6));
    char *stop = strstr(at, "\n\n");
    EXPECT(stop != NULL);
    if (!strncmp(at, "data: [DONE]", 12)) {
        EXPECT_STR(stop, "\n\n");
        return NULL;
    }
    json_t *json = json_loadb(at + 6, (size_t)(stop - at - 6), JSON_REJECT_DUPLICATES, NULL);
    EXPECT(json != NULL);
    return json;
}

/* path: "choices.0.delta.content"; numbers index arrays. NULL when something is not there. */
static json_t *at(json_t *json, const char *path)
{
    char step[64];
    while (json && *path) {
        size_t n = strcspn(path, ".");
        snprintf(step, sizeof step, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)strtol(step, NULL, 10))
                                   : json_object_get(json, step);
        path += n + (path[n] == '.');
    }
    return json;
}

static void expect_at(json_t *json, const char *path, const char *dumped)
{
    json_t *value = at(json, path);
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (!text || strcmp(text, dumped))
        printf("    at %s\n", path);
    EXPECT_STR(text, dumped);
    free(text);
}

static void expect_frame(int i, const char *path, const char *dumped)
{
    json_t *json = frame(i);
    EXPECT(json != NULL);
    expect_at(json, path, dumped);
    json_decref(json);
}

#endif
