/* prompt: checks the prompts of a completions request and turns text into tokens. A prep worker's;
 * no state. */
#include "server/prompt.h"

#include <stdio.h>
#include <string.h>

#include "server/field.h"
#include "server/request.h"

struct prompt_path {
    char text[64];
};

/* i < 0: that index is not part of the path */
static struct prompt_path path_of(int i, int j)
{
    struct prompt_path p;
    if (i < 0)
        snprintf(p.text, sizeof p.text, "prompt");
    else if (j < 0)
        snprintf(p.text, sizeof p.text, "prompt[%d]", i);
    else
        snprintf(p.text, sizeof p.text, "prompt[%d][%d]", i, j);
    return p;
}

static int check_text(const json_t *text, struct prompt_path path, struct err *err)
{
    if (json_string_length(text) <= PROMPT_TEXT_BYTES_MAX)
        return 0;
    return err_param(err, ERR_STRING_LONG, path.text,
                     "Invalid '%s': string too long. Expected at most %d bytes, but got %zu.",
                     path.text, PROMPT_TEXT_BYTES_MAX, json_string_length(text));
}

static int check_ids(const json_t *ids, int outer, int vocab_size, struct err *err)
{
    struct prompt_path whole = path_of(outer, -1);
    if (!json_array_size(ids))
        return err_param(err, ERR_ARRAY_EMPTY, whole.text, "Invalid '%s': empty array.",
                         whole.text);
    for (size_t k = 0; k < json_array_size(ids); k++) {
        const json_t *value = json_array_get(ids, k);
        int64_t id;
        struct prompt_path path = outer < 0 ? path_of((int)k, -1) : path_of(outer, (int)k);
        if (!field_integral(value, &id))
            return field_type_error(err, path.text, "a token id", value);
        if (id < 0 || id >= vocab_size)
            return err_param(err, ERR_VALUE, path.text,
                             "Invalid '%s': %lld is not a token id (0 to %d).", path.text,
                             (long long)id, vocab_size - 1);
    }
    return 0;
}

int prompt_check(const json_t *prompt, int vocab_size, struct err *err)
{
    int code = 0;
    if (json_is_string(prompt))
        return (code = check_text(prompt, path_of(-1, -1), err)) ? code : 1;
    if (!json_is_array(prompt))
        return field_type_error(err, "prompt", "a string or an array", prompt);
    size_t n = json_array_size(prompt);
    const json_t *first = json_array_get(prompt, 0);
    if (!n || json_is_number(first))
        return (code = check_ids(prompt, -1, vocab_size, err)) ? code : 1;
    if (!json_is_string(first) && !json_is_array(first))
        return field_type_error(err, "prompt[0]", "a string, a token id or an array of token ids",
                                first);
    if (n > REQUEST_PROMPTS_MAX)
        return err_param(err, ERR_ARRAY_LONG, "prompt",
                         "Invalid 'prompt': array too long. Expected at most %d, but got %zu.",
                         REQUEST_PROMPTS_MAX, n);
    for (size_t i = 0; i < n && !code; i++) {
        const json_t *one = json_array_get(prompt, i);
        struct prompt_path path = path_of((int)i, -1);
        if (json_typeof(one) != json_typeof(first))
            return field_type_error(
                err, path.text,
                json_is_string(first) ? "a string, as the first" : "an array, as the first", one);
        code = json_is_string(one) ? check_text(one, path, err)
                                   : check_ids(one, (int)i, vocab_size, err);
    }
    return code ? code : (int)n;
}

int prompt_encode(const struct tokenizer *tok, const char *text, size_t n,
                  const struct text_span *spans, size_t n_spans, bool add_bos,
                  struct token_list *out, bool *added, struct err *err)
{
    int32_t bos = tokenizer_bos(tok);
    int code = tokenizer_encode(tok, text, n, false, spans, n_spans, out, err);
    *added = false;
    if (code || !add_bos || bos < 0 || !tokenizer_adds_bos(tok) || (out->n && out->ids[0] == bos))
        return code;
    code = token_list_add(out, bos); /* room for one more, then shifted to the front */
    if (code)
        return err_set(err, code, "out of memory while encoding a prompt");
    memmove(out->ids + 1, out->ids, (out->n - 1) * sizeof *out->ids);
    out->ids[0] = bos;
    *added = true;
    return 0;
}

static int take_text(const json_t *value, const struct tokenizer *tok, int add_special,
                     struct arena *arena, struct prompt *out, struct err *err)
{
    size_t n = json_string_length(value);
    struct text_span whole = {0, n};
    out->text = arena_copy(arena, json_string_value(value), n);
    out->text_size = n;
    if (!out->text)
        return err_set(err, ERR_NOMEM, "out of memory while reading a prompt");
    int code = prompt_encode(tok, out->text, n, &whole, 1, add_special != 0, &out->tokens,
                             &out->added_bos, err);
    if (code || out->tokens.n)
        return code;
    int32_t id = tokenizer_bos(tok) >= 0 ? tokenizer_bos(tok) : tokenizer_eos(tok);
    if (id < 0)
        return err_param(err, ERR_VALUE, "prompt",
                         "Invalid 'prompt': it is empty, and this model has no token to begin "
                         "with.");
    out->added_bos = true;
    code = token_list_add(&out->tokens, id);
    return code ? err_set(err, code, "out of memory while encoding a prompt") : 0;
}

int prompt_take(const json_t *member, int i, const struct tokenizer *tok, int add_special,
                struct arena *arena, struct prompt *out, struct err *err)
{
    memset(out, 0, sizeof *out);
    const json_t *one = member;
    if (json_is_array(member) && !json_is_number(json_array_get(member, 0)))
        one = json_array_get(member, (size_t)i);
    if (json_is_string(one))
        return take_text(one, tok, add_special, arena, out, err);
    for (size_t k = 0; k < json_array_size(one); k++) {
        int64_t id = 0;
        field_integral(json_array_get(one, k), &id); /* prompt_check saw to it */
        int code = token_list_add(&out->tokens, (int32_t)id);
        if (code)
            return err_set(err, code, "out of memory while reading a prompt");
    }
    return 0;
}

int prompt_find_fim(const struct tokenizer *tok, const char *param, struct fim *out,
                    struct err *err)
{
    if (fim_find(tok, out))
        return 0;
    return err_param(err, ERR_UNSUPPORTED_PARAM, param,
                     "Unsupported parameter: '%s' is not supported by this model: its tokenizer "
                     "has no tokens for fill-in-the-middle.",
                     param);
}

int prompt_fill(const struct tokenizer *tok, const struct fim *fim, const char *prefix,
                size_t n_prefix, const char *suffix, size_t n_suffix, struct prompt *out,
                struct err *err)
{
    memset(out, 0, sizeof *out);
    out->text = prefix;
    out->text_size = n_prefix;
    int code = fim_encode(tok, fim, prefix, n_prefix, suffix, n_suffix, &out->tokens, err);
    out->added_bos = !code && out->tokens.ids[0] == tokenizer_bos(tok);
    return code;
}

void prompt_free(struct prompt *p)
{
    if (p)
        token_list_free(&p->tokens);
}
