/* answer_test: events of sequences in, OpenAI's bytes out. The exchange, the engine and the
 * template are played by this file; request parsing, the tokenizer (the demo model's) and the
 * writers are the real ones. */
#include "server/answer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/chat.h"
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

static void begin(void (*api)(struct exchange *), const char *body)
{
    static struct source *source; /* lives as long as the tokenizer */
    struct err err;
    end();
    if (!tok) {
        EXPECT_INT(source_open(test_path("config/demo"), &source, &err), 0);
        EXPECT_INT(tokenizer_open(source, NULL, 4096, "json", &tok, &err), 0);
    }
    memset(&failed, 0, sizeof failed);
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

#define CHAT(fields) "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" fields "}"

/* ---- tests */

TEST(whole_chat_answer)
{
    begin(api_chat, CHAT(",\"n\":2,\"return_token_ids\":true,\"stop\":[\"!\",\"?\"],\"seed\":5"));
    EXPECT_INT(n_submitted, 2);
    EXPECT_INT(submitted[0].request.params.seed, 5);
    EXPECT_INT(submitted[1].request.params.seed, 6);
    EXPECT(submitted[0].request.group && submitted[0].request.group == submitted[1].request.group);
    EXPECT_INT(submitted[0].request.max_tokens, 64 - submitted[0].request.n_tokens);
    token_event(1, "a", "a", NAN);
    struct event event = done_event(FINISH_STOP, "", submitted[1].request.n_tokens, 1);
    event.stop_index = 1;
    x.on_event(&x, 1, &event);
    EXPECT(!x.complete);
    token_event(0, "b", "", NAN);
    done(0, FINISH_LENGTH, "b\"", submitted[0].request.n_tokens, 1);
    json_t *json = answer();
    EXPECT_STR(x.content_type, "application/json");
    expect_at(json, "object", "\"chat.completion\"");
    expect_at(json, "model", "\"demo\"");
    expect_at(json, "choices.0.index", "0");
    expect_at(json, "choices.0.message",
              "{\"role\":\"assistant\",\"content\":\"b\\\"\",\"refusal\":null}");
    expect_at(json, "choices.0.logprobs", "null");
    expect_at(json, "choices.0.finish_reason", "\"length\"");
    expect_at(json, "choices.0.stop_reason", "null");
    expect_at(json, "choices.1.message.content", "\"a\"");
    expect_at(json, "choices.1.finish_reason", "\"stop\"");
    expect_at(json, "choices.1.stop_reason", "\"?\"");
    expect_at(json, "usage.completion_tokens", "2");
    expect_at(json, "usage.prompt_tokens_details.cached_tokens", "1");
    EXPECT_INT(json_integer_value(at(json, "usage.prompt_tokens")), submitted[0].request.n_tokens);
    EXPECT_INT(json_array_size(at(json, "prompt_token_ids")), submitted[0].request.n_tokens);
    EXPECT_INT(json_integer_value(at(json, "choices.1.token_ids.0")), word("a"));
    EXPECT(!strncmp(json_string_value(at(json, "id")), "chatcmpl-", 9));
    json_decref(json);
    end();
}

TEST(chat_stream_in_openai_s_order)
{
    begin(api_chat, CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    expect_frame(0, "choices.0.delta", "{\"role\":\"assistant\",\"content\":\"\"}");
    token_event(0, "a", "x\n", NAN);
    token_event(0, "b", "", NAN); /* held back: no frame */
    done(0, FINISH_STOP, "tail", 3, 2);
    EXPECT(x.complete);
    expect_frame(1, "choices.0.delta", "{\"content\":\"x\\n\"}");
    expect_frame(1, "choices.0.finish_reason", "null");
    expect_frame(1, "usage", "null");
    expect_frame(2, "choices.0.delta", "{\"content\":\"tail\"}");
    expect_frame(3, "choices.0.delta", "{}");
    expect_frame(3, "choices.0.finish_reason", "\"stop\"");
    expect_frame(3, "object", "\"chat.completion.chunk\"");
    expect_frame(4, "choices", "[]");
    expect_frame(4, "usage.completion_tokens", "2");
    EXPECT(frame(5) == NULL);
    end();
}

TEST(logprobs_of_held_text_are_not_lost)
{
    begin(api_chat, CHAT(",\"stream\":true,\"logprobs\":true,\"top_logprobs\":1"));
    EXPECT_INT(submitted[0].request.params.logprobs, 1);
    token_event(0, "a", "", -0.5f);
    token_event(0, "b", "ab", -INFINITY);
    token_event(0, "c", "", -2.0f);
    done(0, FINISH_STOP, "", 3, 3);
    json_t *json = frame(1);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.content")), 2);
    expect_at(json, "choices.0.logprobs.content.0.token", "\"a\"");
    expect_at(json, "choices.0.logprobs.content.0.logprob", "-0.5");
    expect_at(json, "choices.0.logprobs.content.0.bytes", "[97]");
    expect_at(json, "choices.0.logprobs.content.0.top_logprobs.0.token", "\"a\"");
    expect_at(json, "choices.0.logprobs.content.1.logprob", "-9999");
    expect_at(json, "choices.0.logprobs.refusal", "[]");
    json_decref(json);
    json = frame(2);
    expect_at(json, "choices.0.delta", "{}");
    expect_at(json, "choices.0.logprobs.content.0.token", "\"c\"");
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.content")), 1);
    json_decref(json);
    EXPECT(frame(3) == NULL);
    end();
}

TEST(the_bytes_of_all_tokens_are_the_text)
{
    for (int shown = 0; shown < 2; shown++) {
        begin(api_chat, shown ? CHAT(",\"logprobs\":true,\"skip_special_tokens\":false")
                              : CHAT(",\"logprobs\":true"));
        token_event(0, "</s>", shown ? "</s>" : "", -1.0f);
        done(0, FINISH_STOP, "", 3, 1);
        json_t *json = answer();
        expect_at(json, "choices.0.logprobs.content.0.token", "\"</s>\"");
        expect_at(json, "choices.0.logprobs.content.0.bytes", shown ? "[60,47,115,62]" : "null");
        expect_at(json, "choices.0.logprobs.refusal", "null");
        json_decref(json);
    }
    end();
}

TEST(exactly_one_bos)
{
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"bos\"}]}");
    int32_t bos = tokenizer_bos(tok);
    EXPECT(bos >= 0 && submitted[0].tokens[0] == bos && submitted[0].tokens[1] != bos);
    begin(api_chat, CHAT(""));
    EXPECT_INT(submitted[0].tokens[0] == bos, tokenizer_adds_bos(tok));
    EXPECT(submitted[0].tokens[1] != bos);
    /* written by a user it is text */
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"<s></s>\"}]}");
    for (int i = 1; i < submitted[0].request.n_tokens; i++)
        EXPECT(!tokenizer_is_special(tok, submitted[0].tokens[i]));
    begin(api_chat, CHAT(",\"add_special_tokens\":false"));
    EXPECT(submitted[0].tokens[0] != bos);
    begin(api_completions, "{\"prompt\":\"<s>hi\"}");
    EXPECT(submitted[0].tokens[0] == bos && submitted[0].tokens[1] != bos);
    begin(api_completions, "{\"prompt\":\"\"}");
    EXPECT(submitted[0].request.n_tokens == 1 && submitted[0].tokens[0] == bos);
    end();
}

TEST(prompts_times_n)
{
    begin(api_completions, "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"stop_token_ids\":[7]}");
    EXPECT_INT(n_submitted, 4);
    EXPECT(submitted[0].request.group == submitted[1].request.group);
    EXPECT(submitted[0].request.group != submitted[2].request.group);
    EXPECT_INT(submitted[0].request.max_tokens, 16);
    int prompts = submitted[0].request.n_tokens + submitted[2].request.n_tokens;
    for (int i = 3; i >= 0; i--) {
        char text[2] = {(char)('w' + i), 0};
        struct event event = done_event(FINISH_STOP, text, submitted[i].request.n_tokens, i);
        event.stop_token = 7;
        event.stop_is_eos = i == 3;
        x.on_event(&x, i, &event);
    }
    json_t *json = answer();
    expect_at(json, "object", "\"text_completion\"");
    expect_at(json, "choices.2",
              "{\"index\":2,\"text\":\"y\",\"logprobs\":null,\"finish_reason\":\"stop\","
              "\"stop_reason\":7}");
    expect_at(json, "choices.3.stop_reason", "null");
    EXPECT_INT(json_integer_value(at(json, "usage.prompt_tokens")), prompts);
    expect_at(json, "usage.completion_tokens", "6");
    json_decref(json);
    end();
}

static void prompt_events(int channel)
{
    for (int i = 0; i < submitted[channel].request.n_tokens; i++) {
        struct event event = {.kind = EVENT_PROMPT,
                              .token = submitted[channel].tokens[i],
                              .logprob = i ? -1.0f : NAN};
        x.on_event(&x, channel, &event);
    }
}

TEST(echo_with_logprobs_as_evaluation_harnesses_use_it)
{
    begin(api_completions, "{\"prompt\":\"hi you\",\"echo\":true,\"logprobs\":0,\"max_tokens\":0}");
    EXPECT_INT(submitted[0].request.prompt_logprobs, 0);
    EXPECT_INT(submitted[0].request.max_tokens, 0);
    int n = submitted[0].request.n_tokens;
    prompt_events(0);
    done(0, FINISH_LENGTH, "", n, 0);
    json_t *json = answer();
    expect_at(json, "choices.0.text", "\"hi you\"");
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.tokens")), n);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.top_logprobs")), n);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.text_offset")), n);
    expect_at(json, "choices.0.logprobs.token_logprobs.0", "null");
    expect_at(json, "choices.0.logprobs.top_logprobs.0", "null");
    expect_at(json, "choices.0.logprobs.token_logprobs.1", "-1");
    expect_at(json, "choices.0.logprobs.text_offset.0", "0");
    expect_at(json, "choices.0.logprobs.text_offset.1", "0"); /* BOS is no part of the text */
    /* the last token ends where the text does */
    json_t *tokens = at(json, "choices.0.logprobs.tokens");
    size_t size = json_string_length(json_array_get(tokens, (size_t)n - 1));
    EXPECT_INT(json_integer_value(
                   json_array_get(at(json, "choices.0.logprobs.text_offset"), (size_t)n - 1)) +
                   (long long)size,
               6);
    json_decref(json);
    end();
}

TEST(offsets_count_the_text_that_is_sent)
{
    static const char *const prompts[] = {"{\"prompt\":\"\",\"logprobs\":1}",
                                          "{\"prompt\":\"hi\",\"logprobs\":1}"};
    for (int i = 0; i < 2; i++) { /* after BOS the first space is not sent, after a word it is */
        begin(api_completions, prompts[i]);
        token_event(0, "\xe2\x96\x81the", i ? " the" : "the", -1.0f);
        token_event(0, "a", "a", -1.0f);
        done(0, FINISH_LENGTH, "", 1, 2);
        json_t *json = answer();
        expect_at(json, "choices.0.logprobs.text_offset", i ? "[0,4]" : "[0,3]");
        json_decref(json);
    }
    end();
}

TEST(echoed_stream_begins_with_its_prompt)
{
    begin(api_completions, "{\"prompt\":\"hi\",\"echo\":true,\"stream\":true}");
    expect_frame(0, "choices.0.text", "\"hi\"");
    begin(api_completions, "{\"prompt\":\"hi\",\"echo\":true,\"stream\":true,\"logprobs\":1}");
    EXPECT(!x.out.size);
    prompt_events(0);
    token_event(0, "a", "a", -1.0f);
    done(0, FINISH_LENGTH, "", submitted[0].request.n_tokens, 1);
    expect_frame(0, "choices.0.text", "\"hia\"");
    json_t *json = frame(0);
    EXPECT_INT(json_array_size(at(json, "choices.0.logprobs.tokens")),
               submitted[0].request.n_tokens + 1);
    expect_at(json, "choices.0.logprobs.text_offset.2", "2");
    json_decref(json);
    expect_frame(1, "choices.0.finish_reason", "\"length\"");
    expect_frame(1, "choices.0.logprobs", "null");
    EXPECT(frame(2) == NULL);
    end();
}

TEST(names_in_one_map_differ)
{
    begin(api_completions, "{\"prompt\":\"hi\",\"logprobs\":5}");
    struct event event = {
        .kind = EVENT_TOKEN, .token = word("<0xE2>"), .logprob = -1, .text = "", .n_top = 4};
    event.top[0] = (struct sample_top){word("a"), -0.5f};
    event.top[1] = (struct sample_top){word("<0x61>"), -0.75f}; /* "a" again */
    event.top[2] = (struct sample_top){word("<0xE3>"), -0.8f};
    event.top[3] = (struct sample_top){word("<0xE4>"), -0.9f};
    x.on_event(&x, 0, &event);
    done(0, FINISH_LENGTH, "", 2, 1);
    json_t *json = answer();
    expect_at(json, "choices.0.logprobs.tokens", "[\"bytes:\\\\xe2\"]");
    EXPECT_INT(json_object_size(at(json, "choices.0.logprobs.top_logprobs.0")), 4);
    expect_at(json, "choices.0.logprobs.top_logprobs.0.a", "-0.5");
    json_decref(json);
    end();
}

TEST(failures)
{
    begin(api_chat, "{");
    EXPECT_INT(failed.code, ERR_JSON);
    begin(api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"raise\"}]}");
    EXPECT_INT(failed.code, ERR_VALUE);
    EXPECT_STR(failed.param, "messages");
    struct buf body = {0};
    buf_text(&body, "{\"prompt\":[1");
    for (int i = 1; i < 64; i++)
        buf_text(&body, ",1");
    buf_text(&body, "]}");
    begin(api_completions, body.data);
    EXPECT_INT(failed.code, ERR_CONTEXT);
    EXPECT_STR(failed.param, "prompt");
    EXPECT(strstr(failed.text, "maximum context length is 64 tokens") != NULL);
    EXPECT(strstr(failed.text, "resulted in 64 tokens") != NULL);
    body.data[body.size - 4] = ']', body.data[body.size - 3] = '}';
    body.data[body.size - 2] = body.data[body.size - 1] = ' ';
    begin(api_completions, body.data);
    EXPECT(!failed.code && n_submitted == 1);
    EXPECT_INT(submitted[0].request.max_tokens, 1);
    struct event event = {.kind = EVENT_FAILED,
                          .error = ERR_DEVICE,
                          .finish = FINISH_ERROR,
                          .error_text = "gone",
                          .text = ""};
    x.on_event(&x, 0, &event);
    EXPECT_INT(failed.code, ERR_DEVICE);
    begin(api_completions, "{\"prompt\":\"a\",\"stream\":true}");
    done(0, FINISH_CANCELLED, "", 1, 0);
    EXPECT_INT(failed.code, ERR_CANCELLED);
    buf_free(&body);
    end();
}

TEST(a_full_queue_fails_the_whole_request)
{
    begin(api_chat, CHAT(""));
    end();
    submit_fails_at = 0;
    x.app = &app;
    memset(&failed, 0, sizeof failed);
    arena_init(&x.arena, 0);
    buf_text(&x.body, CHAT(",\"stream\":true,\"n\":3"));
    api_chat(&x);
    EXPECT_INT(failed.code, ERR_FULL);
    EXPECT(!x.streaming && !x.out.size);
    end();
}
