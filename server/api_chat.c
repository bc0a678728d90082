/* api_chat: POST /v1/chat/completions. The handler and the writers run on the loop, chat_prepare on
 * a prep worker; the state is the answer's (answer.h). */
#include <string.h>

#include "server/answer.h"
#include "server/api.h"
#include "server/app.h"
#include "server/conversation.h"

static int chat_prepare(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request *r = &a->request;
    struct request_limits limits;
    answer_limits(x, &limits);
    int code = request_parse_chat(r, x->body.data ? x->body.data : "", x->body.size, &limits,
                                  &x->arena, err);
    if (code)
        return code;
    buf_free(&x->body);
    a->parses = r->tools.n_names || (r->split_reasoning && x->app->format.thinking);
    code = answer_prompts(x, 1, err);
    if (!code)
        code = conversation_encode(x->app, r, &a->prompts[0].tokens, &a->prompts[0].added_bos,
                                   &a->thinks, err);
    request_free(r);
    if (!code && !a->prompts[0].tokens.n)
        code = err_param(err, ERR_VALUE, "messages",
                         "Invalid 'messages': the chat template makes an empty prompt of them.");
    return code ? code : answer_check_context(x, "messages", err);
}

static void write_ids(const struct answer *a, struct choice *c, struct buf *out)
{
    if (!a->request.return_token_ids)
        return;
    buf_text(out, ",\"token_ids\":");
    choice_write_ids(c, out);
}

/* The call that came last gets its arguments. */
static void close_call(struct choice *c)
{
    if (!c->calls.size)
        return;
    buf_json_string(&c->calls, c->arguments.data, c->arguments.size);
    buf_clear(&c->arguments);
}

/* {"name":..,"arguments": */
static void write_function(struct buf *out, const struct answer_piece *name)
{
    buf_text(out, "{\"name\":");
    buf_json_string(out, name->bytes, name->size);
    buf_text(out, ",\"arguments\":");
}

static void write_id(struct buf *out, const struct choice *c)
{
    const char *id = toolcall_id(c->parser);
    buf_text(out, "\"id\":");
    buf_json_string(out, id, strlen(id));
    buf_text(out, ",\"type\":\"function\",\"function\":");
}

static void chat_take_piece(struct answer *a, struct choice *c, const struct answer_piece *piece)
{
    switch (piece->kind) {
    case TOOLCALL_TEXT:
        buf_add(&c->text, piece->bytes, piece->size);
        break;
    case TOOLCALL_REASONING:
        buf_add(&c->reasoning, piece->bytes, piece->size);
        break;
    case TOOLCALL_ARGUMENTS:
        buf_add(&c->arguments, piece->bytes, piece->size);
        break;
    case TOOLCALL_NAME:
        close_call(c);
        if (!a->request.tools.legacy) {
            buf_text(&c->calls, c->calls.size ? "}},{" : "{");
            if (a->request.stream)
                buf_format(&c->calls, "\"index\":%d,", toolcall_n_calls(c->parser) - 1);
            write_id(&c->calls, c);
        }
        write_function(&c->calls, piece);
    }
}

/* All that came. */
static void write_calls(const struct answer *a, struct choice *c, struct buf *out)
{
    close_call(c);
    buf_text(out, a->request.tools.legacy ? "\"function_call\":" : "\"tool_calls\":[");
    buf_add(out, c->calls.data, c->calls.size);
    buf_text(out, a->request.tools.legacy ? "}" : "}}]");
}

static void chat_write_piece(struct answer *a, struct choice *c, const struct answer_piece *piece,
                             struct buf *out)
{
    bool legacy = a->request.tools.legacy;
    if (piece->kind == TOOLCALL_TEXT || piece->kind == TOOLCALL_REASONING) {
        buf_text(out, piece->kind == TOOLCALL_TEXT ? "\"delta\":{\"content\":"
                                                   : "\"delta\":{\"reasoning_content\":");
        buf_json_string(out, piece->bytes, piece->size);
    } else {
        if (legacy)
            buf_text(out, "\"delta\":{\"function_call\":");
        else
            buf_format(out, "\"delta\":{\"tool_calls\":[{\"index\":%d,",
                       toolcall_n_calls(c->parser) - 1);
        if (piece->kind == TOOLCALL_NAME) {
            if (!legacy)
                write_id(out, c);
            write_function(out, piece);
            buf_text(out, "\"\"}");
        } else {
            buf_text(out, legacy ? "{\"arguments\":" : "\"function\":{\"arguments\":");
            buf_json_string(out, piece->bytes, piece->size);
            buf_byte(out, '}');
        }
        buf_text(out, legacy ? "" : "}]");
    }
    buf_text(out, "},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, false, out);
    buf_text(out, ",\"finish_reason\":null");
    write_ids(a, c, out);
}

/* content is null where there are calls or reasoning and is no text. A message of neither is taken
 * back with "" alone: here, and in the sum of a stream's chunks (chat_end). */
static void chat_whole(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (!c->text.size && (c->reasoning.size || c->calls.size))
        buf_text(out, "null");
    else
        buf_json_string(out, c->text.data, c->text.size);
    if (c->reasoning.size) {
        buf_text(out, ",\"reasoning_content\":");
        buf_json_string(out, c->reasoning.data, c->reasoning.size);
    }
    if (c->calls.size) {
        buf_byte(out, ',');
        write_calls(a, c, out);
    }
    buf_text(out, ",\"refusal\":null},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, true, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, out);
}

static void chat_role(const struct choice *c, struct buf *out)
{
    buf_format(out,
               "\"delta\":{\"role\":\"assistant\",\"content\":%s},\"logprobs\":null,"
               "\"finish_reason\":null",
               c->parser ? "null" : "\"\"");
}

static void chat_delta(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"delta\":{\"content\":");
    buf_json_string(out, c->text.data, c->text.size);
    buf_text(out, "},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, false, out);
    buf_text(out, ",\"finish_reason\":null");
    write_ids(a, c, out);
}

static void chat_calls(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"delta\":{");
    write_calls(a, c, out);
    buf_text(out, "},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, false, out);
    buf_text(out, ",\"finish_reason\":null");
    write_ids(a, c, out);
}

static void chat_end(struct answer *a, struct choice *c, struct buf *out)
{
    bool nothing = c->parser && !a->readers[c->index].said;
    buf_format(out, "\"delta\":{%s},\"logprobs\":", nothing ? "\"content\":\"\"" : "");
    choice_write_logprobs(c, CHOICE_CHAT, false, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, out);
}

const struct answer_form api_chat_form = {
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .shape = CHOICE_CHAT,
    .role_first = true,
    .ids_on_top = true,
    .write_whole = chat_whole,
    .write_delta = chat_delta,
    .write_end = chat_end,
    .write_role = chat_role,
    .take_piece = chat_take_piece,
    .write_piece = chat_write_piece,
    .write_calls = chat_calls,
};

void api_chat(struct exchange *x)
{
    answer_handle(x, &api_chat_form, chat_prepare);
}
