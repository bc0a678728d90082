/* chat: picks the model's template and renders conversations with it.
 *
 * Order: the override; chat_template.jinja; chat_template in tokenizer_config.json (a string, or a
 * list of {name, template} of which "tool_use" serves requests with tools and "default" the rest)
 * or in chat_template.json; GGUF's tokenizer.chat_template. A name asked for is looked up in the
 * lists, then in GGUF's tokenizer.chat_template.NAME. Variables are those of transformers'
 * apply_chat_template. Immutable after open; any thread renders. */
#include "engine/template/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/template/mistral.h"
#include "engine/template/value.h"

/* Special tokens that templates may name. Their text is trusted, so no request may set them. */
static const char *const token_names[] = {"bos_token", "eos_token", "unk_token",  "pad_token",
                                          "sep_token", "cls_token", "mask_token", NULL};
enum { N_TOKENS = sizeof token_names / sizeof *token_names - 1 };
/* What marks, while the template renders, the end of a message that is to be continued: the same
 * words as transformers', since a template can see them. The space tells whether it trims. */
#define OPEN_END "CONTINUE_FINAL_MESSAGE_TAG "

enum { NAME_BYTES_MAX = 100, FILE_BYTES_MAX = 64 << 20 };

struct chat {
    struct template *plain;      /* NULL: the model has no template */
    struct template *with_tools; /* or NULL: plain serves these too */
    int native;                  /* Mistral's version, or 0: see chat_choose_native */
    char *tokens[N_TOKENS];      /* NULL: the variable stays undefined */
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

/* A list's templates: the one named `wanted`, or those for requests without and with tools. */
static int choose_named(const json_t *value, const char *wanted, const char *where,
                        const json_t **chosen, const json_t **tools, struct err *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *text = json_object_get(item, "template");
        if (!name || !json_is_string(text))
            return err_set(err, ERR_FORMAT, "%s[%zu]: name or template is not a string", where, i);
        if (wanted && strcmp(name, wanted) == 0)
            *chosen = text;
        else if (!wanted && strcmp(name, "tool_use") == 0)
            *tools = text;
        else if (!wanted && (!*chosen || strcmp(name, "default") == 0))
            *chosen = text;
    }
    if (!*chosen)
        *chosen = *tools;
    return 0;
}

/* chat_template of a JSON file: text, or [{"name": ..., "template": ...}]. */
static int add_json(struct chat *c, const json_t *value, const char *name, const char *where,
                    struct err *err)
{
    const json_t *chosen = NULL, *tools = NULL;
    if (!value || json_is_null(value) || c->plain || (name && json_is_string(value)))
        return 0;
    if (json_is_string(value))
        return add_template(&c->plain, json_string_value(value), json_string_length(value), where,
                            err);
    if (!json_is_array(value))
        return err_set(err, ERR_FORMAT, "%s: neither a string nor a list", where);
    if (choose_named(value, name, where, &chosen, &tools, err))
        return ERR_FORMAT;
    int rc = chosen ? add_template(&c->plain, json_string_value(chosen), json_string_length(chosen),
                                   where, err)
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
    if (!*out && !error.text[0]) /* jansson 2.14 has no text when an allocation failed */
        return err_set(err, ERR_NOMEM, "%s: out of memory", name);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_FORMAT, "%s: not a JSON object", name);
    }
    return 0;
}

static int read_file(const char *path, struct buf *out, struct err *err)
{
    char block[1 << 13];
    FILE *in = fopen(path, "re");
    if (!in)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;)
        buf_add(out, block, n);
    bool failed = ferror(in);
    fclose(in);
    if (failed)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(EIO));
    return out->failed ? err_set(err, out->failed, "%s: %s", path, err_text(out->failed)) : 0;
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
        int32_t id = value || !tok ? -1
                     : i == 0      ? tokenizer_bos(tok)
                     : i == 1      ? tokenizer_eos(tok)
                                   : -1;
        if (id >= 0 && set_token(c, i, tokenizer_token_text(tok, id)))
            return err_set(err, ERR_NOMEM, "out of memory for the chat template");
    }
    return 0;
}

static int add_gguf(struct chat *c, const struct gguf *gguf, const char *name, struct err *err)
{
    char key[NAME_BYTES_MAX + sizeof "tokenizer.chat_template."];
    const char *text;
    size_t size;
    int found = 0;
    snprintf(key, sizeof key, "tokenizer.chat_template%s%.*s", name ? "." : "", NAME_BYTES_MAX,
             name ? name : "");
    int rc = gguf_text(gguf, key, &text, &size, &found, err);
    return rc || !found ? rc : add_template(&c->plain, text, size, key, err);
}

static int add_files(struct chat *c, const struct source *source, const struct gguf *gguf,
                     const json_t *config, const char *name, struct err *err)
{
    const struct source_file *file = source_find(source, "chat_template.jinja");
    int rc = 0;
    if (file && !name)
        rc = add_template(&c->plain, (const char *)file->data, file->size, "chat_template.jinja",
                          err);
    if (!rc)
        rc = add_json(c, json_object_get(config, "chat_template"), name,
                      "tokenizer_config.json: chat_template", err);
    if (!rc && !c->plain) {
        json_t *separate = NULL;
        rc = load_json(source, "chat_template.json", &separate, err);
        if (!rc)
            rc = add_json(c, json_object_get(separate, "chat_template"), name,
                          "chat_template.json: chat_template", err);
        json_decref(separate);
    }
    if (!rc && !c->plain && gguf)
        rc = add_gguf(c, gguf, name, err);
    if (!rc && !c->plain && name)
        rc = err_set(err, ERR_USAGE, "%s: there is no chat template named '%.*s'",
                     source_path(source), NAME_BYTES_MAX, name);
    return rc;
}

int chat_open(const struct source *source, const struct gguf *gguf, const struct tokenizer *tok,
              const char *override, const char *name, struct chat **out, struct err *err)
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
        rc = add_files(c, source, gguf, config, name, err);
    json_decref(config);
    if (rc) {
        chat_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* A lone file, as if it lay in a model folder under the name that says its kind. */
static int open_single(const char *path, const char *text, size_t n, struct source **out,
                       struct err *err)
{
    size_t at = str_skip_space(text, n), end = strlen(path);
    bool json = end >= 5 && strcmp(path + end - 5, ".json") == 0;
    struct source_file file = {
        .name = "chat_template.jinja", .data = (const uint8_t *)text, .size = n};
    if (json && at < n && text[at] == '{')
        file.name = "tokenizer_config.json";
    return source_open_memory(path, &file, 1, out, err);
}

int chat_open_path(const char *path, const char *name, struct chat **out, struct err *err)
{
    struct source *source = NULL;
    struct gguf *gguf = NULL;
    struct buf text;
    struct stat status;
    size_t end = strlen(path);
    *out = NULL;
    buf_init(&text, FILE_BYTES_MAX);
    if (stat(path, &status))
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    bool single = S_ISREG(status.st_mode) && (end < 5 || strcmp(path + end - 5, ".gguf") != 0);
    int rc = single ? read_file(path, &text, err) : source_open(path, &source, err);
    if (!rc && single)
        rc = open_single(path, text.data ? text.data : "", text.size, &source, err);
    if (!rc && source_gguf(source))
        rc = gguf_open(source_gguf(source), &gguf, err);
    if (!rc)
        rc = chat_open(source, gguf, NULL, NULL, name, out, err);
    if (!rc && !(*out)->plain) {
        rc = err_set(err, ERR_FORMAT, "%s: there is no chat template in it", path);
        chat_close(*out);
        *out = NULL;
    }
    gguf_close(gguf);
    source_close(source);
    buf_free(&text);
    return rc;
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

int chat_choose_native(struct chat *c, const struct tokenizer *tok, bool wanted, struct err *err)
{
    int version = tokenizer_mistral_version(tok);
    int32_t inst = tokenizer_find(tok, "[INST]", 6);
    const char *kind = tokenizer_kind(tok);
    bool ships = !strncmp(kind, "tekken.json", 11) || !strncmp(kind, "tokenizer.model", 15) ||
                 !strncmp(kind, "GGUF", 4); /* one without a template was made from such files */
    bool ends = tokenizer_bos(tok) >= 0 && tokenizer_eos(tok) >= 0 && mistral_is_version(version);
    if (wanted && !ends)
        return err_set(err, ERR_USAGE, "mistral_native: %s is no tokenizer of Mistral's", kind);
    if (wanted || (!c->plain && ships && ends && tokenizer_is_special(tok, inst)))
        c->native = version;
    return 0;
}

int chat_native(const struct chat *c)
{
    return c->native;
}

const struct template *chat_template(const struct chat *c, bool tools)
{
    return tools && c->with_tools ? c->with_tools : c->plain;
}

bool chat_takes_tools(const struct chat *c)
{
    const struct template *t = chat_template(c, true);
    return c->native ? c->native >= 2 : t && template_names(t, "tools");
}

bool chat_holds(const struct chat *c, const char *text)
{
    return (c->plain && template_holds(c->plain, text)) ||
           (c->with_tools && template_holds(c->with_tools, text));
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
    json_object_foreach((json_t *)request->kwargs, key, value)
    {
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

/* The text that is to be continued, in a message or in one of its parts: the holder of *member. */
static json_t *open_text(const json_t *message, const char **member)
{
    json_t *content = json_object_get(message, "content");
    *member = "content";
    if (json_is_string(content))
        return (json_t *)message;
    *member = "text";
    for (size_t i = json_array_size(content); i-- > 0;)
        if (json_is_string(json_object_get(json_array_get(content, i), "text")))
            return json_array_get(content, i);
    return NULL;
}

json_t *chat_mark_open(const json_t *messages, struct err *err)
{
    size_t n = json_array_size(messages);
    const char *member;
    const json_t *holder = open_text(json_array_get(messages, n - 1), &member);
    if (!holder) {
        err_param(err, ERR_VALUE, "continue_final_message",
                  "the final message has no text to continue");
        return NULL;
    }
    struct buf text;
    buf_init(&text, 0);
    buf_add(&text, json_string_value(json_object_get(holder, member)),
            json_string_length(json_object_get(holder, member)));
    buf_text(&text, OPEN_END);
    json_t *marked = json_copy((json_t *)messages);
    json_t *last = json_deep_copy(json_array_get(messages, n - 1));
    json_t *inside = last ? open_text(last, &member) : NULL;
    bool done = marked && inside && !text.failed &&
                !json_object_set_new(inside, member, json_stringn(text.data, text.size)) &&
                !json_array_set(marked, n - 1, last);
    buf_free(&text);
    json_decref(last);
    if (done)
        return marked;
    json_decref(marked);
    err_set(err, ERR_NOMEM, "out of memory for the conversation");
    return NULL;
}

int chat_leave_open(const json_t *messages, struct template_text *out, struct err *err)
{
    const char *member;
    const json_t *holder =
        open_text(json_array_get(messages, json_array_size(messages) - 1), &member);
    const json_t *content = json_object_get(holder, member);
    const char *text = json_string_value(content);
    size_t n = json_string_length(content), lead = text ? str_skip_space(text, n) : 0;
    size_t stripped = text ? str_trim_space(text + lead, n - lead) : 0;
    size_t at = find_last(&out->text, OPEN_END, sizeof OPEN_END - 2); /* without its space */
    if (at == SIZE_MAX || (stripped && !memmem(out->text.data, at, text + lead, stripped)))
        return err_param(err, ERR_VALUE, "continue_final_message",
                         "the chat template changes the final message, so that it can not be "
                         "continued");
    bool kept = out->text.data[at + sizeof OPEN_END - 2] == ' ';
    cut_text(out, kept ? at : str_trim_space(out->text.data, at));
    return 0;
}

int chat_render(const struct chat *c, const struct chat_request *request, struct template_text *out,
                struct err *err)
{
    *out = (struct template_text){0};
    if (!c->plain)
        return err_param(err, ERR_UNSUPPORTED_PARAM, "messages",
                         "This model has no chat template; use /v1/completions.");
    if (!json_is_array(request->messages) || json_array_size(request->messages) == 0)
        return err_param(err, ERR_ARRAY_EMPTY, "messages", "messages must not be empty.");
    bool tools = request->tools && json_array_size(request->tools) > 0;
    struct chat_request marked = *request;
    json_t *messages =
        request->continue_final_message ? chat_mark_open(request->messages, err) : NULL;
    if (request->continue_final_message && !messages)
        return err ? err->code : ERR_VALUE;
    marked.messages = messages ? messages : request->messages;
    json_t *context = context_of(c, &marked);
    json_decref(messages);
    if (!context)
        return err_set(err, ERR_NOMEM, "out of memory for the conversation");
    int rc = template_render(chat_template(c, tools), context, token_names, time(NULL), out, err);
    json_decref(context);
    if (!rc && request->continue_final_message)
        rc = chat_leave_open(request->messages, out, err);
    if (rc)
        template_text_free(out);
    if (rc == ERR_VALUE && err && !err->param[0])
        snprintf(err->param, sizeof err->param, "messages");
    return rc;
}
