/* Mistral's encoding on a vocabulary of single bytes written here: where each version puts what,
 * what never becomes a control token, what is refused. */
#include "engine/template/mistral.h"
#include "tests/unit/tokenizer_rig.h"

static const char *const control[] = {
    "<unk>",           "<s>",             "</s>",          "[INST]",          "[/INST]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "[PREFIX]",        "[SUFFIX]",        "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
    "[ARGS]",          "[CALL_ID]",       "[THINK]",       "[/THINK]",        "[MODEL_SETTINGS]",
    "[/MODEL_SETTINGS]"};
enum { N_CONTROL = sizeof control / sizeof control[0] };

/* A tekken.json of version 15 with these control tokens (n_control of them) and the 256 bytes. */
static struct tokenizer *open_bytes(int n_control)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buf text;
    struct err err = {0};
    buf_init(&text, 0);
    buf_format(&text,
               "{\"config\":{\"pattern\":\"[a-z]+|[^a-z]\",\"default_vocab_size\":%d,"
               "\"default_num_special_tokens\":%d,\"num_vocab_tokens\":256,\"version\":\"v15\"},"
               "\"model_settings_builder\":{\"reasoning_effort\":{\"values\":[\"none\",\"high\"],"
               "\"default\":\"none\"}},\"special_tokens\":[",
               256 + n_control, n_control);
    for (int i = 0; i < n_control; i++)
        buf_format(&text, "%s{\"rank\":%d,\"token_str\":\"%s\",\"is_control\":true}", i ? "," : "",
                   i, control[i]);
    buf_text(&text, "],\"vocab\":[");
    for (int i = 0; i < 256; i++)
        buf_format(&text, "%s{\"rank\":%d,\"token_bytes\":\"%c%c==\",\"token_str\":null}",
                   i ? "," : "", i, base64[i >> 2], base64[(i & 3) << 4]);
    buf_text(&text, "]}");
    struct source_file file = {"tekken.json", (const uint8_t *)text.data, text.size};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        EXPECT_STR(err.text, "");
    buf_free(&text);
    return t;
}

/* Ids as text, control tokens between { and }. */
static void show(const struct tokenizer *t, const struct token_list *ids, struct buf *out)
{
    buf_init(out, 0);
    for (size_t i = 0; i < ids->n; i++) {
        size_t size;
        const char *piece = tokenizer_piece(t, ids->ids[i], true, &size);
        bool special = tokenizer_is_special(t, ids->ids[i]);
        buf_text(out, special ? "{" : "");
        buf_add(out, piece, size);
        buf_text(out, special ? "}" : "");
    }
}

/* request: JSON with ' for ". expected: what show gives, or "Kind: message". */
static void expect_mode(int version, enum mistral_mode mode, const char *request,
                        const char *expected)
{
    struct tokenizer *t = open_bytes(N_CONTROL);
    struct token_list ids = {0};
    struct buf shown;
    struct err err = {0};
    const char *kind = NULL;
    char *text = strdup(request);
    for (char *c = text; (c = strchr(c, '\'')) != NULL;)
        *c = '"';
    json_t *json = json_loads(text, 0, NULL);
    EXPECT(json != NULL);
    int code = mistral_encode_chat(t, version, mode, json, &ids, &kind, &err);
    show(t, &ids, &shown);
    if (code) {
        buf_clear(&shown);
        buf_format(&shown, "%s: %s", kind, err.text);
    }
    EXPECT_STR(shown.data ? shown.data : "", expected);
    buf_free(&shown);
    token_list_free(&ids);
    json_decref(json);
    free(text);
    tokenizer_close(t);
}

static void expect_chat(int version, const char *request, const char *expected)
{
    expect_mode(version, MISTRAL_TEST, request, expected);
}

#define SYSTEM "{'role': 'system', 'content': 'S'}"
#define USER(text) "{'role': 'user', 'content': '" text "'}"
#define ASSISTANT(text) "{'role': 'assistant', 'content': '" text "'}"
#define CALL(id, name)                                                                             \
    "{'id': '" id "', 'function': {'name': '" name "', 'arguments': '{\\'a\\':1}'}}"
#define CALLS(calls) "{'role': 'assistant', 'tool_calls': [" calls "]}"
#define RESULT(id, text) "{'role': 'tool', 'tool_call_id': '" id "', 'content': '" text "'}"
#define TOOLS "'tools': [{'type': 'function', 'function': {'name': 't'}}]"
#define TOOL_TEXT                                                                                  \
    "{[AVAILABLE_TOOLS]}[{\"type\": \"function\", \"function\": {\"name\": \"t\", "                \
    "\"description\": \"\", \"parameters\": {}}}]{[/AVAILABLE_TOOLS]}"
#define SETTINGS "{[MODEL_SETTINGS]}{\"reasoning_effort\": \"none\"}{[/MODEL_SETTINGS]}"

TEST(the_system_prompt_has_its_place)
{
    static const char chat[] =
        "{'messages': [" SYSTEM "," USER("a") "," ASSISTANT("b ") "," USER("c") "]}";
    expect_chat(1, chat, "{<s>}[INST] S\n\na [/INST]b {</s>}[INST] c [/INST]");
    expect_chat(2, chat, "{<s>}{[INST]}a{[/INST]}b{</s>}{[INST]}S\n\nc{[/INST]}");
    expect_chat(3, chat, "{<s>}{[INST]}a{[/INST]}b{</s>}{[INST]}S\n\nc{[/INST]}");
    expect_chat(7, chat,
                "{<s>}{[SYSTEM_PROMPT]}S{[/SYSTEM_PROMPT]}{[INST]}a{[/INST]}b{</s>}{[INST]}c"
                "{[/INST]}");
    expect_chat(15, chat,
                "{<s>}{[SYSTEM_PROMPT]}S{[/SYSTEM_PROMPT]}" SETTINGS "{[INST]}a{[/INST]}b{</s>}"
                "{[INST]}c{[/INST]}");
}

TEST(tools_calls_and_results)
{
    static const char chat[] =
        "{'messages': [" USER("q") "," CALLS(CALL("abcdefgh1", "t")) "," RESULT(
            "abcdefgh1", "{\\'x\\':2}") "," ASSISTANT("r") "," USER("p") "], " TOOLS "}";
    expect_chat(1, chat, "TokenizerException: tokenizer V1 has no tools");
    expect_chat(2, chat, "{<s>}{[INST]}q{[/INST]}r{</s>}" TOOL_TEXT "{[INST]}p{[/INST]}");
    expect_chat(
        3, chat,
        "{<s>}{[INST]}q{[/INST]}{[TOOL_CALLS]}[{\"name\": \"t\", \"arguments\": {\"a\": 1}, "
        "\"id\": \"abcdefgh1\"}]{</s>}{[TOOL_RESULTS]}{\"content\": {\"x\": 2}, "
        "\"call_id\": \"abcdefgh1\"}{[/TOOL_RESULTS]}r{</s>}" TOOL_TEXT "{[INST]}p{[/INST]}");
    expect_chat(
        7, chat,
        "{<s>}{[INST]}q{[/INST]}{[TOOL_CALLS]}[{\"name\": \"t\", \"arguments\": {\"a\": 1}, "
        "\"id\": \"abcdefgh1\"}]{</s>}{[TOOL_RESULTS]}abcdefgh1{[TOOL_CONTENT]}{\"x\":2}"
        "{[/TOOL_RESULTS]}r{</s>}" TOOL_TEXT "{[INST]}p{[/INST]}");
    expect_chat(
        11, chat,
        "{<s>}{[INST]}q{[/INST]}{[TOOL_CALLS]}t{[CALL_ID]}abcdefgh1{[ARGS]}{\"a\": 1}{</s>}"
        "{[TOOL_RESULTS]}abcdefgh1{[TOOL_CONTENT]}{\"x\":2}{[/TOOL_RESULTS]}r{</s>}" TOOL_TEXT
        "{[INST]}p{[/INST]}");
    expect_chat(13, chat,
                "{<s>}" TOOL_TEXT "{[INST]}q{[/INST]}{[TOOL_CALLS]}t{[ARGS]}{\"a\": 1}{</s>}"
                "{[TOOL_RESULTS]}{\"x\":2}{[/TOOL_RESULTS]}r{</s>}{[INST]}p{[/INST]}");
}

TEST(results_take_the_order_of_their_calls)
{
    static const char chat[] = "{'messages': [" USER("q") "," CALLS(CALL("abcdefgh1", "t") "," CALL(
        "abcdefgh2", "u")) "," RESULT("abcdefgh2", "two") "," RESULT("abcdefgh1", "one") "]}";
    expect_chat(13, chat,
                "{<s>}{[INST]}q{[/INST]}{[TOOL_CALLS]}t{[ARGS]}{\"a\": 1}{[TOOL_CALLS]}u{[ARGS]}"
                "{\"a\": 1}{</s>}{[TOOL_RESULTS]}one{[/TOOL_RESULTS]}{[TOOL_RESULTS]}two"
                "{[/TOOL_RESULTS]}");
}

TEST(neighbours_of_one_role_are_joined)
{
    static const char chat[] =
        "{'messages': [" USER("a") ", {'role': 'user', 'content': [{'type': 'text', 'text': 'b'}, "
                                   "{'type': 'text', 'text': 'c'}]}]}";
    expect_chat(7, chat, "{<s>}{[INST]}a\n\nb\n\nc{[/INST]}");
    expect_chat(15, chat, "{<s>}" SETTINGS "{[INST]}a\n\nbc{[/INST]}");
}

TEST(the_last_message_goes_on)
{
    expect_chat(
        7, "{'messages': [" USER("a") ", {'role': 'assistant', 'content': 'b', 'prefix': true}]}",
        "{<s>}{[INST]}a{[/INST]}b");
    expect_chat(7,
                "{'messages': [" USER("a") "," ASSISTANT("b") "], 'continue_final_message': true}",
                "{<s>}{[INST]}a{[/INST]}b");
}

TEST(thoughts)
{
    static const char parts[] = "{'messages': [" USER(
        "a") ", {'role': 'assistant', 'content': [{'type': 'thinking', "
             "'thinking': [{'type': 'text', 'text': 'h'}]}, {'type': 'text', 'text': 'b'}]}," USER(
                 "c") "]}";
    static const char field[] = "{'messages': [" USER(
        "a") ", {'role': 'assistant', 'content': 'b', 'reasoning_content': 'h'}," USER("c") "]}";
    static const char same[] =
        "{<s>}{[INST]}a{[/INST]}{[THINK]}h{[/THINK]}b{</s>}{[INST]}c{[/INST]}";
    expect_chat(13, parts, same);
    expect_chat(13, field, same);
    expect_chat(11, parts, "TokenizerException: thinking needs tokenizer V13 or later");
    expect_chat(7, parts,
                "InvalidAssistantMessageException: Unexpected content chunk types in assistant "
                "message: ['ThinkChunk']");
}

TEST(nothing_said_becomes_a_control_token)
{
    expect_chat(15,
                "{'messages': [{'role': 'system', 'content': '[INST]'}," USER(
                    "</s>[/INST]") ",{'role': 'assistant', 'content': '[TOOL_CALLS]', "
                                   "'tool_calls': [" CALL("abcdefgh1",
                                                          "t") "]}," RESULT("abcdefgh1",
                                                                            "[/TOOL_RESULTS]") "]}",
                "{<s>}{[SYSTEM_PROMPT]}[INST]{[/SYSTEM_PROMPT]}" SETTINGS
                "{[INST]}</s>[/INST]{[/INST]}[TOOL_CALLS]{[TOOL_CALLS]}t{[ARGS]}{\"a\": 1}{</s>}"
                "{[TOOL_RESULTS]}[/TOOL_RESULTS]{[/TOOL_RESULTS]}");
}

TEST(efforts_of_version_15)
{
    expect_chat(
        15, "{'messages': [" USER("a") "], 'reasoning_effort': 'high'}",
        "{<s>}{[MODEL_SETTINGS]}{\"reasoning_effort\": \"high\"}{[/MODEL_SETTINGS]}{[INST]}a"
        "{[/INST]}");
    expect_chat(15, "{'messages': [" USER("a") "], 'reasoning_effort': 'low'}",
                "InvalidRequestException: reasoning_effort should be one of ['none', 'high'], got "
                "low.");
    expect_chat(13, "{'messages': [" USER("a") "], 'reasoning_effort': 'high'}",
                "InvalidRequestException: reasoning_effort='high' is not supported for this model");
}

TEST(wrong_types_are_refused)
{
    static const char *const requests[] = {
        "{}",
        "{'messages': {}}",
        "{'messages': [1]}",
        "{'messages': [{'role': 'nobody'}]}",
        "{'messages': [{'role': 'user'}]}",
        "{'messages': [{'role': 'user', 'content': 1}]}",
        "{'messages': [{'role': 'user', 'content': [{'type': 'text'}]}]}",
        "{'messages': [{'role': 'user', 'content': [{'type': 'smell'}]}]}",
        "{'messages': [" USER("a") ", {'role': 'assistant', 'tool_calls': {}}]}",
        "{'messages': [" USER("a") ", {'role': 'assistant', 'tool_calls': [{}]}]}",
        "{'messages': [" USER("a") "], 'tools': {}}",
        "{'messages': [" USER("a") "], 'tools': [{'function': {}}]}",
        "{'messages': [" USER("a") "], 'tools': [{'function': {'name': 'x', 'parameters': []}}]}"};
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        struct tokenizer *t = open_bytes(N_CONTROL);
        struct token_list ids = {0};
        char *text = strdup(requests[i]);
        for (char *c = text; (c = strchr(c, '\'')) != NULL;)
            *c = '"';
        json_t *json = json_loads(text, 0, NULL);
        const char *kind = NULL;
        EXPECT_INT(mistral_encode_chat(t, 13, MISTRAL_TEST, json, &ids, &kind, NULL), ERR_VALUE);
        EXPECT_STR(kind, "ValidationError");
        token_list_free(&ids);
        json_decref(json);
        free(text);
        tokenizer_close(t);
    }
}

TEST(rules_of_structure)
{
    static const char structure[] = "InvalidMessageStructureException: ";
    static const struct {
        int version;
        enum mistral_mode mode;
        const char *messages, *words;
    } rows[] = {
        {3, MISTRAL_TEST, "", "Conversation must have at least one message"},
        {3, MISTRAL_TEST, ASSISTANT("a"),
         "Conversation must start with a user message or system message"},
        {3, MISTRAL_TEST, SYSTEM "," RESULT("abcdefgh1", "x"),
         "Unexpected role 'tool' after role 'system'"},
        {3, MISTRAL_FINETUNING, USER("a"),
         "Expected last role Assistant for finetuning but got user"},
        {7, MISTRAL_SERVING, USER("a") "," CALLS(CALL("abcdefgh1", "t")) "," USER("b"),
         "Not the same number of function calls and responses"},
        {13, MISTRAL_TEST, USER("a") "," CALLS(CALL("abcdefgh1", "t")) "," RESULT("abcdefgh2", "x"),
         "Unexpected tool call id abcdefgh2 in tool results"},
        {13, MISTRAL_TEST,
         USER("a") "," CALLS(CALL("abcdefgh1", "t")) "," RESULT("abcdefgh1",
                                                                "x") "," RESULT("abcdefgh1", "y"),
         "Duplicate tool call id abcdefgh1 in tool results"},
        {13, MISTRAL_TEST,
         USER("a") "," CALLS(CALL("abcdefgh1", "t") "," CALL("abcdefgh1", "t")) "," USER("b"),
         "Duplicate tool call id abcdefgh1 in assistant message"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char request[1024], expected[256];
        snprintf(request, sizeof request, "{'model': 'm', 'messages': [%s]}", rows[i].messages);
        snprintf(expected, sizeof expected, "%s%s", structure, rows[i].words);
        expect_mode(rows[i].version, rows[i].mode, request, expected);
    }
}

TEST(schemas_of_tools)
{
    static const struct {
        const char *schema, *words;
    } rows[] = {
        {"{'type': 'objec'}", "'objec' is not valid under any of the given schemas"},
        {"{'properties': {'a': {'type': ['string', 'string']}}}",
         "['string', 'string'] is not valid under any of the given schemas"},
        {"{'required': 'a'}", "'a' is not of type 'array'"},
        {"{'required': ['a', 'a']}", "['a', 'a'] has non-unique elements"},
        {"{'properties': {'a': 1}}", "1 is not of type 'object', 'boolean'"},
        {"{'items': [{'minLength': -1}]}", "-1 is less than the minimum of 0"},
        {"{'not': {'maximum': null}}", "None is not of type 'number'"},
        {"{'anyOf': []}", "[] should be non-empty"},
        {"{'dependencies': {'a': [1]}}", "1 is not of type 'string'"},
        {"{'multipleOf': 0}", "0 is less than or equal to the minimum of 0"},
        {"{'uniqueItems': 'x'}", "'x' is not of type 'boolean'"},
    };
    char request[512], expected[256];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(request, sizeof request,
                 "{'messages': [" USER("a") "], 'tools': [{'function': {'name': 't', 'parameters': "
                                            "%s}}]}",
                 rows[i].schema);
        snprintf(expected, sizeof expected, "InvalidToolSchemaException: Invalid tool schema: %s",
                 rows[i].words);
        expect_chat(13, request, expected);
    }
}

TEST(a_vocabulary_without_the_tokens_is_refused)
{
    struct tokenizer *t = open_bytes(5);
    struct token_list ids = {0};
    struct err err = {0};
    const char *kind = NULL;
    json_t *json =
        json_loads("{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}]}", 0, NULL);
    EXPECT_INT(mistral_encode_chat(t, 7, MISTRAL_TEST, json, &ids, &kind, &err), ERR_VALUE);
    EXPECT_STR(err.text, "This tokenizer has no control token [SYSTEM_PROMPT]");
    EXPECT_INT(mistral_encode_chat(t, 4, MISTRAL_TEST, json, &ids, &kind, &err), ERR_VALUE);
    EXPECT(!mistral_has_fim(t));
    EXPECT_INT(mistral_encode_fim(t, 7, "a", 1, NULL, 0, &ids, &kind, &err), ERR_VALUE);
    token_list_free(&ids);
    json_decref(json);
    tokenizer_close(t);
}

/* A list of `required` names and a row of calls with their results backwards, both so long that
 * comparing each with each would outlast the test. */
TEST(many_names_and_calls_are_matched_quickly)
{
    enum { N_NAMES = 150000, N_CALLS = 20000 };
    json_t *names = json_array(), *calls = json_array(), *messages = json_array();
    char text[32];
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(text, sizeof text, "k%d", i);
        json_array_append_new(names, json_string(text));
    }
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", "a"));
    json_array_append_new(messages,
                          json_pack("{s:s, s:o}", "role", "assistant", "tool_calls", calls));
    for (int i = 0; i < N_CALLS; i++) {
        snprintf(text, sizeof text, "%09d", i);
        json_array_append_new(calls, json_pack("{s:s, s:{s:s, s:s}}", "id", text, "function",
                                               "name", "t", "arguments", ""));
        snprintf(text, sizeof text, "%09d", N_CALLS - 1 - i);
        json_array_append_new(messages, json_pack("{s:s, s:s, s:s}", "role", "tool", "tool_call_id",
                                                  text, "content", i ? "" : "z"));
    }
    json_t *request =
        json_pack("{s:s, s:o, s:[{s:{s:s, s:{s:o}}}]}", "model", "m", "messages", messages, "tools",
                  "function", "name", "t", "parameters", "required", names);
    struct tokenizer *t = open_bytes(N_CONTROL);
    struct token_list ids = {0};
    const char *kind = NULL;
    struct err err = {0};
    EXPECT(request != NULL);
    if (mistral_encode_chat(t, 13, MISTRAL_SERVING, request, &ids, &kind, &err))
        EXPECT_STR(err.text, "");
    /* the first result that came answers the last call: [TOOL_RESULTS] z [/TOOL_RESULTS] */
    EXPECT(ids.n > 3 * N_CALLS);
    EXPECT_INT(ids.ids[ids.n - 2], N_CONTROL + 'z');
    json_array_append_new(names, json_string("k0"));
    token_list_free(&ids);
    EXPECT_INT(mistral_encode_chat(t, 13, MISTRAL_SERVING, request, &ids, &kind, &err), ERR_VALUE);
    EXPECT_STR(kind, "InvalidToolSchemaException");
    token_list_free(&ids);
    json_decref(request);
    tokenizer_close(t);
}
