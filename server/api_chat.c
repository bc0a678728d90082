/* api_chat: POST /v1/chat/completions. The handler and the writers run on the loop, chat_prepare on
 * a prep worker; the state is the answer's (answer.h). */
#include <stdio.h>

#include "server/answer.h"
#include "server/api.h"
#include "server/app.h"

static int chat_encode(struct exchange *x, const struct template_text *text, struct err *err)
{
    struct answer *a = x->api;
    struct prompt *p = &a->prompts[0];
    return prompt_encode(a->tok, text->text.data ? text->text.data : "", text->text.size,
                         text->trusted, text->n_trusted, a->request.add_special_tokens != 0,
                         &p->tokens, &p->added_bos, err);
}

static int chat_prepare(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request *r = &a->request;
    struct request_limits limits;
    struct template_text text = {0};
    answer_limits(x, &limits);
    int code = request_parse_chat(r, x->body.data ? x->body.data : "", x->body.size, &limits,
                                  &x->arena, err);
    if (code)
        return code;
    buf_free(&x->body);
    struct chat_request request = {
        .messages = r->messages,
        .kwargs = r->kwargs,
        .add_generation_prompt = r->add_generation_prompt,
        .continue_final_message = r->continue_final_message,
    };
    code = chat_render(engine_chat(x->app->engine), &request, &text, err);
    request_free(r);
    if (code == ERR_VALUE && err && !err->param[0]) /* what the template raised */
        snprintf(err->param, sizeof err->param, "messages");
    if (!code)
        code = answer_prompts(x, 1, err);
    if (!code)
        code = chat_encode(x, &text, err);
    template_text_free(&text);
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

static void chat_whole(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    buf_json_string(out, c->text.data, c->text.size);
    buf_text(out, ",\"refusal\":null},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, true, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, out);
}

static void chat_role(struct buf *out)
{
    buf_text(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                  "\"finish_reason\":null");
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

static void chat_end(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"delta\":{},\"logprobs\":");
    choice_write_logprobs(c, CHOICE_CHAT, false, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, out);
}

static const struct answer_form chat_form = {
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
};

void api_chat(struct exchange *x)
{
    answer_handle(x, &chat_form, chat_prepare);
}
