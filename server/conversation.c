/* conversation: makes prompts of chat requests, with the model's template or by Mistral's own
 * encoding. A prep worker's; no state. */
#include "server/conversation.h"

#include <stdio.h>
#include <string.h>

#include "engine/template/mistral.h"
#include "server/field.h"
#include "server/prompt.h"

/* Tools that the model could not see, or whose calls could not be told, are refused. */
static int check_tools(const struct app *app, const struct request *r, struct err *err)
{
    const char *param = r->tools.legacy ? "functions" : "tools";
    if (!r->tools.offered)
        return 0;
    if (!chat_takes_tools(engine_chat(app->engine)))
        return err_param(err, ERR_UNSUPPORTED_PARAM, param,
                         "Unsupported parameter: the chat template of this model does not take "
                         "'%s'.",
                         param);
    if (!app->format.dialect)
        return err_param(err, ERR_UNSUPPORTED_PARAM, param,
                         "Unsupported parameter: how this model writes tool calls is not known; "
                         "the server's option --tool-call-parser says it.");
    return 0;
}

/* ---- ids of calls */

/* What Mistral's models were taught, and their encoding and many of their templates insist on. */
enum { CALL_ID_BYTES = 9 };

static bool is_short_id(const char *id, size_t n)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    return n == CALL_ID_BYTES && strspn(id, allowed) == CALL_ID_BYTES;
}

/* Nine digits for an id of another make, the same for the same: the low ones of its FNV-1a hash. */
static int shorten_id(json_t *object, const char *member, struct err *err)
{
    char text[CALL_ID_BYTES + 1];
    const json_t *id = json_object_get(object, member);
    const char *bytes = json_string_value(id);
    size_t n = json_string_length(id);
    if (!bytes || is_short_id(bytes, n))
        return 0;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    snprintf(text, sizeof text, "%09u", (unsigned)((hash ^ hash >> 32) % 1000000000u));
    if (json_object_set_new(object, member, json_string(text)))
        return err_set(err, ERR_NOMEM, "out of memory while reading messages");
    return 0;
}

/* Ids that a client or another server made up, where only short ones are taken. */
static int shorten_ids(const struct app *app, json_t *messages, struct err *err)
{
    const struct chat *chat = engine_chat(app->engine);
    size_t i, k;
    json_t *message, *call;
    int code = 0;
    if (!chat_native(chat) && !chat_holds(chat, "length != 9"))
        return 0;
    json_array_foreach(messages, i, message) {
        json_array_foreach(json_object_get(message, "tool_calls"), k, call)
            code = code ? code : shorten_id(call, "id", err);
        code = code ? code : shorten_id(message, "tool_call_id", err);
    }
    return code;
}

/* ---- by the template */

static int render(const struct app *app, const struct request *r, struct template_text *out,
                  struct err *err)
{
    struct chat_request request = {
        .messages = r->messages,
        .tools = r->tools.offered,
        .kwargs = r->kwargs,
        .add_generation_prompt = r->add_generation_prompt,
        .continue_final_message = r->continue_final_message || r->prefix,
    };
    int code = shorten_ids(app, r->messages, err);
    if (!code)
        code = chat_render(engine_chat(app->engine), &request, out, err);
    if (code == ERR_VALUE && err && !err->param[0]) /* what the template raised */
        snprintf(err->param, sizeof err->param, "messages");
    return code;
}

static int encode_rendered(const struct app *app, const struct request *r, struct token_list *ids,
                           bool *added_bos, bool *thinks, struct err *err)
{
    struct template_text text = {0};
    int code = render(app, r, &text, err);
    *thinks = !code && toolcall_prompt_thinks(&app->format, &text);
    if (!code)
        code = prompt_encode(engine_tokenizer(app->engine), text.text.data ? text.text.data : "",
                             text.text.size, text.trusted, text.n_trusted,
                             r->add_special_tokens != 0, ids, added_bos, err);
    template_text_free(&text);
    return code;
}

/* ---- by Mistral's own encoding */

/* Of the older functions there is only the form that messages_build gives them. */
static bool is_legacy(const json_t *messages)
{
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        if (json_object_get(message, "function_call") || (role && !strcmp(role, "function")))
            return true;
    }
    return false;
}

/* Mistral's encoder takes the messages as they were sent: parts stay parts. */
static int encode_native(const struct app *app, const struct request *r, struct token_list *ids,
                         struct err *err)
{
    json_t *sent = json_object_get(r->root, "messages"), *effort = NULL;
    const char *kind = NULL;
    int version = chat_native(engine_chat(app->engine));
    if (is_legacy(sent))
        sent = r->messages;
    int code = shorten_ids(app, sent, err);
    if (code)
        return code;
    if (version >= 15)
        effort = json_object_get(r->kwargs, "reasoning_effort");
    json_t *request = json_pack("{s:s, s:O, s:O?, s:O?, s:b}", "model", r->model, "messages", sent,
                                "tools", r->tools.offered, "reasoning_effort", effort,
                                "continue_final_message", r->continue_final_message);
    if (!request)
        return err_set(err, ERR_NOMEM, "out of memory while encoding a conversation");
    code = mistral_encode_chat(engine_tokenizer(app->engine), version, MISTRAL_SERVING, request,
                               ids, &kind, err);
    json_decref(request);
    if (code == ERR_VALUE && err)
        snprintf(err->param, sizeof err->param, "%s",
                 kind && strstr(kind, "InvalidTool") && !strstr(kind, "Message") ? "tools"
                                                                                 : "messages");
    return code;
}

static bool ends_in_thought(const struct app *app, const struct token_list *ids)
{
    const int32_t *marks = app->format.ids;
    if (!app->format.thinking || marks[MARK_THINK] < 0)
        return false;
    for (size_t i = ids->n; i-- > 0;)
        if (ids->ids[i] == marks[MARK_THINK] || ids->ids[i] == marks[MARK_UNTHINK])
            return ids->ids[i] == marks[MARK_THINK];
    return false;
}

/* ---- either */

int conversation_encode(const struct app *app, const struct request *r, struct token_list *ids,
                        bool *added_bos, bool *thinks, struct err *err)
{
    int code = check_tools(app, r, err);
    if (code)
        return code;
    if (!chat_native(engine_chat(app->engine)))
        return encode_rendered(app, r, ids, added_bos, thinks, err);
    code = encode_native(app, r, ids, err);
    *added_bos = true;
    *thinks = !code && ends_in_thought(app, ids);
    return code;
}

int conversation_render(const struct app *app, const struct request *r, struct buf *out,
                        struct err *err)
{
    struct template_text text = {0};
    struct token_list ids = {0};
    int code = check_tools(app, r, err);
    if (!code && chat_native(engine_chat(app->engine))) {
        code = encode_native(app, r, &ids, err);
        if (!code)
            code = tokenizer_decode(engine_tokenizer(app->engine), ids.ids, ids.n, true, true, out);
    } else if (!code) {
        code = render(app, r, &text, err);
        if (!code)
            code = buf_add(out, text.text.data ? text.text.data : "", text.text.size);
    }
    template_text_free(&text);
    token_list_free(&ids);
    return code;
}
