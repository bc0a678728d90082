/* api_infill: POST /infill, llama.cpp's endpoint for editors: the text between input_prefix and
 * input_suffix. The answer is flat, as llama.cpp's is: {"content":..,"stop":..}, streamed or whole.
 * The handler and the writers run on the loop, infill_prepare on a prep worker; the state is the
 * answer's. */
#include <string.h>

#include "server/answer.h"
#include "server/api.h"

static int take_prompt(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request *r = &a->request;
    const char *prefix;
    size_t n_prefix;
    struct fim fim;
    int code = prompt_find_fim(a->tok, "input_suffix", &fim, err);
    if (!code && !r->ignore_eos)
        code = request_add_stop_ids(r, fim.ends, fim.n_ends, &x->arena, err);
    if (!code)
        code = request_infill_prefix(r, &x->arena, &prefix, &n_prefix, err);
    if (!code)
        code = answer_prompts(x, 1, err);
    if (!code)
        code = prompt_fill(a->tok, &fim, prefix, n_prefix, r->suffix, r->suffix_size,
                           &a->prompts[0], err);
    return code ? code : answer_check_context(x, "input_prefix", err);
}

static int infill_prepare(struct exchange *x, struct err *err)
{
    struct answer *a = x->api;
    struct request_limits limits;
    answer_limits(x, &limits);
    int code = request_parse_infill(&a->request, x->body.data ? x->body.data : "", x->body.size,
                                    &limits, &x->arena, err);
    if (code)
        return code;
    buf_free(&x->body);
    code = take_prompt(x, err);
    request_free(&a->request);
    return code;
}

static void write_tokens(const struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, ",\"tokens\":");
    if (a->request.return_token_ids)
        choice_write_ids(c, out);
    else
        buf_text(out, "[]");
}

/* The members that only the end has; the counts are llama.cpp's names of usage. */
static void write_stop(const struct answer *a, const struct choice *c, struct buf *out)
{
    const struct stream_stops *stops = &a->request.stops;
    bool word = c->finish == FINISH_STOP && c->stop_index >= 0 && c->stop_index < stops->n;
    buf_text(out, ",\"stop\":true,\"model\":");
    buf_json_string(out, a->request.model, strlen(a->request.model));
    buf_format(out, ",\"tokens_predicted\":%d,\"tokens_evaluated\":%d,\"tokens_cached\":%d,",
               c->usage.output_tokens, c->usage.prompt_tokens, c->usage.cached_tokens);
    buf_format(out, "\"truncated\":false,\"stop_type\":\"%s\",\"stopping_word\":",
               word ? "word" : c->finish == FINISH_STOP ? "eos" : "limit");
    if (word)
        buf_json_string(out, stops->text[c->stop_index], stops->size[c->stop_index]);
    else
        buf_text(out, "\"\"");
}

static void infill_whole(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"content\":");
    buf_json_string(out, c->text.data, c->text.size);
    write_tokens(a, c, out);
    write_stop(a, c, out);
}

static void infill_delta(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"content\":");
    buf_json_string(out, c->text.data, c->text.size);
    write_tokens(a, c, out);
    buf_text(out, ",\"stop\":false");
}

static void infill_end(struct answer *a, struct choice *c, struct buf *out)
{
    buf_text(out, "\"content\":\"\"");
    write_tokens(a, c, out);
    write_stop(a, c, out);
}

static const struct answer_form infill_form = {
    .shape = CHOICE_LEGACY,
    .flat = true,
    .write_whole = infill_whole,
    .write_delta = infill_delta,
    .write_end = infill_end,
};

void api_infill(struct exchange *x)
{
    answer_handle(x, &infill_form, infill_prepare);
}
