/* api_fim: POST /v1/fim/completions, Mistral's fill-in-the-middle: the request is that of a
 * completion with a suffix, the answer that of a chat. fim_prepare runs on a prep worker; the state
 * is the answer's. */
#include "server/answer.h"
#include "server/api.h"
#include "server/field.h"

static int fim_prepare(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request *r = &a->request;
    struct request_limits limits;
    answer_limits(x, &limits);
    int code = request_parse_completion(r, x->body.data ? x->body.data : "", x->body.size, &limits,
                                        &x->arena, err);
    if (code)
        return code;
    buf_free(&x->body);
    r->echo = false; /* not of this API */
    if (!field_get(r->root, "max_tokens") && !field_get(r->root, "max_completion_tokens"))
        r->max_tokens = -1; /* Mistral's default is the room there is, not a completion's 16 */
    code = json_is_string(r->prompt) ? api_take_prompts(x, err)
                                     : field_type_error(err, "prompt", "a string", r->prompt);
    request_free(r);
    return code;
}

void api_fim(struct exchange *x)
{
    answer_handle(x, &api_chat_form, fim_prepare);
}
