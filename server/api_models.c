/* api_models: GET /v1/models and /v1/models/{id}. Loop thread; no state. While the model loads both
 * answer 503: readiness probes ask here. */
#include <string.h>

#include "engine/template/chat.h"
#include "engine/template/fim.h"
#include "server/api.h"
#include "server/app.h"
#include "server/exchange.h"
#include "server/request.h"

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

/* What Mistral's API says of a model, in its words; its clients read no list without them. */
static void write_capabilities(const struct app *app, struct buf *out)
{
    const struct chat *chat = engine_chat(app->engine);
    struct fim fim;
    bool chats = chat_has_template(chat) || chat_native(chat);
    bool calls = chats && app->format.dialect && chat_takes_tools(chat);
    buf_format(out,
               "\"type\":\"base\",\"max_context_length\":%d,\"capabilities\":{"
               "\"completion_chat\":%s,\"completion_fim\":%s,\"function_calling\":%s,"
               "\"fine_tuning\":false,\"vision\":false}",
               engine_info(app->engine)->max_model_len, truth(chats),
               truth(fim_find(engine_tokenizer(app->engine), &fim)), truth(calls));
}

static void write_model(const struct app *app, const char *name, struct buf *out)
{
    const struct engine_info *info = engine_info(app->engine);
    buf_text(out, "{\"id\":");
    buf_json_string(out, name, strlen(name));
    buf_format(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"sirocco\",\"root\":",
               (long long)app->created);
    buf_json_string(out, info->model_name, strlen(info->model_name));
    buf_format(out,
               ",\"parent\":null,\"max_model_len\":%d,\"permission\":[],\"meta\":{\"n_ctx\":%d,"
               "\"n_ctx_train\":%d,\"n_vocab\":%d,\"n_params\":%lld,\"size\":%lld},",
               info->max_model_len, info->max_model_len, info->context_length, info->vocab_size,
               (long long)info->n_parameters, (long long)info->weight_bytes);
    write_capabilities(app, out);
    buf_byte(out, '}');
}

static void answer_buf(struct exchange *x, struct buf *out)
{
    if (out->failed)
        exchange_fail(x, &(struct err){.code = ERR_NOMEM, .text = "no memory for the answer"});
    else
        exchange_answer(x, 200, "application/json", out->data, out->size);
    buf_free(out);
}

/* The list stays readable while draining: what runs here still runs. */
static bool loaded(struct exchange *x)
{
    struct err err = {0};
    if (app_ready(x->app, &err) == 0 || x->app->phase == APP_DRAINING)
        return true;
    exchange_fail(x, &err);
    return false;
}

void api_models(struct exchange *x)
{
    struct buf out;
    if (!loaded(x))
        return;
    buf_init(&out, 0);
    buf_text(&out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < x->app->n_names; i++) {
        if (i)
            buf_byte(&out, ',');
        write_model(x->app, x->app->names[i], &out);
    }
    buf_text(&out, "]}");
    answer_buf(x, &out);
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Does the raw path tail, percent escapes undone (RFC 3986, 2.1: the official client escapes the
 * id), spell name? A malformed escape spells nothing. */
static bool tail_is(const char *tail, const char *name)
{
    for (; *tail && *name; name++) {
        int c = (unsigned char)*tail++;
        if (c == '%') {
            int high = hex(tail[0]), low = high < 0 ? -1 : hex(tail[1]);
            if (low < 0)
                return false;
            c = high * 16 + low;
            tail += 2;
        }
        if (c != (unsigned char)*name)
            return false;
    }
    return !*tail && !*name;
}

void api_model(struct exchange *x)
{
    struct buf out;
    struct err err;
    if (!loaded(x))
        return;
    for (int i = 0; i < x->app->n_names; i++) {
        if (!tail_is(x->path_tail, x->app->names[i]))
            continue;
        buf_init(&out, 0);
        write_model(x->app, x->app->names[i], &out);
        answer_buf(x, &out);
        return;
    }
    request_no_model(&err, x->path_tail, x->app->names[0]);
    exchange_fail(x, &err);
}
