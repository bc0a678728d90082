/* mistral_check: the rules that a conversation must keep, in the order and words of mistral-common:
 * its structure first, then each message, the tools, the model's settings. Rules are the same for
 * versions that share a model generation: 1 and 2; 3; 7; 11 and 13; 15. No state. */
#include <string.h>

#include "engine/template/mistral_internal.h"

enum { ID_CHARS = 9, NAME_CHARS_MAX = 64 };

#define STRUCTURE "InvalidMessageStructureException"
#define CALL "InvalidFunctionCallException"
#define FINAL "(or Assistant with prefix or continue_final_message set to True)"

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

static bool is_text(struct mistral_text a, const char *b)
{
    return a.n == strlen(b) && memcmp(a.data, b, a.n) == 0;
}

static bool is_word(struct mistral_text s, size_t min, size_t max, const char *more)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.data[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (!c || !strchr(more, c)))
            return false;
    }
    return s.n >= min && s.n <= max;
}

static int check_name(struct mistral *m, struct mistral_text name, const char *kind)
{
    if (is_word(name, 1, NAME_CHARS_MAX, "_-"))
        return 0;
    return mistral_fail(m, kind,
                        "Function name was %.*s but must be a-z, A-Z, 0-9, or contain underscores "
                        "and dashes, with a maximum length of 64.",
                        (int)name.n, name.data);
}

static int check_id(struct mistral *m, struct mistral_text id, const char *kind)
{
    if (is_word(id, ID_CHARS, ID_CHARS, ""))
        return 0;
    return mistral_fail(m, kind,
                        "Tool call id was %.*s but must be a-z, A-Z, 0-9, with a length of 9.",
                        (int)id.n, id.data);
}

/* ---- one message */

static int check_call(struct mistral *m, const struct mistral_call *call, bool is_last)
{
    if (m->version >= 3) {
        bool null = is_text(call->id, "null");
        int code = null ? 0 : check_id(m, call->id, CALL);
        if (code)
            return code;
        if (null && m->mode == MISTRAL_FINETUNING && !is_last)
            return mistral_fail(m, CALL,
                                "Tool call id of assistant message that is not last has to be "
                                "defined in finetuning mode.");
        if (null && m->mode == MISTRAL_SERVING)
            return mistral_fail(m, CALL, "Tool call id has to be defined in serving mode.");
    }
    return check_name(m, call->name, CALL);
}

static int check_calls(struct mistral *m, const struct mistral_message *message, bool is_last)
{
    int code = 0;
    for (size_t i = 0; i < message->n_calls && !code; i++)
        code = check_call(m, &message->calls[i], is_last);
    return code;
}

static unsigned allowed_chunks(const struct mistral *m, enum mistral_role role)
{
    enum {
        TEXT = 1 << MISTRAL_TEXT,
        THINK = 1 << MISTRAL_THINK,
        IMAGE = 1 << MISTRAL_IMAGE | 1 << MISTRAL_IMAGE_URL,
        AUDIO = 1 << MISTRAL_AUDIO,
        ALL_AUDIO = AUDIO | 1 << MISTRAL_AUDIO_URL
    };
    switch (role) {
    case MISTRAL_USER:
        return m->version >= 7 ? TEXT | IMAGE | ALL_AUDIO : m->version >= 3 ? TEXT | IMAGE : TEXT;
    case MISTRAL_ASSISTANT:
        return m->version >= 11 ? TEXT | THINK : TEXT;
    case MISTRAL_SYSTEM:
        return m->version >= 15 ? TEXT | AUDIO : m->version >= 7 ? TEXT | AUDIO | THINK : TEXT;
    default:
        return m->version >= 15 ? TEXT | IMAGE | ALL_AUDIO : TEXT;
    }
}

static int check_chunks(struct mistral *m, const struct mistral_message *message)
{
    static const char *const classes[] = {"AudioChunk",    "AudioURLChunk", "ImageChunk",
                                          "ImageURLChunk", "TextChunk",     "ThinkChunk"};
    static const char *const kinds[] = {
        "InvalidSystemPromptException", "InvalidUserMessageException",
        "InvalidAssistantMessageException", "InvalidToolMessageException"};
    unsigned wrong = 0, allowed = allowed_chunks(m, message->role);
    char names[128] = "";
    size_t used = 0;
    for (size_t i = 0; message->is_list && i < message->n_chunks; i++)
        wrong |= 1U << message->chunks[i].type & ~allowed;
    if (!wrong)
        return 0;
    for (int i = 0; i < MISTRAL_CHUNK_TYPES; i++)
        if (wrong & 1U << i)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'", used ? ", " : "",
                                     classes[i]);
    return mistral_fail(m, kinds[message->role],
                        "Unexpected content chunk types in %s message: [%s]",
                        role_names[message->role], names);
}

static bool has_content(const struct mistral_message *message)
{
    return message->is_list ? message->n_chunks > 0
                            : message->n_chunks && message->chunks[0].text.n > 0;
}

static int check_assistant(struct mistral *m, const struct mistral_message *message, bool is_last)
{
    static const char kind[] = "InvalidAssistantMessageException";
    if (m->version < 7 && has_content(message) == (message->n_calls > 0))
        return mistral_fail(m, kind,
                            "Assistant message must have either content or tool_calls, but not "
                            "both.");
    int code = check_calls(m, message, is_last);
    if (code || !message->prefix || is_last)
        return code;
    return mistral_fail(m, kind, "Assistant message with prefix True must be last message");
}

static int check_tool(struct mistral *m, const struct mistral_message *message)
{
    static const char kind[] = "InvalidToolMessageException";
    int code = message->name.data ? check_name(m, message->name, kind) : 0;
    if (code || m->version < 3)
        return code;
    if (!message->call_id.data)
        return mistral_fail(m, "InvalidRequestException", "Tool call id has to be defined.");
    return check_id(m, message->call_id, kind);
}

static int check_message(struct mistral *m, size_t i)
{
    const struct mistral_message *message = &m->messages[i];
    int code = check_chunks(m, message);
    if (!code && message->role == MISTRAL_ASSISTANT)
        code = check_assistant(m, message, i + 1 == m->n_messages);
    if (!code && message->role == MISTRAL_TOOL)
        code = check_tool(m, message);
    return code;
}

/* ---- the structure */

static int check_last(struct mistral *m)
{
    const struct mistral_message *last = &m->messages[m->n_messages - 1];
    const char *role = role_names[last->role];
    if (m->mode == MISTRAL_FINETUNING) {
        if (last->role != MISTRAL_ASSISTANT)
            return mistral_fail(m, STRUCTURE,
                                "Expected last role Assistant for finetuning but got %s", role);
        if (m->continues)
            return mistral_fail(m, STRUCTURE, "Cannot continue final message in finetuning mode");
        return m->version >= 3 ? check_calls(m, last, true) : 0;
    }
    if (last->role == MISTRAL_ASSISTANT && !last->prefix && !m->continues)
        return mistral_fail(
            m, STRUCTURE, "Expected last role User or Tool " FINAL " for serving but got %s", role);
    if (m->continues && (last->role != MISTRAL_ASSISTANT || last->prefix))
        return mistral_fail(m, STRUCTURE,
                            "Expected last role Assistant with prefix False for serving with "
                            "continue_final_message set to True but got %s",
                            role);
    return 0;
}

static int check_order(struct mistral *m)
{
    static const unsigned follows[] = {
        [MISTRAL_SYSTEM] = 1 << MISTRAL_USER | 1 << MISTRAL_ASSISTANT | 1 << MISTRAL_SYSTEM,
        [MISTRAL_USER] = 1 << MISTRAL_ASSISTANT | 1 << MISTRAL_SYSTEM | 1 << MISTRAL_USER,
        [MISTRAL_ASSISTANT] = 1 << MISTRAL_ASSISTANT | 1 << MISTRAL_USER | 1 << MISTRAL_TOOL,
        [MISTRAL_TOOL] = 1 << MISTRAL_ASSISTANT | 1 << MISTRAL_TOOL | 1 << MISTRAL_USER};
    for (size_t i = 1; i < m->n_messages; i++) {
        enum mistral_role before = m->messages[i - 1].role, role = m->messages[i].role;
        if (!(follows[before] & 1U << role))
            return mistral_fail(m, STRUCTURE, "Unexpected role '%s' after role '%s'",
                                role_names[role], role_names[before]);
    }
    return 0;
}

static const char unequal[] = "Not the same number of function calls and responses";

/* Versions 1 to 7 count; the first message is passed over, as in the original. */
static int check_counts(struct mistral *m)
{
    long expected = 0;
    for (size_t i = 1; i < m->n_messages; i++) {
        const struct mistral_message *message = &m->messages[i];
        if (message->role == MISTRAL_TOOL)
            expected--;
        if (message->role != MISTRAL_ASSISTANT)
            continue;
        if (expected != 0)
            return mistral_fail(m, STRUCTURE, "%s", unequal);
        if (message->has_calls)
            expected = (long)message->n_calls;
    }
    if (expected != 0 && m->mode == MISTRAL_SERVING)
        return mistral_fail(m, STRUCTURE, "%s", unequal);
    if (expected < 0 && m->mode == MISTRAL_FINETUNING)
        return mistral_fail(m, STRUCTURE, "More tool responses than tool calls");
    return 0;
}

/* The latest assistant message with what was answered of it. */
struct open_calls {
    const struct mistral_message *message; /* NULL: there was none */
    struct mistral_ids ids;
    bool *done; /* by place */
    size_t n_answers;
};

static bool all_answered(const struct open_calls *calls)
{
    return (calls->message ? calls->message->n_calls : 0) == calls->n_answers;
}

/* A tool's answer must be to a call of the latest assistant message, and the only one to it. */
static int check_answer(struct mistral *m, struct open_calls *calls, struct mistral_text id)
{
    size_t place = mistral_ids_place(&calls->ids, id);
    if (place == SIZE_MAX)
        return mistral_fail(m, STRUCTURE, "Unexpected tool call id %.*s in tool results",
                            id.data ? (int)id.n : 4, id.data ? id.data : "None");
    if (calls->done[place])
        return mistral_fail(m, STRUCTURE, "Duplicate tool call id %.*s in tool results",
                            (int)id.n, id.data);
    calls->done[place] = true;
    calls->n_answers++;
    return 0;
}

static int begin_calls(struct mistral *m, struct open_calls *calls,
                       const struct mistral_message *message)
{
    *calls = (struct open_calls){.message = message};
    int code = mistral_ids_init(m, message, 1, &calls->ids);
    calls->done = arena_array(&m->arena, message->n_calls + 1, sizeof *calls->done);
    if (code || !calls->done)
        return mistral_no_memory(m);
    size_t place = mistral_ids_repeated(&calls->ids);
    if (place == SIZE_MAX)
        return 0;
    struct mistral_text id = message->calls[place].id;
    return mistral_fail(m, STRUCTURE, "Duplicate tool call id %.*s in assistant message",
                        (int)id.n, id.data);
}

/* Later versions match ids; the first message is passed over, as in the original. */
static int check_ids(struct mistral *m)
{
    struct open_calls calls = {0};
    int code = 0;
    for (size_t i = 1; i < m->n_messages && !code; i++) {
        const struct mistral_message *message = &m->messages[i];
        if (message->role == MISTRAL_TOOL)
            code = check_answer(m, &calls, message->call_id);
        else if (message->role == MISTRAL_ASSISTANT)
            code = all_answered(&calls) ? begin_calls(m, &calls, message)
                                        : mistral_fail(m, STRUCTURE, "%s", unequal);
    }
    if (!code && !all_answered(&calls) && m->mode == MISTRAL_SERVING)
        return mistral_fail(m, STRUCTURE, "%s", unequal);
    return code;
}

static int check_structure(struct mistral *m)
{
    if (m->n_messages == 0)
        return mistral_fail(m, STRUCTURE, "Conversation must have at least one message");
    if (m->n_messages == 1 && m->messages[0].role != MISTRAL_USER &&
        m->messages[0].role != MISTRAL_SYSTEM)
        return mistral_fail(m, STRUCTURE,
                            "Conversation must start with a user message or system message");
    int code = 0;
    if (m->mode == MISTRAL_FINETUNING || m->n_messages > 1)
        code = check_last(m);
    if (!code)
        code = check_order(m);
    if (!code)
        code = m->version >= 11 ? check_ids(m) : check_counts(m);
    return code;
}

/* ---- tools and settings */

static int check_tools(struct mistral *m)
{
    size_t i;
    json_t *tool;
    json_array_foreach(m->tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const json_t *name = json_object_get(function, "name");
        const json_t *schema = json_object_get(function, "parameters");
        struct buf words;
        int code = 0;
        buf_init(&words, 1 << 12);
        if (json_is_object(schema) && !mistral_schema_holds(schema, &m->arena, &words))
            code = mistral_fail(m, "InvalidToolSchemaException", "Invalid tool schema: %s",
                                words.data ? words.data : "");
        buf_free(&words);
        struct mistral_text text = {json_string_value(name), json_string_length(name)};
        if (!code)
            code = check_name(m, text, "InvalidToolException");
        if (code)
            return code;
    }
    return 0;
}

int mistral_check(struct mistral *m)
{
    const json_t *model = json_object_get(m->request, "model");
    const json_t *effort = json_object_get(m->request, "reasoning_effort");
    if (m->mode == MISTRAL_SERVING && !json_is_string(model))
        return mistral_fail(m, "InvalidRequestException",
                            "Model name parameter is required for serving mode");
    int code = check_structure(m);
    for (size_t i = 0; i < m->n_messages && !code; i++)
        code = check_message(m, i);
    if (!code)
        code = check_tools(m);
    if (!code && m->version < 15 && json_is_string(effort))
        code = mistral_fail(m, "InvalidRequestException",
                            "reasoning_effort='%s' is not supported for this model",
                            json_string_value(effort));
    return code;
}
