/* messages: checks a conversation and builds the one that templates see. A prep worker's; no state
 * beyond one call. */
#include "server/messages.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buf.h"
#include "server/field.h"
#include "server/json_budget.h"

struct build {
    json_t *out;
    json_t *issued; /* object: ids of the tool calls so far, as keys */
    struct err *err;
    char path[96]; /* of the message: "messages[3]" */
    bool is_last;
    char function_id[16]; /* of the last function_call; "" */
    int n_function_calls;
};

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_FUNCTION };
static const struct {
    const char *name;
    enum role role;
    const char *template_name;
} roles[] = {
    {"developer", ROLE_SYSTEM, "system"}, {"system", ROLE_SYSTEM, "system"},
    {"user", ROLE_USER, "user"},          {"assistant", ROLE_ASSISTANT, "assistant"},
    {"tool", ROLE_TOOL, "tool"},          {"function", ROLE_FUNCTION, "tool"},
};
enum { ROLE_COUNT = sizeof roles / sizeof roles[0] };

/* "messages[3]" and ".content" to one param. */
struct path {
    char text[96];
};

static struct path below(const char *path, const char *name)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%.70s.%.24s", path, name);
    return p;
}

static struct path element(const char *path, const char *name, size_t i)
{
    struct path p;
    snprintf(p.text, sizeof p.text, "%.48s.%.24s[%zu]", path, name, i);
    return p;
}

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while reading messages");
}

static int missing(struct err *err, struct path path)
{
    return err_param(err, ERR_MISSING, path.text, "Missing required parameter: '%s'.", path.text);
}

static int wrong_type(struct err *err, struct path path, const char *expected, const json_t *value)
{
    return field_type_error(err, path.text, expected, value);
}

static int too_long(struct err *err, struct path path, size_t most, size_t got)
{
    return err_param(err, ERR_STRING_LONG, path.text,
                     "Invalid '%s': string too long. Expected at most %zu bytes, but got %zu.",
                     path.text, most, got);
}

/* A string member of object: 1 and *out (borrowed), 0 absent, or the error. */
static int member_string(struct build *b, const char *path, const json_t *object, const char *name,
                         size_t bytes_max, const json_t **out)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_string(value))
        return wrong_type(b->err, below(path, name), "a string", value);
    if (json_string_length(value) > bytes_max)
        return too_long(b->err, below(path, name), bytes_max, json_string_length(value));
    *out = value;
    return 1;
}

static int take_prefix(struct build *b, const json_t *message, json_t *target)
{
    const json_t *prefix = field_get(message, "prefix");
    if (prefix && !json_is_boolean(prefix))
        return wrong_type(b->err, below(b->path, "prefix"), "a boolean", prefix);
    if (!json_is_true(prefix))
        return 0;
    if (!b->is_last)
        return err_param(b->err, ERR_VALUE, below(b->path, "prefix").text,
                         "Invalid '%s.prefix': only the final message can be continued.", b->path);
    return json_object_set_new(target, "prefix", json_true()) ? no_memory(b->err) : 0;
}

static bool known_part(const char *type)
{
    static const char *const types[] = {"image_url", "input_audio", "file",  "image",
                                        "audio_url", "video_url",   "video", "audio"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(type, types[i]))
            return true;
    return false;
}

static int add_part(struct build *b, enum role role, const json_t *part, struct path path,
                    bool *first, struct buf *text)
{
    const json_t *type = NULL, *value = NULL;
    if (!json_is_object(part))
        return wrong_type(b->err, path, "an object", part);
    int code = member_string(b, path.text, part, "type", MESSAGES_TEXT_BYTES_MAX, &type);
    if (code <= 0)
        return code ? code : missing(b->err, below(path.text, "type"));
    const char *name = field_word(type);
    if (!strcmp(name, "thinking") && (role == ROLE_ASSISTANT || role == ROLE_SYSTEM))
        return 0; /* see add_thinking */
    bool refusal = role == ROLE_ASSISTANT && !strcmp(name, "refusal");
    if (strcmp(name, "text") && !refusal) {
        struct path at = below(path.text, "type");
        if (known_part(name))
            return err_param(b->err, ERR_UNSUPPORTED_VALUE, at.text,
                             "Unsupported value: '%s' is '%s', but this model reads text alone.",
                             at.text, name);
        return err_param(b->err, ERR_VALUE, at.text, "Invalid value for '%s': expected 'text'.",
                         at.text);
    }
    name = refusal ? "refusal" : "text";
    code = member_string(b, path.text, part, name, MESSAGES_TEXT_BYTES_MAX, &value);
    if (code <= 0)
        return code ? code : missing(b->err, below(path.text, name));
    if (!*first)
        buf_byte(text, '\n');
    *first = false;
    buf_add(text, json_string_value(value), json_string_length(value));
    return 0;
}

static int join_parts(struct build *b, enum role role, const json_t *parts, json_t **out)
{
    struct buf text;
    struct path path = below(b->path, "content");
    size_t n = json_array_size(parts);
    int code = 0;
    if (!n)
        return err_param(b->err, ERR_ARRAY_EMPTY, path.text, "Invalid '%s': empty array.",
                         path.text);
    if (n > MESSAGES_PARTS_MAX)
        return err_param(b->err, ERR_ARRAY_LONG, path.text,
                         "Invalid '%s': array too long. Expected at most %d parts, but got %zu.",
                         path.text, MESSAGES_PARTS_MAX, n);
    bool first = true;
    buf_init(&text, MESSAGES_TEXT_BYTES_MAX);
    for (size_t i = 0; i < n && !code; i++)
        code = add_part(b, role, json_array_get(parts, i), element(b->path, "content", i), &first,
                        &text);
    if (!code && text.failed == ERR_TOO_LARGE)
        code = err_param(b->err, ERR_STRING_LONG, path.text,
                         "Invalid '%s': its texts together have more than %d bytes.", path.text,
                         MESSAGES_TEXT_BYTES_MAX);
    else if (!code &&
             (text.failed || !(*out = json_stringn(text.data ? text.data : "", text.size))))
        code = no_memory(b->err);
    buf_free(&text);
    return code;
}

/* *out: a new reference, NULL when the message has no content. */
static int build_content(struct build *b, enum role role, const json_t *message, json_t **out)
{
    const json_t *content = field_get(message, "content");
    struct path path = below(b->path, "content");
    *out = NULL;
    if (!content)
        return 0;
    if (role == ROLE_ASSISTANT && json_is_array(content) && !json_array_size(content) &&
        json_array_size(json_object_get(message, "tool_calls")))
        return 0; /* what some clients send beside tool calls */
    if (json_is_array(content))
        return join_parts(b, role, content, out);
    if (!json_is_string(content))
        return wrong_type(b->err, path, "a string or an array of parts", content);
    if (json_string_length(content) > MESSAGES_TEXT_BYTES_MAX)
        return too_long(b->err, path, MESSAGES_TEXT_BYTES_MAX, json_string_length(content));
    *out = json_incref((json_t *)content);
    return 0;
}

/* A JSON object in a string becomes that object; anything else stays as it was sent. */
static json_t *build_arguments(const json_t *text)
{
    json_t *parsed;
    if (json_budget_parse(json_string_value(text), json_string_length(text), &parsed, NULL))
        return json_incref((json_t *)text);
    if (json_is_object(parsed))
        return parsed;
    json_decref(parsed);
    return json_incref((json_t *)text);
}

static int build_call(struct build *b, const json_t *call, struct path path, json_t *calls)
{
    const json_t *id = NULL, *type = NULL, *name = NULL, *arguments = NULL;
    if (!json_is_object(call))
        return wrong_type(b->err, path, "an object", call);
    int code = member_string(b, path.text, call, "id", MESSAGES_ID_BYTES_MAX, &id);
    if (code <= 0)
        return code ? code : missing(b->err, below(path.text, "id"));
    if ((code = member_string(b, path.text, call, "type", 64, &type)) < 0)
        return code;
    if (code && strcmp(field_word(type), "function"))
        return err_param(b->err, ERR_VALUE, below(path.text, "type").text,
                         "Invalid value for '%s.type': expected 'function'.", path.text);
    struct path inside = below(path.text, "function");
    const json_t *function = field_get(call, "function");
    if (!function)
        return missing(b->err, inside);
    if (!json_is_object(function))
        return wrong_type(b->err, inside, "an object", function);
    code = member_string(b, inside.text, function, "name", MESSAGES_ID_BYTES_MAX, &name);
    if (code <= 0)
        return code ? code : missing(b->err, below(inside.text, "name"));
    code =
        member_string(b, inside.text, function, "arguments", MESSAGES_TEXT_BYTES_MAX, &arguments);
    if (code <= 0)
        return code ? code : missing(b->err, below(inside.text, "arguments"));
    json_t *built = json_pack("{s:O, s:s, s:{s:O, s:o}}", "id", id, "type", "function", "function",
                              "name", name, "arguments", build_arguments(arguments));
    if (json_array_append_new(calls, built) ||
        json_object_setn_new(b->issued, json_string_value(id), json_string_length(id), json_true()))
        return no_memory(b->err);
    return 0;
}

/* The older form of one call, which has no id: it gets one, and the function message that answers
 * it gets the same. Nine digits: what the strictest templates ask of an id. */
static int build_function_call(struct build *b, const json_t *message, json_t *target, bool *any)
{
    const json_t *name = NULL, *arguments = NULL, *call = field_get(message, "function_call");
    struct path path = below(b->path, "function_call");
    if (!call)
        return 0;
    if (!json_is_object(call))
        return wrong_type(b->err, path, "an object", call);
    int code = member_string(b, path.text, call, "name", MESSAGES_ID_BYTES_MAX, &name);
    if (code <= 0)
        return code ? code : missing(b->err, below(path.text, "name"));
    code = member_string(b, path.text, call, "arguments", MESSAGES_TEXT_BYTES_MAX, &arguments);
    if (code <= 0)
        return code ? code : missing(b->err, below(path.text, "arguments"));
    snprintf(b->function_id, sizeof b->function_id, "%09d", ++b->n_function_calls);
    json_t *built =
        json_pack("[{s:s, s:s, s:{s:O, s:o}}]", "id", b->function_id, "type", "function",
                  "function", "name", name, "arguments", build_arguments(arguments));
    *any = true;
    return json_object_set_new(target, "tool_calls", built) ? no_memory(b->err) : 0;
}

static int build_calls(struct build *b, const json_t *message, json_t *target, bool *any)
{
    const json_t *sent = field_get(message, "tool_calls");
    struct path path = below(b->path, "tool_calls");
    *any = false;
    if (!sent)
        return build_function_call(b, message, target, any);
    if (!json_is_array(sent))
        return wrong_type(b->err, path, "an array", sent);
    size_t n = json_array_size(sent);
    if (n > MESSAGES_CALLS_MAX)
        return err_param(b->err, ERR_ARRAY_LONG, path.text,
                         "Invalid '%s': array too long. Expected at most %d, but got %zu.",
                         path.text, MESSAGES_CALLS_MAX, n);
    if (!n)
        return 0;
    json_t *calls = json_array();
    if (json_object_set_new(target, "tool_calls", calls))
        return no_memory(b->err);
    for (size_t i = 0; i < n; i++) {
        int code = build_call(b, json_array_get(sent, i), element(b->path, "tool_calls", i), calls);
        if (code)
            return code;
    }
    *any = true;
    return 0;
}

/* Mistral's parts {"type": "thinking", "thinking": text or parts of text}: the reasoning of a
 * message that has no reasoning_content. */
static int add_thinking(struct build *b, const json_t *message, json_t *target)
{
    size_t i, k;
    json_t *part, *piece;
    struct buf text;
    bool any = false;
    buf_init(&text, MESSAGES_TEXT_BYTES_MAX);
    json_array_foreach(field_get(message, "content"), i, part) {
        const json_t *thinking = json_object_get(part, "thinking");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "thinking"))
            continue;
        any = true;
        if (json_is_string(thinking))
            buf_add(&text, json_string_value(thinking), json_string_length(thinking));
        json_array_foreach(thinking, k, piece) {
            const json_t *one = json_object_get(piece, "text");
            if (json_is_string(one))
                buf_add(&text, json_string_value(one), json_string_length(one));
        }
    }
    int code = text.failed;
    if (any && !code &&
        json_object_set_new(target, "reasoning_content",
                            json_stringn(text.data ? text.data : "", text.size)))
        code = ERR_NOMEM;
    buf_free(&text);
    return code ? err_set(b->err, code, "the reasoning in messages is too large") : 0;
}

/* An assistant's other ways to have said something: a refusal, reasoning. */
static int build_assistant(struct build *b, const json_t *message, json_t *target, json_t **content)
{
    const json_t *refusal = NULL, *reasoning = NULL;
    bool called;
    int code = build_calls(b, message, target, &called);
    if (code)
        return code;
    if ((code = member_string(b, b->path, message, "refusal", MESSAGES_TEXT_BYTES_MAX, &refusal)) <
        0)
        return code;
    code = member_string(b, b->path, message, "reasoning_content", MESSAGES_TEXT_BYTES_MAX,
                         &reasoning);
    if (!code)
        code = member_string(b, b->path, message, "reasoning", MESSAGES_TEXT_BYTES_MAX, &reasoning);
    if (code < 0)
        return code;
    if (reasoning && json_object_set(target, "reasoning_content", (json_t *)reasoning))
        return no_memory(b->err);
    if ((code = take_prefix(b, message, target)))
        return code;
    if (!reasoning && (code = add_thinking(b, message, target)))
        return code;
    if (!*content && refusal)
        *content = json_incref((json_t *)refusal);
    if (*content || called)
        return 0;
    if (!reasoning)
        return missing(b->err, below(b->path, "content"));
    /* an answer of reasoning alone has null */
    *content = json_string("");
    return *content ? 0 : no_memory(b->err);
}

static int build_tool(struct build *b, const json_t *message, json_t *target)
{
    const json_t *id = NULL;
    int code = member_string(b, b->path, message, "tool_call_id", MESSAGES_ID_BYTES_MAX, &id);
    struct path path = below(b->path, "tool_call_id");
    if (code <= 0)
        return code ? code : missing(b->err, path);
    if (!json_object_getn(b->issued, json_string_value(id), json_string_length(id)))
        return err_param(b->err, ERR_VALUE, path.text,
                         "Invalid '%s': no tool call before it has this id.", path.text);
    return json_object_set(target, "tool_call_id", (json_t *)id) ? no_memory(b->err) : 0;
}

static int find_role(struct build *b, const json_t *message)
{
    const json_t *role = NULL;
    struct path path = below(b->path, "role");
    int code = member_string(b, b->path, message, "role", MESSAGES_TEXT_BYTES_MAX, &role);
    if (code <= 0)
        return code ? code : missing(b->err, path);
    for (int i = 0; i < ROLE_COUNT; i++)
        if (!strcmp(field_word(role), roles[i].name))
            return i;
    return err_param(b->err, ERR_VALUE, path.text,
                     "Invalid value for '%s': expected one of 'developer', 'system', 'user', "
                     "'assistant', 'tool', 'function'.",
                     path.text);
}

/* Into target, which the caller owns. */
static int build_message(struct build *b, const json_t *message, json_t *target)
{
    const json_t *name = NULL;
    json_t *content = NULL;
    int row = find_role(b, message);
    if (row < 0)
        return row;
    enum role role = roles[row].role;
    int code = build_content(b, role, message, &content);
    if (code)
        return code;
    /* role and content come first, as a client would have written them */
    if (json_object_set_new(target, "role", json_string(roles[row].template_name)) ||
        json_object_set_new(target, "content", json_null()))
        code = no_memory(b->err);
    else if (role == ROLE_ASSISTANT)
        code = build_assistant(b, message, target, &content);
    else if (!content)
        code = missing(b->err, below(b->path, "content"));
    if (!code && role == ROLE_TOOL)
        code = build_tool(b, message, target);
    if (!code && role == ROLE_FUNCTION && b->function_id[0] &&
        json_object_set_new(target, "tool_call_id", json_string(b->function_id)))
        code = no_memory(b->err);
    if (!code) {
        code = member_string(b, b->path, message, "name", MESSAGES_NAME_BYTES_MAX, &name);
        if (!code && role == ROLE_FUNCTION)
            code = missing(b->err, below(b->path, "name"));
        else if (code > 0)
            code = json_object_set(target, "name", (json_t *)name) ? no_memory(b->err) : 0;
    }
    if (!code && content && json_object_set(target, "content", content))
        code = no_memory(b->err);
    json_decref(content);
    return code;
}

static int build_all(struct build *b, const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        snprintf(b->path, sizeof b->path, "messages[%zu]", i);
        b->is_last = i + 1 == json_array_size(messages);
        if (!json_is_object(message))
            return field_type_error(b->err, b->path, "an object", message);
        json_t *target = json_object();
        if (json_array_append_new(b->out, target))
            return no_memory(b->err);
        int code = build_message(b, message, target);
        if (code)
            return code;
    }
    return 0;
}

int messages_build(const json_t *messages, json_t **out, struct err *err)
{
    struct build b = {.err = err};
    if (!messages)
        return err_param(err, ERR_MISSING, "messages", "Missing required parameter: 'messages'.");
    if (!json_is_array(messages))
        return field_type_error(err, "messages", "an array of objects", messages);
    size_t n = json_array_size(messages);
    if (!n)
        return err_param(err, ERR_ARRAY_EMPTY, "messages",
                         "Invalid 'messages': empty array. Expected at least 1 message.");
    if (n > MESSAGES_MAX)
        return err_param(err, ERR_ARRAY_LONG, "messages",
                         "Invalid 'messages': array too long. Expected at most %d messages, but "
                         "got %zu.",
                         MESSAGES_MAX, n);
    b.out = json_array();
    b.issued = json_object();
    int code = b.out && b.issued ? build_all(&b, messages) : no_memory(err);
    json_decref(b.issued);
    if (code) {
        json_decref(b.out);
        return code;
    }
    *out = b.out;
    return 0;
}
