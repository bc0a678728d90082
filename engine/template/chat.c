/* chat: picks the model's template and renders conversations with it.
 *
 * Order: the override; chat_template.jinja; chat_template in tokenizer_config.json (a string, or a
 * list of {name, template} of which "tool_use" serves requests with tools and "default" the rest)
 * or in chat_template.json; GGUF's tokenizer.chat_template. Variables are those of transformers'
 * apply_chat_template. Immutable after open; any thread renders. */
#include "engine/template/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/value.h"

/* Special tokens that templates may name. Their text is trusted, so no request may set them. */
static const char *const token_names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                          "sep_token", "cls_token", "mask_token", NULL};
enum { N_TOKENS = sizeof token_names / sizeof *token_names - 1 };

struct chat {
    struct template *plain;    /* NULL: the model has no template */
    struct template *with_tools; /* or NULL: plain serves these too */
    char *tokens[N_TOKENS];    /* NULL: the variable stays undefined */
};

static int add_template(struct template **slot, const char *source, size_t n, const char *where,
                        struct err *err)
{
    if (*slot)
        return 0;
    int rc = template_parse(source, n, slot, err);
    if (rc)
        err_prefix(err, "%s", where);
    return rc;
}

/* chat_template of a JSON file: text, or [{"name": ..., "template": ...}]. */
static int add_json(struct chat *c, const json_t *value, const char *where, struct err *err)
{
    size_t i;
    json_t *item;
    if (!value || json_is_null(value) || c->plain)
        return 0;
    if (json_is_string(value))
        return add_template(&c->plain, json_string_value(value), json_string_length(value), where,
                            err);
    if (!json_is_array(value))
        return err_set(err, ERR_FORMAT, "%s: neither a string nor a list", where);
    const json_t *chosen = NULL, *tools = NULL;
    json_array_foreach(value, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *text = json_object_get(item, "template");
        if (!name || !json_is_string(text))
            return err_set(err, ERR_FORMAT, "%s[%zu]: name or template is not a string", where, i);
        if (strcmp(name, "tool_use") == 0)
            tools = text;
        else if (!chosen || strcmp(name, "default") == 0)
            chosen = text;
    }
    if (!chosen)
        chosen = tools;
    int rc = chosen ? add_template(&c->plain, json_string_value(chosen),
                                   json_string_length(chosen), where, err)
                    : 0;
    if (!rc && tools)
        rc = add_template(&c->with_tools, json_string_value(tools), json_string_length(tools),
                          where, err);
    return rc;
}

static int load_json(const struct source *source, const char *name, json_t **out, struct err *err)
{
    json_error_t error;
    const struct source_file *file = source_find(source, name);
    *out = NULL;
    if (!file)
        return 0;
    *out = json_loadb((const char *)file->data, file->size, 0, &error);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_FORMAT, "%s: not a JSON object", name);
    }
    return 0;
}

static int set_token(struct chat *c, size_t i, const char *text)
{
    c->tokens[i] = strdup(text);
    return c->tokens[i] ? 0 : ERR_NOMEM;
}

/* A token is a string or an object with its content; null says that there is none. */
static int read_tokens(struct chat *c, const json_t *config, const struct tokenizer *tok,
                       struct err *err)
{
    for (size_t i = 0; i < N_TOKENS; i++) {
        const json_t *value = json_object_get(config, token_names[i]);
        if (json_is_object(value))
            value = json_object_get(value, "content");
        if (json_is_string(value) && set_token(c, i, json_string_value(value)))
            return err_set(err, ERR_NOMEM, "out of memory for the chat template");
        int32_t id = value || !tok ? -1 : i == 0 ? tokenizer_bos(tok) : i == 1 ? tokenizer_eos(tok)
                                                                               : -1;
        if (id >= 0 && set_token(c, i, tokenizer_token_text(tok, id)))
            return err_set(err, ERR_NOMEM, "out of memory for the chat template");
    }
    return 0;
}

static int add_files(struct chat *c, const struct source *source, const struct gguf *gguf,
                     const json_t *config, struct err *err)
{
    const struct source_file *file = source_find(source, "chat_template.jinja");
    int rc = 0;
    if (file)
        rc = add_template(&c->plain, (const char *)file->data, file->size, "chat_template.jinja",
                          err);
    if (!rc)
        rc = add_json(c, json_object_get(config, "chat_template"),
                      "tokenizer_config.json: chat_template", err);
    if (!rc && !c->plain) {
        json_t *separate = NULL;
        rc = load_json(source, "chat_template.json", &separate, err);
        if (!rc)
            rc = add_json(c, json_object_get(separate, "chat_template"),
                          "chat_template.json: chat_template", err);
        json_decref(separate);
    }
    const char *text;
    size_t size;
    int found = 0;
    if (!rc && !c->plain && gguf)
        rc = gguf_text(gguf, "tokenizer.chat_template", &text, &size, &found, err);
    if (!rc && found)
        rc = add_template(&c->plain, text, size, "tokenizer.chat_template", err);
    return rc;
}

int chat_open(const struct source *source, const struct gguf *gguf, const struct tokenizer *tok,
              const char *override, struct chat **out, struct err *err)
{
    json_t *config = NULL;
    *out = NULL;
    struct chat *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NOMEM, "out of memory for the chat template");
    int rc = load_json(source, "tokenizer_config.json", &config, err);
    if (!rc)
        rc = read_tokens(c, config, tok, err);
    if (!rc && override)
        rc = add_template(&c->plain, override, strlen(override), "the given chat template", err);
    else if (!rc)
        rc = add_files(c, source, gguf, config, err);
    json_decref(config);
    if (rc) {
        chat_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void chat_close(struct chat *c)
{
    if (!c)
        return;
    template_free(c->plain);
    template_free(c->with_tools);
    for (size_t i = 0; i < N_TOKENS; i++)
        free(c->tokens[i]);
    free(c);
}

bool chat_has_template(const struct chat *c)
{
    return c->plain != NULL;
}

static bool is_reserved(const char *name)
{
    static const char *const names[] = {"messages", "tools", "add_generation_prompt",
                                        "continue_final_message", NULL};
    for (const char *const *n = names; *n; n++)
        if (strcmp(*n, name) == 0)
            return true;
    for (size_t i = 0; i < N_TOKENS; i++)
        if (strcmp(token_names[i], name) == 0)
            return true;
    return false;
}

/* The template's variables; NULL: out of memory. */
static json_t *context_of(const struct chat *c, const struct chat_request *request)
{
    json_t *context = json_object();
    const char *key;
    json_t *value;
    bool prompt = request->add_generation_prompt && !request->continue_final_message;
    int rc = context ? 0 : -1;
    rc |= json_object_set_new(context, "documents", json_null());
    json_object_foreach((json_t *)request->kwargs, key, value) {
        if (!is_reserved(key))
            rc |= json_object_set(context, key, value);
    }
    rc |= json_object_set(context, "messages", (json_t *)request->messages);
    rc |= request->tools ? json_object_set(context, "tools", (json_t *)request->tools)
                         : json_object_set_new(context, "tools", json_null());
    rc |= json_object_set_new(context, "add_generation_prompt", json_boolean(prompt));
    for (size_t i = 0; i < N_TOKENS; i++)
        if (c->tokens[i])
            rc |= json_object_set_new(context, token_names[i], json_string(c->tokens[i]));
    if (rc) {
        json_decref(context);
        return NULL;
    }
    return context;
}

static size_t find_last(const struct buf *text, const char *needle, size_t n)
{
    size_t last = SIZE_MAX;
    const char *at = text->data, *end = text->data + text->size;
    while (n && at && (at = memmem(at, (size_t)(end - at), needle, n)) != NULL)
        last = (size_t)(at++ - text->data);
    return last;
}

static void cut_text(struct template_text *out, size_t size)
{
    if (size >= out->text.size)
        return;
    out->text.size = size;
    out->text.data[size] = 0;
    while (out->n_trusted && out->trusted[out->n_trusted - 1].start >= size)
        out->n_trusted--;
    if (out->n_trusted && out->trusted[out->n_trusted - 1].end > size)
        out->trusted[out->n_trusted - 1].end = size;
}

/* transformers' continue_final_message: the prompt ends where the last message's content ends, with
 * its trailing white space if the template kept it. */
static int leave_open(const json_t *messages, struct template_text *out, struct err *err)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *content = json_object_get(last, "content");
    if (!json_is_string(content))
        return err_param(err, ERR_VALUE, "continue_final_message",
                         "the final message has no text to continue");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content), lead = str_skip_space(text, n);
    size_t stripped = str_trim_space(text + lead, n - lead);
    size_t at = stripped ? find_last(&out->text, text + lead, stripped) : out->text.size;
    if (at == SIZE_MAX)
        return err_param(err, ERR_VALUE, "continue_final_message",
                         "the chat template changes the final message, so that it can not be "
                         "continued");
    bool kept = out->text.size - at >= n - lead && stripped &&
                memcmp(out->text.data + at, text + lead, n - lead) == 0;
    cut_text(out, at + (kept ? n - lead : stripped));
    return 0;
}

int chat_render(const struct chat *c, const struct chat_request *request,
                struct template_text *out, struct err *err)
{
    *out = (struct template_text){0};
    if (!c->plain)
        return err_param(err, ERR_UNSUPPORTED_PARAM, "messages",
                         "This model has no chat template; use /v1/completions.");
    if (!json_is_array(request->messages) || json_array_size(request->messages) == 0)
        return err_param(err, ERR_ARRAY_EMPTY, "messages", "messages must not be empty.");
    bool tools = request->tools && json_array_size(request->tools) > 0;
    json_t *context = context_of(c, request);
    if (!context)
        return err_set(err, ERR_NOMEM, "out of memory for the conversation");
    int rc = template_render(tools && c->with_tools ? c->with_tools : c->plain, context,
                             token_names, time(NULL), out, err);
    json_decref(context);
    if (!rc && request->continue_final_message)
        rc = leave_open(request->messages, out, err);
    if (rc)
        template_text_free(out);
    if (rc == ERR_VALUE && err && !err->param[0])
        snprintf(err->param, sizeof err->param, "messages");
    return rc;
}
