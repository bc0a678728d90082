/* mistral: merged turns to tokens, version by version. Control tokens are put as ids; every text is
 * encoded alone and without special tokens, so that [INST] in it is a text of six letters. Pure
 * functions; any thread.
 *
 *   v1       [INST] and [/INST] are text; the system prompt stands before the first user's text
 *   v2       control tokens; tools and the system prompt stand at the last user; calls and results
 *            before it are left out
 *   v3       calls and results carry ids; none is left out
 *   v7       system prompts in place, between [SYSTEM_PROMPT] and its end; results as plain text
 *   v11      [TOOL_CALLS]name[CALL_ID]id[ARGS]arguments
 *   v13      tools at the first user; no ids; [THINK]
 *   v15      [MODEL_SETTINGS] after the tools */
#include "engine/template/mistral.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/template/dumps.h"
#include "engine/template/json_text.h"
#include "engine/template/mistral_internal.h"

static const char tokenizer_error[] = "TokenizerException";

int mistral_fail(struct mistral *m, const char *kind, const char *format, ...)
{
    char text[sizeof m->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    m->kind = kind;
    return err_set(m->err, ERR_VALUE, "%s", text);
}

int mistral_no_memory(struct mistral *m)
{
    return err_set(m->err, ERR_NOMEM, "out of memory while encoding a conversation");
}

struct mistral_text mistral_keep(struct mistral *m, const struct buf *buf)
{
    struct mistral_text text = {NULL, buf->size};
    if (!buf->failed)
        text.data = arena_copy(&m->arena, buf->data ? buf->data : "", buf->size);
    return text;
}

bool mistral_is_version(int version)
{
    static const int versions[] = {1, 2, 3, 7, 11, 13, 15};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++)
        if (versions[i] == version)
            return true;
    return false;
}

/* ---- tokens */

static int put_id(struct mistral *m, int32_t id)
{
    return token_list_add(m->out, id) ? mistral_no_memory(m) : 0;
}

static int put_control(struct mistral *m, const char *token)
{
    int32_t id = tokenizer_find(m->tok, token, strlen(token));
    if (id < 0 || !tokenizer_is_special(m->tok, id))
        return mistral_fail(m, tokenizer_error, "This tokenizer has no control token %s", token);
    return put_id(m, id);
}

static int put_eos(struct mistral *m)
{
    return put_id(m, tokenizer_eos(m->tok));
}

static int put_text(struct mistral *m, struct mistral_text text)
{
    return tokenizer_encode(m->tok, text.data ? text.data : "", text.n, false, NULL, 0, m->out,
                            m->err);
}

/* What buf holds, as text; buf is freed. */
static int put_buf(struct mistral *m, struct buf *buf)
{
    int code = buf->failed
                   ? mistral_no_memory(m)
                   : put_text(m, (struct mistral_text){buf->data ? buf->data : "", buf->size});
    buf_free(buf);
    return code;
}

static int put_between(struct mistral *m, const char *begin, struct buf *text, const char *end)
{
    int code = put_control(m, begin);
    if (code)
        buf_free(text);
    else
        code = put_buf(m, text);
    return code ? code : put_control(m, end);
}

static void write_json(struct buf *out, struct mistral_text text)
{
    if (!json_text_normal(out, text.data, text.n))
        dumps_string(out, text.data, text.n);
}

static struct mistral_text content_of(const struct mistral_message *turn)
{
    return turn->n_chunks ? turn->chunks[0].text : (struct mistral_text){"", 0};
}

static int put_chunks(struct mistral *m, const struct mistral_message *turn)
{
    int code = 0;
    for (size_t i = 0; i < turn->n_chunks && !code; i++) {
        const struct mistral_chunk *chunk = &turn->chunks[i];
        if (chunk->type == MISTRAL_TEXT) {
            code = put_text(m, chunk->text);
        } else if (chunk->type != MISTRAL_THINK) {
            code = mistral_fail(m, "UnsupportedTokenizerFeatureException",
                                "images and audio are not supported");
        } else if (m->version < 13) {
            code = mistral_fail(m, tokenizer_error, "thinking needs tokenizer V13 or later");
        } else {
            code = put_control(m, "[THINK]");
            if (!code)
                code = put_text(m, chunk->text);
            if (!code && chunk->closed)
                code = put_control(m, "[/THINK]");
        }
    }
    return code;
}

/* ---- user */

static void write_tool(struct buf *out, const json_t *tool)
{
    const json_t *function = json_object_get(tool, "function");
    const json_t *name = json_object_get(function, "name");
    const json_t *description = json_object_get(function, "description");
    const json_t *parameters = json_object_get(function, "parameters");
    buf_text(out, "{\"type\": \"function\", \"function\": {\"name\": ");
    dumps_value(out, name);
    buf_text(out, ", \"description\": ");
    dumps_string(out, json_is_string(description) ? json_string_value(description) : "",
                 json_string_length(description));
    buf_text(out, ", \"parameters\": ");
    if (json_is_object(parameters))
        dumps_value(out, parameters);
    else
        buf_text(out, "{}");
    buf_text(out, "}}");
}

static int put_tools(struct mistral *m)
{
    struct buf text;
    size_t i;
    json_t *tool;
    buf_init(&text, 0);
    buf_byte(&text, '[');
    json_array_foreach(m->tools, i, tool)
    {
        buf_text(&text, i ? ", " : "");
        write_tool(&text, tool);
    }
    buf_byte(&text, ']');
    return put_between(m, "[AVAILABLE_TOOLS]", &text, "[/AVAILABLE_TOOLS]");
}

static int put_settings(struct mistral *m)
{
    struct buf text;
    buf_init(&text, 0);
    buf_text(&text, "{\"reasoning_effort\": ");
    dumps_string(&text, m->effort, strlen(m->effort));
    buf_byte(&text, '}');
    return put_between(m, "[MODEL_SETTINGS]", &text, "[/MODEL_SETTINGS]");
}

static int put_user(struct mistral *m, const struct mistral_message *turn, bool is_first,
                    bool is_last)
{
    bool here = m->version >= 13 ? is_first : is_last;
    bool system = m->system_prompt.n && (m->version == 1 ? is_first : is_last);
    struct buf text;
    int code = 0;
    if (m->version >= 2 && here && m->tools)
        code = put_tools(m);
    if (!code && here && m->effort)
        code = put_settings(m);
    if (!code && m->version >= 2)
        code = put_control(m, "[INST]");
    if (code)
        return code;
    if (turn->is_list) {
        code = put_chunks(m, turn);
        return code ? code : put_control(m, "[/INST]");
    }
    buf_init(&text, 0);
    buf_text(&text, m->version == 1 ? "[INST] " : "");
    if (system) {
        buf_add(&text, m->system_prompt.data, m->system_prompt.n);
        buf_text(&text, "\n\n");
    }
    buf_add(&text, content_of(turn).data, content_of(turn).n);
    buf_text(&text, m->version == 1 ? " [/INST]" : "");
    code = put_buf(m, &text);
    return code || m->version == 1 ? code : put_control(m, "[/INST]");
}

/* ---- system, tool */

static int put_system(struct mistral *m, const struct mistral_message *turn)
{
    int code = put_control(m, "[SYSTEM_PROMPT]");
    if (!code)
        code = put_chunks(m, turn);
    return code ? code : put_control(m, "[/SYSTEM_PROMPT]");
}

static int put_result_text(struct mistral *m, const struct mistral_message *turn)
{
    struct buf text;
    buf_init(&text, 0);
    if (m->version == 2) {
        buf_text(&text, "[{\"name\": ");
        if (turn->name.data)
            dumps_string(&text, turn->name.data, turn->name.n);
        else
            buf_text(&text, "null");
        buf_text(&text, ", ");
    }
    buf_text(&text, m->version == 2 ? "\"content\": " : "{\"content\": ");
    write_json(&text, content_of(turn));
    if (m->version == 3) {
        buf_text(&text, ", \"call_id\": ");
        dumps_string(&text, turn->call_id.data, turn->call_id.n);
    }
    buf_text(&text, m->version == 2 ? "}]" : "}");
    return put_between(m, "[TOOL_RESULTS]", &text, "[/TOOL_RESULTS]");
}

static int put_tool(struct mistral *m, const struct mistral_message *turn, bool is_past)
{
    if (m->version == 1)
        return mistral_fail(m, tokenizer_error, "tokenizer V1 has no tools");
    if (m->version == 2 && is_past)
        return 0;
    if (m->version < 7)
        return put_result_text(m, turn);
    int code = put_control(m, "[TOOL_RESULTS]");
    if (!code && m->version < 13)
        code = put_text(m, turn->call_id);
    if (!code && m->version < 13)
        code = put_control(m, "[TOOL_CONTENT]");
    if (!code)
        code = put_chunks(m, turn);
    return code ? code : put_control(m, "[/TOOL_RESULTS]");
}

/* ---- assistant */

/* Versions 2 to 7: one list of all calls. */
static int put_call_list(struct mistral *m, const struct mistral_message *turn)
{
    struct buf text;
    int code = put_control(m, "[TOOL_CALLS]");
    if (code)
        return code;
    buf_init(&text, 0);
    buf_byte(&text, '[');
    for (size_t i = 0; i < turn->n_calls; i++) {
        const struct mistral_call *call = &turn->calls[i];
        buf_text(&text, i ? ", {\"name\": " : "{\"name\": ");
        dumps_string(&text, call->name.data, call->name.n);
        buf_text(&text, ", \"arguments\": ");
        write_json(&text, call->arguments);
        if (m->version >= 3 && call->id.n &&
            !(call->id.n == 4 && !memcmp(call->id.data, "null", 4))) {
            buf_text(&text, ", \"id\": ");
            dumps_string(&text, call->id.data, call->id.n);
        }
        buf_byte(&text, '}');
    }
    buf_byte(&text, ']');
    return put_buf(m, &text);
}

/* From version 11 on: call by call. */
static int put_call(struct mistral *m, const struct mistral_call *call)
{
    bool has_id = call->id.n && !(call->id.n == 4 && !memcmp(call->id.data, "null", 4));
    struct buf text;
    int code = put_control(m, "[TOOL_CALLS]");
    if (!code && m->version >= 13 && !has_id)
        return mistral_fail(m, "InvalidFunctionCallException", "Tool call id has to be defined.");
    if (!code)
        code = put_text(m, call->name);
    if (!code && m->version < 13 && has_id) {
        code = put_control(m, "[CALL_ID]");
        if (!code)
            code = put_text(m, call->id);
    }
    if (!code)
        code = put_control(m, "[ARGS]");
    if (code)
        return code;
    buf_init(&text, 0);
    write_json(&text, call->arguments);
    return put_buf(m, &text);
}

static int put_calls(struct mistral *m, const struct mistral_message *turn)
{
    int code = 0;
    if (m->version < 11)
        return turn->n_calls ? put_call_list(m, turn) : 0;
    for (size_t i = 0; i < turn->n_calls && !code; i++)
        code = put_call(m, &turn->calls[i]);
    return code;
}

static int refuse_assistant(struct mistral *m, const struct mistral_message *turn)
{
    if (m->version == 1 && turn->n_calls)
        return mistral_fail(m, tokenizer_error, "tokenizer V1 has no tools");
    if (m->version < 7 && turn->n_calls && turn->n_chunks)
        return mistral_fail(m, "ValueError",
                            "Cannot have tool calls and content defined in the same assistant "
                            "message");
    if (turn->n_calls || turn->n_chunks)
        return 0;
    if (m->version == 1)
        return mistral_fail(m, tokenizer_error, " // None");
    if (m->version < 7)
        return mistral_fail(m, tokenizer_error, "Invalid assistant message: ");
    return mistral_fail(m, tokenizer_error,
                        "Invalid assistant message: role='assistant' content='' tool_calls=None "
                        "prefix=%s",
                        turn->prefix ? "True" : "False");
}

static int put_assistant(struct mistral *m, const struct mistral_message *turn, bool is_past,
                         bool open)
{
    int code = refuse_assistant(m, turn);
    if (code || (m->version == 2 && turn->n_calls && is_past))
        return code;
    if (turn->is_list) {
        code = put_chunks(m, turn);
    } else if (turn->n_chunks) {
        struct mistral_text text = turn->chunks[0].text;
        while (m->version >= 2 && text.n && text.data[text.n - 1] == ' ')
            text.n--;
        code = put_text(m, text);
    }
    if (!code)
        code = put_calls(m, turn);
    return code || turn->prefix || open ? code : put_eos(m);
}

/* ---- the whole */

static int put_turns(struct mistral *m)
{
    size_t first = SIZE_MAX, last = 0;
    int code = put_id(m, tokenizer_bos(m->tok));
    for (size_t i = 0; i < m->n_turns; i++)
        if (m->turns[i].role == MISTRAL_USER) {
            first = first == SIZE_MAX ? i : first;
            last = i;
        }
    for (size_t i = 0; i < m->n_turns && !code; i++) {
        const struct mistral_message *turn = &m->turns[i];
        bool is_past = first != SIZE_MAX && i < last;
        if (m->continues && i + 1 == m->n_turns && turn->role != MISTRAL_ASSISTANT)
            return mistral_fail(m, "InvalidMessageStructureException",
                                "Cannot continue final message if it is not an assistant message");
        switch (turn->role) {
        case MISTRAL_USER:
            code = put_user(m, turn, i == first, i == last);
            break;
        case MISTRAL_ASSISTANT:
            code = put_assistant(m, turn, is_past, m->continues && i + 1 == m->n_turns);
            break;
        case MISTRAL_TOOL:
            code = put_tool(m, turn, is_past);
            break;
        case MISTRAL_SYSTEM:
            code = put_system(m, turn);
            break;
        }
    }
    return code;
}

static int check_tokenizer(struct mistral *m)
{
    if (!mistral_is_version(m->version))
        return mistral_fail(m, tokenizer_error, "There is no tokenizer version v%d", m->version);
    if (tokenizer_bos(m->tok) < 0 || tokenizer_eos(m->tok) < 0)
        return mistral_fail(m, tokenizer_error, "This tokenizer has no <s> or no </s>");
    return 0;
}

int mistral_encode_chat(const struct tokenizer *tok, int version, enum mistral_mode mode,
                        const json_t *request, struct token_list *out, const char **kind,
                        struct err *err)
{
    struct err unwanted;
    struct mistral m = {.tok = tok,
                        .version = version,
                        .mode = mode,
                        .request = request,
                        .out = out,
                        .err = err ? err : &unwanted};
    arena_init(&m.arena, 0);
    int code = check_tokenizer(&m);
    if (!code)
        code = mistral_read(&m);
    if (!code)
        code = mistral_check(&m);
    if (!code)
        code = mistral_normal(&m);
    if (!code)
        code = put_turns(&m);
    arena_free(&m.arena);
    *kind = m.kind;
    return code;
}

/* A text that goes on where another ended: without the space that sentencepiece puts in front. */
static int put_infilling(struct mistral *m, const char *text, size_t n)
{
    struct token_list ids = {0};
    struct buf marked;
    buf_init(&marked, 0);
    buf_text(&marked, "\xE2\x98\xBA"); /* two tokens, whatever follows */
    buf_add(&marked, text, n);
    int code = marked.failed ? mistral_no_memory(m)
                             : tokenizer_encode(m->tok, marked.data, marked.size, false, NULL, 0,
                                                &ids, m->err);
    buf_free(&marked);
    for (size_t i = 2; i < ids.n && !code; i++)
        code = put_id(m, ids.ids[i]);
    token_list_free(&ids);
    return code;
}

/* Where a sentencepiece model lacks the token (those of version 2), mistral-common puts <unk>. */
static int put_fim_control(struct mistral *m, const char *token)
{
    int32_t unknown = tokenizer_find(m->tok, "<unk>", 5);
    if (!tokenizer_is_byte_level(m->tok) && !mistral_has_fim(m->tok) && unknown >= 0)
        return put_id(m, unknown);
    return put_control(m, token);
}

bool mistral_has_fim(const struct tokenizer *tok)
{
    static const char *const tokens[] = {"[SUFFIX]", "[PREFIX]"};
    for (int i = 0; i < 2; i++)
        if (!tokenizer_is_special(tok, tokenizer_find(tok, tokens[i], strlen(tokens[i]))))
            return false;
    return true;
}

int mistral_encode_fim(const struct tokenizer *tok, int version, const char *prompt,
                       size_t n_prompt, const char *suffix, size_t n_suffix, struct token_list *out,
                       const char **kind, struct err *err)
{
    struct err unwanted;
    struct mistral m = {.tok = tok, .version = version, .out = out, .err = err ? err : &unwanted};
    int code = check_tokenizer(&m);
    if (!code && version == 1)
        code = mistral_fail(&m, tokenizer_error, "FIM not available for TokenizerVersion.v1");
    if (!code)
        code = put_id(&m, tokenizer_bos(tok));
    if (!code)
        code = put_fim_control(&m, "[SUFFIX]");
    if (!code && n_suffix)
        code = put_infilling(&m, suffix, n_suffix);
    if (!code)
        code = put_fim_control(&m, "[PREFIX]");
    if (!code)
        code = put_text(&m, (struct mistral_text){prompt, n_prompt});
    *kind = m.kind;
    return code;
}
