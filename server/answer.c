/* answer: from events to OpenAI's objects, whole or streamed. Loop thread, but for the functions
 * that answer.h gives to the prep worker.
 *
 * Invariants: a token's log probability is written exactly once, with the text it belongs to or, if
 * that text never comes, with the choice's end; text is written as it comes, never empty. A frame
 * is written straight into the exchange's buffer behind a head built once: no allocation and no
 * JSON tree on the per-token path. */
#include "server/answer.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "engine/base/log.h"
#include "server/app.h"
#include "server/openai.h"
#include "server/sse.h"

enum {
    ANSWER_BYTES_MAX = 192 << 20, /* gathered for one whole answer */
    ANSWER_HEAD_BYTES_MAX = 64 << 10
};

/* ---- identity */

static uint64_t random_bits(void)
{
    uint64_t bits;
    struct timespec now;
    if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) == (ssize_t)sizeof bits)
        return bits;
    clock_gettime(CLOCK_MONOTONIC, &now); /* ids need to differ, not to be secret */
    return (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;
}

/* What the answers depend on beside the request: model, format, program. */
static uint64_t fingerprint(const struct engine_info *info)
{
    char text[512];
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    snprintf(text, sizeof text, "%s %s %s %s %lld %s", SIROCCO_VERSION, info->model_name,
             info->arch, info->quant, (long long)info->n_parameters, info->kv_type);
    for (const char *c = text; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    return hash & 0xffffffffffu;
}

static void write_head(struct exchange *x, struct answer *a)
{
    if (a->form->flat)
        return;
    buf_format(&a->head, "{\"id\":\"%s%016llx%016llx\",\"object\":\"%s\",\"created\":%lld,",
               a->form->id_prefix, (unsigned long long)random_bits(),
               (unsigned long long)random_bits(),
               a->request.stream ? a->form->chunk_object : a->form->object, (long long)time(NULL));
    buf_text(&a->head, "\"model\":");
    buf_json_string(&a->head, a->request.model, strlen(a->request.model));
    buf_format(&a->head, ",\"system_fingerprint\":\"fp_%010llx\",\"choices\":[",
               (unsigned long long)fingerprint(engine_info(x->app->engine)));
}

/* ---- parts shared by chunks and whole answers */

void answer_write_prompt_ids(const struct answer *a, const struct choice *c, struct buf *out)
{
    const struct token_list *tokens = &a->prompts[c->index / a->request.n].tokens;
    buf_byte(out, '[');
    for (size_t i = 0; i < tokens->n; i++)
        buf_format(out, i ? ",%d" : "%d", tokens->ids[i]);
    buf_byte(out, ']');
}

/* A prompt counts once however many choices continue it; so do its cached tokens, as its first
 * choice found them. */
static void write_usage(const struct answer *a, struct buf *out)
{
    struct engine_usage sum = {0};
    int n_reasoning = 0;
    for (int i = 0; i < a->n_choices; i++) {
        const struct choice *c = &a->choices[i];
        n_reasoning += c->parser ? toolcall_n_reasoning(c->parser) : 0;
        sum.output_tokens += c->done ? c->usage.output_tokens : c->n_tokens;
        if (i % a->request.n)
            continue;
        sum.prompt_tokens += (int)a->prompts[i / a->request.n].tokens.n;
        sum.cached_tokens += c->done ? c->usage.cached_tokens : 0;
    }
    openai_write_usage(out, &sum, n_reasoning);
}

/* ---- streaming */

static void begin_frame(struct answer *a, const struct choice *c, struct buf *out)
{
    sse_begin(out);
    if (!a->form->flat)
        buf_add(out, a->head.data, a->head.size);
    buf_format(out, "{\"index\":%d,", c->index);
}

static void end_frame(struct answer *a, const struct choice *c, struct buf *out)
{
    if (a->form->flat) {
        buf_byte(out, '}');
        sse_end(out);
        return;
    }
    buf_text(out, "}]");
    if (!a->began && a->form->ids_on_top && a->request.return_token_ids) {
        buf_text(out, ",\"prompt_token_ids\":");
        answer_write_prompt_ids(a, c, out);
    }
    a->began = true;
    if (a->request.include_usage) {
        buf_text(out, ",\"usage\":");
        if (a->request.continuous_usage)
            write_usage(a, out);
        else
            buf_text(out, "null");
    }
    buf_byte(out, '}');
    sse_end(out);
}

static void write_role_frame(struct answer *a, struct choice *c, struct buf *out)
{
    begin_frame(a, c, out);
    a->form->write_role(c, out);
    end_frame(a, c, out);
}

static void write_delta_frame(struct answer *a, struct choice *c, struct buf *out)
{
    begin_frame(a, c, out);
    a->form->write_delta(a, c, out);
    buf_clear(&c->text);
    end_frame(a, c, out);
}

/* The parser's sink. */
static void take_piece(void *user, const struct toolcall *t, enum toolcall_kind kind,
                       const char *bytes, size_t n)
{
    struct answer_reader *reader = user;
    struct answer *a = reader->x->api;
    struct choice *c = reader->c;
    struct answer_piece piece = {kind, bytes, n};
    (void)t;
    if (kind == TOOLCALL_REASONING && !a->request.show_reasoning)
        return;
    reader->said = true;
    bool of_call = kind == TOOLCALL_NAME || kind == TOOLCALL_ARGUMENTS;
    if (!a->request.stream || (of_call && a->whole_calls)) {
        a->form->take_piece(a, c, &piece);
        return;
    }
    begin_frame(a, c, &reader->x->out);
    a->form->write_piece(a, c, &piece, &reader->x->out);
    end_frame(a, c, &reader->x->out);
    reader->wrote = true;
}

/* The frame of the calls that waited for the end, if any did, and the end's. */
static void write_end_frames(struct answer *a, struct choice *c, struct buf *out)
{
    if (c->calls.size) {
        begin_frame(a, c, out);
        a->form->write_calls(a, c, out);
        end_frame(a, c, out);
    }
    begin_frame(a, c, out);
    a->form->write_end(a, c, out);
    end_frame(a, c, out);
}

static void end_stream(struct exchange *x, struct answer *a)
{
    if (a->request.include_usage && !a->form->flat) {
        sse_begin(&x->out);
        buf_add(&x->out, a->head.data, a->head.size);
        buf_text(&x->out, "],\"usage\":");
        write_usage(a, &x->out);
        buf_byte(&x->out, '}');
        sse_end(&x->out);
    }
    if (!a->form->flat)
        sse_done(&x->out);
    exchange_end(x);
}

/* ---- whole */

static void write_whole(struct answer *a, struct buf *out)
{
    if (a->form->flat) {
        buf_text(out, "{\"index\":0,");
        a->form->write_whole(a, &a->choices[0], out);
        buf_byte(out, '}');
        return;
    }
    buf_add(out, a->head.data, a->head.size);
    for (int i = 0; i < a->n_choices; i++) {
        buf_format(out, i ? ",{\"index\":%d," : "{\"index\":%d,", i);
        a->form->write_whole(a, &a->choices[i], out);
        buf_byte(out, '}');
    }
    buf_byte(out, ']');
    if (a->form->ids_on_top && a->request.return_token_ids) {
        buf_text(out, ",\"prompt_token_ids\":");
        answer_write_prompt_ids(a, &a->choices[0], out);
    }
    buf_text(out, ",\"usage\":");
    write_usage(a, out);
    buf_byte(out, '}');
}

static void answer_whole(struct exchange *x, struct answer *a)
{
    struct buf out;
    buf_init(&out, 0);
    write_whole(a, &out);
    if (out.failed)
        exchange_fail(x, &(struct err){.code = out.failed, .text = "no memory for the answer"});
    else
        exchange_answer(x, 200, "application/json", out.data, out.size);
    buf_free(&out);
}

/* ---- events */

/* Behind a special token a text begins, and the engine leaves the first word's space out where the
 * tokenizer's own decoder does. */
static bool drops_first_space(const struct answer *a, const struct choice *c, int32_t token)
{
    const struct token_list *prompt = &a->prompts[c->index / a->request.n].tokens;
    struct buf text;
    if (c->n_tokens || !tokenizer_is_special(a->tok, prompt->ids[prompt->n - 1]))
        return false;
    buf_init(&text, 0);
    tokenizer_decode(a->tok, &token, 1, false, true, &text);
    bool drops = !text.size || text.data[0] != ' ';
    buf_free(&text);
    return drops;
}

/* How much of a token's piece is part of the text (text_offset counts it): of a prompt, not the BOS
 * that stands before the text, nor the space that some tokenizers put before the first word. */
static const char *shown_piece(const struct answer *a, const struct choice *c,
                               const struct event *event, size_t *n)
{
    if (event->kind == EVENT_TOKEN) {
        const char *text = tokenizer_piece(a->tok, event->token, a->request.show_special, n);
        size_t dropped = *n && text[0] == ' ' && drops_first_space(a, c, event->token);
        *n -= dropped;
        return text + dropped;
    }
    const char *piece = tokenizer_piece(a->tok, event->token, true, n);
    const struct answer_echo *echo = &a->echoes[c->index / a->request.n];
    bool first = c->offset == 0;
    if (first && event->token == tokenizer_bos(a->tok) &&
        (echo->size < *n || memcmp(echo->text, piece, *n)))
        *n = 0;
    else if (first && *n && piece[0] == ' ' && (!echo->size || echo->text[0] != ' ')) {
        piece++;
        (*n)--;
    }
    return piece;
}

static void add_token(struct answer *a, struct choice *c, const struct event *event)
{
    size_t n = 0;
    const char *shown = "";
    if (c->want_logprobs && a->form->shape == CHOICE_LEGACY)
        shown = shown_piece(a, c, event, &n);
    choice_add_token(c, a->form->shape, a->tok, event, shown, n);
}

static void fail_event(struct exchange *x, const struct event *event)
{
    struct err err = {0};
    if (event->kind == EVENT_FAILED || event->finish == FINISH_ERROR)
        err_set(&err, event->error ? event->error : ERR_INTERNAL, "%s", event->error_text);
    else if (x->app->phase == APP_DRAINING)
        err_set(&err, ERR_DRAIN, "The server is shutting down.");
    else
        err_set(&err, ERR_CANCELLED, "The request was cancelled: its client read too slowly.");
    exchange_fail(x, &err);
}

/* The reason a turn of tool calls ends for, and a word in the log about those that were none. */
static void finish_calls(const struct exchange *x, const struct answer *a, struct choice *c)
{
    struct log_line line;
    if (c->finish == FINISH_STOP && toolcall_complete(c->parser))
        c->finish_word = a->request.tools.legacy ? "function_call" : "tool_calls";
    if (!toolcall_n_malformed(c->parser))
        return;
    log_begin(&line, LOG_WARN, "malformed_tool_call");
    log_str(&line, "id", x->request_id);
    log_int(&line, "choice", c->index);
    log_int(&line, "count", toolcall_n_malformed(c->parser));
    log_end(&line);
}

static void finish_choice(struct exchange *x, struct answer *a, struct choice *c,
                          const struct event *event)
{
    choice_add_end(c, event);
    if (c->parser)
        finish_calls(x, a, c);
    a->n_done++;
    if (!a->request.stream) {
        if (a->n_done == a->n_choices)
            answer_whole(x, a);
        return;
    }
    write_end_frames(a, c, &x->out);
    if (a->n_done == a->n_choices)
        end_stream(x, a);
    else
        exchange_flush(x);
}

/* An event's text: to the parser, or as it is. True: frames with it were written. */
static bool add_text(struct answer *a, struct choice *c, const struct event *event, bool terminal)
{
    if (!c->parser) {
        buf_add(&c->text, event->text, event->text_size);
        return false;
    }
    a->readers[c->index].wrote = false;
    toolcall_text(c->parser, event->text, event->text_size);
    if (event->kind == EVENT_TOKEN)
        toolcall_token(c->parser, event->token);
    if (terminal)
        toolcall_end(c->parser);
    return a->readers[c->index].wrote;
}

static void answer_event(struct exchange *x, int channel, const struct event *event)
{
    struct answer *a = x->api;
    struct choice *c = &a->choices[channel];
    bool terminal = event->kind == EVENT_DONE || event->kind == EVENT_FAILED;
    if (terminal && event->finish != FINISH_STOP && event->finish != FINISH_LENGTH) {
        fail_event(x, event);
        return;
    }
    if (!terminal)
        add_token(a, c, event);
    if (event->kind == EVENT_PROMPT)
        return;
    bool wrote = add_text(a, c, event, terminal);
    if (choice_failed(c)) {
        struct err err;
        err_param(&err, ERR_VALUE, c->want_logprobs ? "logprobs" : "max_tokens",
                  "The answer grew beyond %d MiB. Ask for less of it, or for a stream.",
                  ANSWER_BYTES_MAX >> 20);
        exchange_fail(x, &err);
        return;
    }
    if (a->request.stream && c->text.size) {
        write_delta_frame(a, c, &x->out);
        wrote = true;
    }
    if (wrote && !terminal)
        exchange_flush(x);
    if (terminal)
        finish_choice(x, a, c, event);
}

static void answer_ping(struct exchange *x)
{
    sse_keep_alive(&x->out);
}

/* ---- from the worker's result to running sequences */

static int submit_choice(struct exchange *x, struct answer *a, int i, uint64_t group,
                         struct err *err)
{
    const struct request *r = &a->request;
    const struct token_list *tokens = &a->prompts[i / r->n].tokens;
    int room = engine_info(x->app->engine)->max_model_len - (int)tokens->n;
    struct engine_request request = {
        .tokens = tokens->ids,
        .n_tokens = (int)tokens->n,
        .max_tokens = r->max_tokens < 0 || r->max_tokens > room ? room : r->max_tokens,
        .params = r->params,
        .stops = r->stops,
        .include_stop = r->include_stop,
        .stop_token_ids = r->stop_token_ids,
        .n_stop_token_ids = r->n_stop_token_ids,
        .ignore_eos = r->ignore_eos,
        .show_special = r->show_special,
        .special_breaks = a->parses,
        .prompt_logprobs = r->echo ? r->params.logprobs : -1,
        .cache_salt = r->cache_salt,
        .group = r->n > 1 ? group : 0,
        .priority = r->priority,
    };
    if (request.params.has_seed) /* the choices of one seeded request differ, reproducibly */
        request.params.seed = (int64_t)((uint64_t)r->params.seed + (uint64_t)(i % r->n));
    return exchange_submit(x, &request, err);
}

static int open_parsers(struct exchange *x, struct answer *a, struct err *err)
{
    const struct request *r = &a->request;
    a->readers = arena_array(&x->arena, (size_t)a->n_choices, sizeof *a->readers);
    a->whole_calls = x->app->whole_calls;
    a->parsing = (struct toolcall_options){
        .format = &x->app->format,
        .calls = r->tools.n_names > 0,
        .thinking = r->split_reasoning && x->app->format.thinking,
        .thinks = a->thinks,
        .by_text = r->show_special,
        .n_calls_max = r->tools.parallel ? 0 : 1,
        .names = r->tools.names,
        .n_names = r->tools.n_names,
        .random = random_bits,
    };
    for (int i = 0; i < a->n_choices && a->readers; i++) {
        struct choice *c = &a->choices[i];
        a->readers[i] = (struct answer_reader){.x = x, .c = c};
        c->parser = toolcall_open(&a->parsing, (size_t)ANSWER_BYTES_MAX / (size_t)a->n_choices,
                                  take_piece, &a->readers[i]);
        if (!c->parser)
            return err_set(err, ERR_NOMEM, "out of memory for tool calls");
    }
    return a->readers ? 0 : err_set(err, ERR_NOMEM, "out of memory for tool calls");
}

static int answer_start(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    const struct request *r = &a->request;
    uint64_t group = random_bits() | 1;
    a->n_choices = a->n_prompts * r->n;
    a->choices = arena_array(&x->arena, (size_t)a->n_choices, sizeof *a->choices);
    if (!a->choices) {
        a->n_choices = 0;
        return err_set(err, ERR_NOMEM, "out of memory for %d choices", a->n_prompts * r->n);
    }
    for (int i = 0; i < a->n_choices; i++) {
        struct choice *c = &a->choices[i];
        choice_init(c, i, r->params.logprobs >= 0, r->return_token_ids,
                    (size_t)ANSWER_BYTES_MAX / (size_t)a->n_choices);
        c->show_special = r->show_special;
        if (r->echo) {
            const struct answer_echo *echo = &a->echoes[i / r->n];
            buf_add(&c->text, echo->text, echo->size);
        }
    }
    int failed = a->parses ? open_parsers(x, a, err) : 0;
    if (failed)
        return failed;
    write_head(x, a);
    x->model = r->model;
    for (int i = 0; i < a->n_choices; i++) {
        int code = submit_choice(x, a, i, group + 2 * (uint64_t)(i / r->n), err);
        if (code)
            return code;
    }
    return 0;
}

static void answer_begin_stream(struct exchange *x, struct answer *a)
{
    exchange_stream_begin(x);
    for (int i = 0; i < a->n_choices; i++) {
        struct choice *c = &a->choices[i];
        if (a->form->role_first)
            write_role_frame(a, c, &x->out);
        else if (c->text.size && !c->want_logprobs) /* else it waits for its log probabilities */
            write_delta_frame(a, c, &x->out);
    }
    exchange_flush(x);
}

static void answer_prepared(struct exchange *x, int code, const struct err *err)
{
    struct answer *a = x->api;
    struct err failure = {0};
    if (code) {
        exchange_fail(x, err);
        return;
    }
    code = answer_start(x, &failure);
    if (code) {
        failure.code = code;
        exchange_fail(x, &failure);
    } else if (a->request.stream) {
        answer_begin_stream(x, a);
    }
}

static void answer_free(struct exchange *x)
{
    struct answer *a = x->api;
    request_free(&a->request);
    for (int i = 0; i < a->n_prompts; i++)
        prompt_free(&a->prompts[i]);
    for (int i = 0; i < a->n_choices; i++)
        choice_free(&a->choices[i]);
    buf_free(&a->head);
}

void answer_handle(struct exchange *x, const struct answer_form *form,
                   int (*prepare)(struct exchange *x, struct err *err))
{
    struct err err = {0};
    struct answer *a;
    if (app_ready(x->app, &err)) {
        exchange_fail(x, &err);
        return;
    }
    a = arena_alloc(&x->arena, sizeof *a);
    if (!a) {
        err_set(&err, ERR_NOMEM, "out of memory for an answer");
        exchange_fail(x, &err);
        return;
    }
    a->form = form;
    a->tok = engine_tokenizer(x->app->engine);
    buf_init(&a->head, ANSWER_HEAD_BYTES_MAX);
    x->api = a;
    x->api_free = answer_free;
    x->prepare = prepare;
    x->prepared = answer_prepared;
    x->on_event = answer_event;
    x->on_ping = answer_ping;
    exchange_prepare(x);
}

/* ---- for the prep worker */

int answer_prompts(struct exchange *x, int n, struct err *err)
{
    struct answer *a = x->api;
    a->prompts = arena_array(&x->arena, (size_t)n, sizeof *a->prompts);
    if (!a->prompts)
        return err_set(err, ERR_NOMEM, "out of memory for %d prompts", n);
    a->n_prompts = n;
    return 0;
}

int answer_check_context(const struct exchange *x, const char *what, struct err *err)
{
    const struct answer *a = x->api;
    size_t limit = (size_t)engine_info(x->app->engine)->max_model_len;
    for (int i = 0; i < a->n_prompts; i++)
        if (a->prompts[i].tokens.n >= limit)
            return err_param(err, ERR_CONTEXT, what,
                             "This model's maximum context length is %zu tokens. However, your %s "
                             "resulted in %zu tokens, which leaves no room for an answer. Please "
                             "reduce the length of the %s.",
                             limit, what, a->prompts[i].tokens.n, what);
    return 0;
}

void answer_limits(const struct exchange *x, struct request_limits *out)
{
    const struct engine_info *info = engine_info(x->app->engine);
    *out = (struct request_limits){
        .vocab_size = info->vocab_size,
        .defaults = &info->defaults,
        .names = x->app->names,
        .n_names = x->app->n_names,
    };
}
