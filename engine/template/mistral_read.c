/* mistral_read: a chat request's JSON as messages. What has a wrong type is refused here, as the
 * data classes of mistral-common do, before any rule about conversations is asked. No state. */
#include <string.h>

#include "engine/template/dumps.h"
#include "engine/template/mistral_internal.h"

enum { READ_MESSAGES_MAX = 65536 };

static struct mistral_text text_of(const json_t *value)
{
    return (struct mistral_text){json_string_value(value), json_string_length(value)};
}

static int wrong(struct mistral *m, size_t i, const char *what)
{
    return mistral_fail(m, "ValidationError", "messages[%zu]: %s", i, what);
}

/* What a thinking part thought: text, or a list of text parts. */
static int read_thinking(struct mistral *m, size_t i, const json_t *value, struct mistral_text *out)
{
    struct buf all;
    size_t k;
    json_t *part;
    if (json_is_string(value)) {
        *out = text_of(value);
        return 0;
    }
    if (!json_is_array(value))
        return wrong(m, i, "thinking must be a text");
    buf_init(&all, 0);
    json_array_foreach(value, k, part)
    {
        const json_t *text = json_object_get(part, "text");
        buf_add(&all, json_is_string(text) ? json_string_value(text) : "",
                json_string_length(text));
    }
    *out = mistral_keep(m, &all);
    buf_free(&all);
    return out->data ? 0 : mistral_no_memory(m);
}

static int read_part(struct mistral *m, size_t i, enum mistral_role role, const json_t *part,
                     struct mistral_chunk *chunk)
{
    enum {
        TEXT = 1 << MISTRAL_TEXT,
        THINK = 1 << MISTRAL_THINK,
        AUDIO = 1 << MISTRAL_AUDIO,
        ANY = TEXT | AUDIO | 1 << MISTRAL_AUDIO_URL | 1 << MISTRAL_IMAGE | 1 << MISTRAL_IMAGE_URL
    };
    static const unsigned kinds[] = {[MISTRAL_SYSTEM] = TEXT | AUDIO | THINK,
                                     [MISTRAL_USER] = ANY,
                                     [MISTRAL_ASSISTANT] = TEXT | THINK,
                                     [MISTRAL_TOOL] = ANY};
    static const char *const types[] = {"input_audio", "audio_url", "image",
                                        "image_url",   "text",      "thinking"};
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *closed = json_object_get(part, "closed");
    int which = 0;
    while (type && which < MISTRAL_CHUNK_TYPES && strcmp(type, types[which]) != 0)
        which++;
    if (!type || which == MISTRAL_CHUNK_TYPES)
        return wrong(m, i, "a content part is of an unknown type");
    chunk->type = (enum mistral_chunk_type)which;
    chunk->closed = !json_is_false(closed);
    if (!(kinds[role] & 1U << which))
        return wrong(m, i, "a content part is of a type that its role can not have");
    if (chunk->type == MISTRAL_THINK)
        return read_thinking(m, i, json_object_get(part, "thinking"), &chunk->text);
    if (chunk->type != MISTRAL_TEXT)
        return 0;
    if (!json_is_string(json_object_get(part, "text")))
        return wrong(m, i, "a text part has no text");
    chunk->text = text_of(json_object_get(part, "text"));
    return 0;
}

static int read_content(struct mistral *m, size_t i, const json_t *json,
                        struct mistral_message *message)
{
    const json_t *content = json_object_get(json, "content");
    const json_t *thought = json_object_get(json, "reasoning_content");
    size_t k;
    json_t *part;
    if (!json_is_string(thought))
        thought = json_object_get(json, "reasoning");
    bool thinks = message->role == MISTRAL_ASSISTANT && json_string_length(thought) > 0 &&
                  tokenizer_is_special(m->tok, tokenizer_find(m->tok, "[THINK]", 7)) &&
                  m->version >= 13; /* a model that never thought has no use for the field */
    if (content && !json_is_null(content) && !json_is_string(content) && !json_is_array(content))
        return wrong(m, i, "content must be a text or a list of parts");
    if ((!content || json_is_null(content)) && message->role != MISTRAL_ASSISTANT)
        return wrong(m, i, "content is missing");
    message->is_list = json_is_array(content) || thinks;
    message->chunks = arena_array(&m->arena, json_array_size(content) + 2, sizeof *message->chunks);
    if (!message->chunks)
        return mistral_no_memory(m);
    if (thinks)
        message->chunks[message->n_chunks++] =
            (struct mistral_chunk){MISTRAL_THINK, text_of(thought), true};
    if (json_is_string(content) && (json_string_length(content) || !thinks))
        message->chunks[message->n_chunks++] =
            (struct mistral_chunk){MISTRAL_TEXT, text_of(content), true};
    json_array_foreach(content, k, part)
    {
        int code = read_part(m, i, message->role, part, &message->chunks[message->n_chunks++]);
        if (code)
            return code;
    }
    return 0;
}

static int read_call(struct mistral *m, size_t i, const json_t *json, struct mistral_call *call)
{
    const json_t *function = json_object_get(json, "function"), *id = json_object_get(json, "id");
    const json_t *arguments = json_object_get(function, "arguments");
    if (!json_is_string(json_object_get(function, "name")))
        return wrong(m, i, "a tool call has no function name");
    if (id && !json_is_null(id) && !json_is_string(id))
        return wrong(m, i, "a tool call's id must be a text");
    call->name = text_of(json_object_get(function, "name"));
    call->id = json_is_string(id) ? text_of(id) : (struct mistral_text){"null", 4};
    if (json_is_string(arguments)) {
        call->arguments = text_of(arguments);
        return 0;
    }
    if (arguments && !json_is_object(arguments) && !json_is_null(arguments))
        return wrong(m, i, "a tool call's arguments must be a text or an object");
    struct buf text;
    buf_init(&text, 0);
    if (json_is_object(arguments))
        dumps_value(&text, arguments);
    else
        buf_text(&text, "{}");
    call->arguments = mistral_keep(m, &text);
    buf_free(&text);
    return call->arguments.data ? 0 : mistral_no_memory(m);
}

static int read_assistant(struct mistral *m, size_t i, const json_t *json,
                          struct mistral_message *message)
{
    const json_t *calls = json_object_get(json, "tool_calls");
    message->prefix = json_is_true(json_object_get(json, "prefix"));
    message->has_calls = calls && !json_is_null(calls);
    message->n_calls = json_array_size(calls);
    if (message->has_calls && !json_is_array(calls))
        return wrong(m, i, "tool_calls must be a list");
    message->calls = arena_array(&m->arena, message->n_calls + 1, sizeof *message->calls);
    if (!message->calls)
        return mistral_no_memory(m);
    for (size_t k = 0; k < message->n_calls; k++) {
        int code = read_call(m, i, json_array_get(calls, k), &message->calls[k]);
        if (code)
            return code;
    }
    return 0;
}

static int read_message(struct mistral *m, size_t i, const json_t *json)
{
    static const struct {
        const char *name;
        enum mistral_role role;
    } roles[] = {{"system", MISTRAL_SYSTEM},
                 {"developer", MISTRAL_SYSTEM},
                 {"user", MISTRAL_USER},
                 {"assistant", MISTRAL_ASSISTANT},
                 {"tool", MISTRAL_TOOL}};
    struct mistral_message *message = &m->messages[i];
    const char *role = json_string_value(json_object_get(json, "role"));
    size_t k = 0, n = sizeof roles / sizeof roles[0];
    while (role && k < n && strcmp(role, roles[k].name) != 0)
        k++;
    if (!role || k == n)
        return wrong(m, i, "the role is none of system, user, assistant, tool");
    message->role = roles[k].role;
    if (message->role == MISTRAL_TOOL) {
        const json_t *id = json_object_get(json, "tool_call_id");
        message->call_id = text_of(id); /* of what is no text: none */
        message->name = text_of(json_object_get(json, "name"));
    }
    int code = read_content(m, i, json, message);
    return !code && message->role == MISTRAL_ASSISTANT ? read_assistant(m, i, json, message) : code;
}

static int read_tools(struct mistral *m)
{
    const json_t *tools = json_object_get(m->request, "tools");
    size_t i;
    json_t *tool;
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return mistral_fail(m, "ValidationError", "tools must be a list");
    json_array_foreach(tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const json_t *schema = json_object_get(function, "parameters");
        if (!json_is_string(json_object_get(function, "name")))
            return mistral_fail(m, "ValidationError", "tools[%zu]: function has no name", i);
        if (schema && !json_is_null(schema) && !json_is_object(schema))
            return mistral_fail(m, "ValidationError", "tools[%zu]: parameters must be an object",
                                i);
    }
    m->tools = json_array_size(tools) ? tools : NULL;
    return 0;
}

/* The words there are; which of them a model knows, its tokenizer says (mistral_normal.c). */
static int read_effort(struct mistral *m)
{
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    const char *effort = json_string_value(json_object_get(m->request, "reasoning_effort"));
    for (size_t i = 0; effort && i < sizeof words / sizeof words[0]; i++)
        if (!strcmp(effort, words[i]))
            return 0;
    return effort ? mistral_fail(m, "ValidationError", "reasoning_effort can not be '%s'", effort)
                  : 0;
}

int mistral_read(struct mistral *m)
{
    const json_t *messages = json_object_get(m->request, "messages");
    if (!json_is_array(messages))
        return mistral_fail(m, "ValidationError", "messages must be a list");
    m->n_messages = json_array_size(messages);
    if (m->n_messages > READ_MESSAGES_MAX)
        return mistral_fail(m, "ValidationError", "there are more than %d messages",
                            READ_MESSAGES_MAX);
    m->messages = arena_array(&m->arena, m->n_messages + 1, sizeof *m->messages);
    if (!m->messages)
        return mistral_no_memory(m);
    int code = read_effort(m);
    for (size_t i = 0; i < m->n_messages && !code; i++)
        code = read_message(m, i, json_array_get(messages, i));
    if (code)
        return code;
    m->continues = json_is_true(json_object_get(m->request, "continue_final_message"));
    return read_tools(m);
}
