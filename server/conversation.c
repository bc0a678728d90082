/* conversation: renders chat requests with the model's template. A prep worker's; no state. */
#include "server/conversation.h"

#include <stdio.h>

/* Tools that the model could not see, or whose calls could not be told, are refused. */
static int check_tools(const struct app *app, const struct request *r, struct err *err)
{
    const char *param = r->tools.legacy ? "functions" : "tools";
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

int conversation_render(const struct app *app, const struct request *r, struct template_text *out,
                        struct err *err)
{
    struct chat_request request = {
        .messages = r->messages,
        .tools = r->tools.offered,
        .kwargs = r->kwargs,
        .add_generation_prompt = r->add_generation_prompt,
        .continue_final_message = r->continue_final_message,
    };
    int code = r->tools.offered ? check_tools(app, r, err) : 0;
    if (!code)
        code = chat_render(engine_chat(app->engine), &request, out, err);
    if (code == ERR_VALUE && err && !err->param[0]) /* what the template raised */
        snprintf(err->param, sizeof err->param, "messages");
    return code;
}
