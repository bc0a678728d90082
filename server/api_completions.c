/* api_completions: POST /v1/completions, the legacy API that benchmarks and evaluation harnesses
 * use: many prompts in one request, echo, log probabilities of the prompt. The handler and the
 * writers run on the loop, completion_prepare on a prep worker; the state is the answer's. */
#include <string.h>

#include "server/answer.h"
#include "server/api.h"
#include "server/app.h"

/* What echo puts before the answer: the text as it was sent, or that of the ids. */
static int echo_text(struct exchange *x, int i, struct err *err)
{
    struct answer *a = x->api;
    const struct prompt *p = &a->prompts[i];
    struct answer_echo *echo = &a->echoes[i];
    struct buf text;
    if (p->text) {
        echo->text = p->text;
        echo->size = p->text_size;
        return 0;
    }
    size_t skip = p->tokens.ids[0] == tokenizer_bos(a->tok);
    buf_init(&text, 0);
    int code =
        tokenizer_decode(a->tok, p->tokens.ids + skip, p->tokens.n - skip, true, true, &text);
    if (!code) {
        echo->text = arena_copy(&x->arena, text.data ? text.data : "", text.size);
        echo->size = text.size;
        code = echo->text ? 0 : ERR_NOMEM;
    }
    buf_free(&text);
    return code ? err_set(err, code, "out of memory for the echo of a prompt") : 0;
}

/* All prompts of a request with a suffix: texts, as request_parse_completion saw to. */
static int fill_prompts(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request *r = &a->request;
    struct fim fim;
    int code = prompt_find_fim(a->tok, "suffix", &fim, err);
    if (!code && !r->ignore_eos)
        code = request_add_stop_ids(r, fim.ends, fim.n_ends, &x->arena, err);
    for (int i = 0; i < a->n_prompts && !code; i++) {
        const json_t *one =
            json_is_array(r->prompt) ? json_array_get(r->prompt, (size_t)i) : r->prompt;
        code = prompt_fill(a->tok, &fim, json_string_value(one), json_string_length(one), r->suffix,
                           r->suffix_size, &a->prompts[i], err);
        a->prompts[i].text = NULL; /* it goes with the JSON, and nothing echoes it */
    }
    return code;
}

int api_take_prompts(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    const struct request *r = &a->request;
    int n_prompts = r->n_prompts;
    int code = answer_prompts(x, n_prompts, err);
    if (!code && r->suffix)
        code = fill_prompts(x, err);
    for (int i = 0; i < n_prompts && !code && !r->suffix; i++)
        code = prompt_take(r->prompt, i, a->tok, r->add_special_tokens, &x->arena, &a->prompts[i],
                           err);
    if (!code)
        code = answer_check_context(x, "prompt", err);
    if (code || !r->echo)
        return code;
    a->echoes = arena_array(&x->arena, (size_t)n_prompts, sizeof *a->echoes);
    if (!a->echoes)
        return err_set(err, ERR_NOMEM, "out of memory for the echo of prompts");
    for (int i = 0; i < n_prompts && !code; i++)
        code = echo_text(x, i, err);
    return code;
}

static int completion_prepare(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request_limits limits;
    answer_limits(x, &limits);
    int code = request_parse_completion(&a->request, x->body.data ? x->body.data : "", x->body.size,
                                        &limits, &x->arena, err);
    if (code)
        return code;
    buf_free(&x->body);
    code = api_take_prompts(x, err);
    request_free(&a->request);
    return code;
}

static void write_ids(const struct answer *a, struct choice *c, bool prompt, struct buf *out)
{
    if (!a->request.return_token_ids)
        return;
    if (prompt) {
        buf_text(out, ",\"prompt_token_ids\":");
        answer_write_prompt_ids(a, c, out);
    }
    buf_text(out, ",\"token_ids\":");
    choice_write_ids(c, out);
}

static void completion_whole(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"text\":");
    buf_json_string(out, c->text.data, c->text.size);
    buf_text(out, ",\"logprobs\":");
    choice_write_logprobs(c, CHOICE_LEGACY, true, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, true, out);
}

static void completion_delta(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"text\":");
    buf_json_string(out, c->text.data, c->text.size);
    buf_text(out, ",\"logprobs\":");
    choice_write_logprobs(c, CHOICE_LEGACY, false, out);
    buf_text(out, ",\"finish_reason\":null");
    write_ids(a, c, false, out);
}

static void completion_end(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"text\":\"\",\"logprobs\":");
    choice_write_logprobs(c, CHOICE_LEGACY, false, out);
    buf_byte(out, ',');
    choice_write_end(c, &a->request.stops, out);
    write_ids(a, c, true, out);
}

static const struct answer_form completion_form = {
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .shape = CHOICE_LEGACY,
    .write_whole = completion_whole,
    .write_delta = completion_delta,
    .write_end = completion_end,
};

void api_completions(struct exchange *x)
{
    answer_handle(x, &completion_form, completion_prepare);
}
