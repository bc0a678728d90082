/* api_tokenize: POST /tokenize, /detokenize, /apply-template: what prompts are made of. The fields
 * are vLLM's (prompt, messages, add_special_tokens, return_token_strs; count, max_model_len,
 * tokens, token_strs; prompt) and llama.cpp's (content, add_special, parse_special, with_pieces;
 * tokens; content; prompt), side by side. The handlers run on the loop; a prep worker parses,
 * renders, tokenizes and writes the whole answer, which the loop then hands over. */
#include <string.h>

#include "engine/base/utf8.h"
#include "server/answer.h"
#include "server/api.h"
#include "server/app.h"
#include "server/conversation.h"
#include "server/field.h"
#include "server/json_budget.h"
#include "server/prompt.h"

enum { DETOKENIZE_TOKENS_MAX = 1 << 20 };

struct api_text {           /* x->api, in the arena */
    struct request request; /* of a conversation; else zeroed */
    json_t *root;           /* of any other body */
    struct token_list tokens;
    struct buf out;
};

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for tokens");
}

/* ---- reading */

static int parse_body(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    struct field_string model;
    json_budget_begin(JSON_BUDGET_BYTES);
    int code =
        json_budget_parse_object(x->body.data ? x->body.data : "", x->body.size, &t->root, err);
    if (code == ERR_NOMEM && json_budget_spent())
        code = err_set(err, ERR_TOO_LARGE,
                       "Your request needs more memory than the server gives one request.");
    json_budget_end();
    if (code)
        return code;
    code = field_string(t->root, "model", REQUEST_MODEL_BYTES_MAX, &model, err);
    if (code <= 0 || (strlen(model.text) == model.size && app_serves(x->app, model.text)))
        return code < 0 ? code : 0;
    return request_no_model(err, model.text, x->app->names[0]);
}

/* A switch under either name. */
static int read_switch(const json_t *root, const char *name, const char *other, bool *out,
                       struct err *err)
{
    int code = field_bool(root, name, out, err);
    return code || !other ? code : field_bool(root, other, out, err);
}

static int parse_chat(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    struct request_limits limits;
    answer_limits(x, &limits);
    return request_parse_chat(&t->request, x->body.data ? x->body.data : "", x->body.size, &limits,
                              &x->arena, err);
}

/* ---- /tokenize */

static int encode_messages(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    bool added, thinks;
    int code = parse_chat(x, err);
    return code ? code
                : conversation_encode(x->app, &t->request, &t->tokens, &added, &thinks, err);
}

/* vLLM's prompt gets a BOS by default, llama.cpp's content does not; special tokens written out are
 * special tokens in both, unless parse_special says otherwise. */
static int encode_text(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    struct field_string text;
    bool added, special = true, parse = true;
    int code = field_string(t->root, "prompt", PROMPT_TEXT_BYTES_MAX, &text, err);
    if (!code) {
        special = false;
        code = field_string(t->root, "content", PROMPT_TEXT_BYTES_MAX, &text, err);
    }
    if (!code)
        code = err_param(err, ERR_MISSING, "prompt", "Missing required parameter: 'prompt'.");
    if (code >= 0)
        code = read_switch(t->root, "add_special_tokens", "add_special", &special, err);
    if (code >= 0)
        code = read_switch(t->root, "parse_special", NULL, &parse, err);
    if (code < 0)
        return code;
    struct text_span whole = {0, text.size};
    return prompt_encode(engine_tokenizer(x->app->engine), text.text, text.size, &whole,
                         parse && text.size, special, &t->tokens, &added, err);
}

/* A token's text; where its bytes are no whole characters and may be a list, that. */
static void write_piece(const struct tokenizer *tok, int32_t id, bool as_list, struct buf *out)
{
    size_t n;
    const char *piece = tokenizer_piece(tok, id, true, &n);
    if (!as_list || utf8_valid(piece, n)) {
        buf_json_string(out, piece, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        buf_format(out, i ? ",%d" : "[%d", (unsigned char)piece[i]);
    buf_byte(out, ']');
}

static void write_tokens(const struct exchange *x, bool pieces, bool strings, struct buf *out)
{
    const struct api_text *t = x->api;
    const struct tokenizer *tok = engine_tokenizer(x->app->engine);
    buf_format(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", t->tokens.n,
               engine_info(x->app->engine)->max_model_len);
    for (size_t i = 0; i < t->tokens.n; i++) {
        buf_text(out, i ? "," : "");
        buf_format(out, pieces ? "{\"id\":%d,\"piece\":" : "%d", t->tokens.ids[i]);
        if (pieces)
            write_piece(tok, t->tokens.ids[i], true, out);
        buf_text(out, pieces ? "}" : "");
    }
    buf_text(out, strings ? "],\"token_strs\":[" : "],\"token_strs\":null}");
    for (size_t i = 0; i < t->tokens.n && strings; i++) {
        buf_text(out, i ? "," : "");
        write_piece(tok, t->tokens.ids[i], false, out);
    }
    buf_text(out, strings ? "]}" : "");
}

static int prepare_tokenize(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    bool pieces = false, strings = false;
    int code = parse_body(x, err);
    if (!code)
        code = read_switch(t->root, "with_pieces", NULL, &pieces, err);
    if (code >= 0)
        code = read_switch(t->root, "return_token_strs", NULL, &strings, err);
    if (code < 0)
        return code;
    code = field_get(t->root, "messages") ? encode_messages(x, err) : encode_text(x, err);
    if (!code)
        write_tokens(x, pieces, strings, &t->out);
    return code;
}

/* ---- /detokenize */

static int read_tokens(const struct exchange *x, struct token_list *out, struct err *err)
{
    const struct api_text *t = x->api;
    int n_vocab = tokenizer_n_tokens(engine_tokenizer(x->app->engine));
    const json_t *tokens = NULL;
    int code = field_array(t->root, "tokens", &tokens, err);
    if (code <= 0)
        return code
                   ? code
                   : err_param(err, ERR_MISSING, "tokens", "Missing required parameter: 'tokens'.");
    if (json_array_size(tokens) > DETOKENIZE_TOKENS_MAX)
        return err_param(err, ERR_ARRAY_LONG, "tokens",
                         "Invalid 'tokens': array too long. Expected at most %d, but got %zu.",
                         DETOKENIZE_TOKENS_MAX, json_array_size(tokens));
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        int64_t id;
        if (!field_integral(json_array_get(tokens, i), &id))
            return field_type_error(err, "tokens", "an array of integers",
                                    json_array_get(tokens, i));
        if (id < 0 || id >= n_vocab)
            return err_param(err, ERR_VALUE, "tokens",
                             "Invalid 'tokens': %lld is not a token id (0 to %d).", (long long)id,
                             n_vocab - 1);
        if (token_list_add(out, (int32_t)id))
            return no_memory(err);
    }
    return 0;
}

static int prepare_detokenize(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    struct buf text;
    int code = parse_body(x, err);
    if (!code)
        code = read_tokens(x, &t->tokens, err);
    if (code)
        return code;
    buf_init(&text, 0);
    if (tokenizer_decode(engine_tokenizer(x->app->engine), t->tokens.ids, t->tokens.n, true, true,
                         &text))
        code = no_memory(err);
    buf_text(&t->out, "{\"prompt\":");
    buf_json_string(&t->out, text.data ? text.data : "", text.size);
    buf_text(&t->out, ",\"content\":");
    buf_json_string(&t->out, text.data ? text.data : "", text.size);
    buf_byte(&t->out, '}');
    buf_free(&text);
    return code;
}

/* ---- /apply-template */

static int prepare_template(struct exchange *x, struct err *err)
{
    struct api_text *t = x->api;
    struct buf text;
    buf_init(&text, 0);
    int code = parse_chat(x, err);
    if (!code)
        code = conversation_render(x->app, &t->request, &text, err);
    buf_text(&t->out, "{\"prompt\":");
    buf_json_string(&t->out, text.data ? text.data : "", text.size);
    buf_byte(&t->out, '}');
    buf_free(&text);
    return code;
}

/* ---- all */

static void text_prepared(struct exchange *x, int code, const struct err *err)
{
    struct api_text *t = x->api;
    if (!code && t->out.failed)
        exchange_fail(x, &(struct err){.code = ERR_NOMEM, .text = "no memory for the answer"});
    else if (code)
        exchange_fail(x, err);
    else
        exchange_answer(x, 200, "application/json", t->out.data, t->out.size);
}

static void text_free(struct exchange *x)
{
    struct api_text *t = x->api;
    request_free(&t->request);
    json_decref(t->root);
    token_list_free(&t->tokens);
    buf_free(&t->out);
}

static void handle(struct exchange *x, int (*prepare)(struct exchange *x, struct err *err))
{
    struct err err = {0};
    struct api_text *t = NULL;
    if (!app_ready(x->app, &err)) {
        t = arena_alloc(&x->arena, sizeof *t);
        if (!t)
            no_memory(&err);
    }
    if (!t) {
        exchange_fail(x, &err);
        return;
    }
    buf_init(&t->out, 0);
    x->api = t;
    x->api_free = text_free;
    x->prepare = prepare;
    x->prepared = text_prepared;
    exchange_prepare(x);
}

void api_tokenize(struct exchange *x)
{
    handle(x, prepare_tokenize);
}

void api_detokenize(struct exchange *x)
{
    handle(x, prepare_detokenize);
}

void api_apply_template(struct exchange *x)
{
    handle(x, prepare_template);
}
