/* answer_tools_test: tool calls and reasoning, from events to OpenAI's bytes, whole and streamed (the
 * players are answer_rig.h's). [TOOL_CALLS] is a special token of the demo model. */
#include "tests/unit/answer_rig.h"

static void expect_text(json_t *json, const char *path, const char *text)
{
    json_t *quoted = json_string(text);
    char *dumped = json_dumps(quoted, JSON_COMPACT | JSON_ENCODE_ANY);
    expect_at(json, path, dumped);
    free(dumped);
    json_decref(quoted);
}

#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"                            \
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]"
#define ASK "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

/* A chat request with these members, to a model of Mistral's dialect that may reason. */
static bool whole_calls; /* the server's option */

static void begin_tools(const char *members, const char *thinking)
{
    char body[512];
    struct err err;
    open_rig();
    takes_tools = true;
    app.whole_calls = whole_calls;
    EXPECT_INT(toolcall_detect(&app.format, NULL, tok, "mistral", thinking, &err), 0);
    snprintf(body, sizeof body, "{" ASK "%s%s}", members[0] ? "," : "", members);
    run(api_chat, body);
}

static void call_events(void)
{
    token_event(0, "▁a", "Wait.", NAN);
    token_event(0, "[TOOL_CALLS]", " ", NAN); /* what a stop string held back comes first */
    token_event(0, "a", "[{\"name\": \"f\", \"arguments\": {\"a\"", NAN);
    token_event(0, "b", ": \"\xC3\xA9\"}, \"id\": \"123456789\"}, {\"name\": \"g\", ", NAN);
    token_event(0, "c", "\"arguments\": {}}]", NAN);
}

TEST(calls_of_a_whole_answer)
{
    begin_tools(TOOLS, "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    json_t *json = answer();
    expect_text(json, "choices.0.message.content", "Wait. ");
    expect_text(json, "choices.0.message.tool_calls.0.type", "function");
    expect_text(json, "choices.0.message.tool_calls.0.function.name", "f");
    expect_text(json, "choices.0.message.tool_calls.0.function.arguments", "{\"a\": \"\xC3\xA9\"}");
    expect_text(json, "choices.0.message.tool_calls.1.function.name", "g");
    expect_text(json, "choices.0.message.tool_calls.1.function.arguments", "{}");
    expect_text(json, "choices.0.finish_reason", "tool_calls");
    const char *first = json_string_value(at(json, "choices.0.message.tool_calls.0.id"));
    const char *second = json_string_value(at(json, "choices.0.message.tool_calls.1.id"));
    EXPECT(strlen(first) == 9 && strlen(second) == 9 && strcmp(first, second));
    json_decref(json);
    end();
}

TEST(calls_of_a_stream)
{
    static const struct {
        const char *path, *text;
    } rows[] = {
        {"choices.0.delta.role", "assistant"},
        {"choices.0.delta.content", "Wait."},
        {"choices.0.delta.content", " "},
        {"choices.0.delta.tool_calls.0.function.name", "f"},
        {"choices.0.delta.tool_calls.0.function.arguments", "{\"a\""},
        {"choices.0.delta.tool_calls.0.function.arguments", ": \"\xC3\xA9\"}"},
        {"choices.0.delta.tool_calls.0.function.name", "g"},
        {"choices.0.delta.tool_calls.0.function.arguments", "{}"},
        {"choices.0.finish_reason", "tool_calls"},
    };
    begin_tools(TOOLS ",\"stream\":true", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    for (int i = 0; i < (int)(sizeof rows / sizeof rows[0]); i++) {
        json_t *json = frame(i);
        expect_text(json, rows[i].path, rows[i].text);
        json_t *call = at(json, "choices.0.delta.tool_calls.0");
        bool begins = call && at(call, "function.name");
        EXPECT(!call || (json_integer_value(at(call, "index")) == (i >= 6) &&
                         !at(call, "id") == !begins && !at(call, "type") == !begins));
        json_decref(json);
    }
    EXPECT(frame(9) == NULL);
    end();
}

TEST(calls_of_a_stream_come_whole_where_that_is_wanted)
{
    whole_calls = true;
    begin_tools(TOOLS ",\"stream\":true", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    json_t *json = frame(3); /* after the role, "Wait." and " " */
    expect_text(json, "choices.0.delta.tool_calls.0.function.name", "f");
    expect_text(json, "choices.0.delta.tool_calls.0.function.arguments", "{\"a\": \"\xC3\xA9\"}");
    expect_text(json, "choices.0.delta.tool_calls.1.function.name", "g");
    expect_text(json, "choices.0.delta.tool_calls.1.function.arguments", "{}");
    for (int i = 0; i < 2; i++) {
        json_t *call = json_array_get(at(json, "choices.0.delta.tool_calls"), (size_t)i);
        EXPECT_INT(json_integer_value(at(call, "index")), i);
        EXPECT(at(call, "id") && at(call, "type"));
    }
    json_decref(json);
    expect_frame(4, "choices.0.finish_reason", "\"tool_calls\"");
    EXPECT(frame(5) == NULL);

    begin_tools("\"functions\":[{\"name\":\"f\"}],\"stream\":true", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    json = frame(3);
    expect_text(json, "choices.0.delta.function_call.name", "f");
    expect_text(json, "choices.0.delta.function_call.arguments", "{\"a\": \"\xC3\xA9\"}");
    json_decref(json);

    begin_tools(TOOLS ",\"stream\":true", "none"); /* without calls nothing changes */
    token_event(0, "Hi", "Hi", NAN);
    done(0, FINISH_STOP, "", 3, 5);
    expect_frame(2, "choices.0.finish_reason", "\"stop\"");
    end();
}

TEST(the_older_form_answers_in_kind)
{
    begin_tools("\"functions\":[{\"name\":\"f\"},{\"name\":\"g\"}]", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    json_t *json = answer();
    expect_text(json, "choices.0.message.function_call.name", "f");
    expect_text(json, "choices.0.message.function_call.arguments", "{\"a\": \"\xC3\xA9\"}");
    expect_text(json, "choices.0.finish_reason", "function_call");
    EXPECT(at(json, "choices.0.message.tool_calls") == NULL);
    json_decref(json);
    begin_tools("\"functions\":[{\"name\":\"f\"}],\"stream\":true", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    expect_frame(3, "choices.0.delta.function_call.name", "\"f\"");
    json = frame(4);
    expect_text(json, "choices.0.delta.function_call.arguments", "{\"a\"");
    json_decref(json);
    end();
}

TEST(an_answer_of_nothing_has_a_text_to_send_back)
{
    begin_tools(TOOLS, "none");
    done(0, FINISH_STOP, "", 3, 1);
    json_t *json = answer();
    expect_text(json, "choices.0.message.content", "");
    json_decref(json);
    begin_tools(TOOLS ",\"stream\":true", "none");
    done(0, FINISH_STOP, "", 3, 1);
    expect_frame(0, "choices.0.delta.content", "null");
    expect_frame(1, "choices.0.delta.content", "\"\"");
    expect_frame(1, "choices.0.finish_reason", "\"stop\"");
    begin_tools(TOOLS ",\"stream\":true", "none");
    call_events();
    done(0, FINISH_STOP, "", 3, 5);
    expect_frame(8, "choices.0.delta", "{}");
    end();
}

TEST(a_call_that_is_cut_off_is_no_tool_calls_end)
{
    begin_tools(TOOLS, "none");
    token_event(0, "[TOOL_CALLS]", "", NAN);
    token_event(0, "a", "[{\"name\": \"f\", \"arguments\": {\"a\"", NAN);
    done(0, FINISH_LENGTH, "", 3, 2);
    json_t *json = answer();
    expect_text(json, "choices.0.finish_reason", "length");
    expect_text(json, "choices.0.message.tool_calls.0.function.arguments", "{\"a\"");
    EXPECT(json_is_null(at(json, "choices.0.message.content")));
    json_decref(json);
    begin_tools(TOOLS, "none");
    token_event(0, "[TOOL_CALLS]", "", NAN);
    token_event(0, "a", "[{\"name\": oops", NAN);
    done(0, FINISH_STOP, "", 3, 2);
    json = answer();
    expect_text(json, "choices.0.finish_reason", "stop");
    expect_text(json, "choices.0.message.content", "[TOOL_CALLS][{\"name\": oops");
    json_decref(json);
    end();
}

TEST(calls_keep_log_probabilities_and_ids)
{
    begin_tools(TOOLS ",\"stream\":true,\"logprobs\":true,\"return_token_ids\":true", "none");
    token_event(0, "[TOOL_CALLS]", "", -0.5f);
    token_event(0, "a", "[{\"name\": \"f\", \"arguments\": {", -0.5f);
    token_event(0, "b", "}}]", -0.5f);
    done(0, FINISH_STOP, "", 3, 3);
    size_t n_logprobs = 0, n_ids = 0;
    json_t *json;
    for (int i = 0; (json = frame(i)); i++) {
        n_logprobs += json_array_size(at(json, "choices.0.logprobs.content"));
        n_ids += json_array_size(at(json, "choices.0.token_ids"));
        json_decref(json);
    }
    EXPECT_INT(n_logprobs, 3);
    EXPECT_INT(n_ids, 3);
    end();
}

TEST(reasoning_stands_apart)
{
    begin_tools("", "think");
    token_event(0, "a", "<think>", NAN);
    token_event(0, "b", "Hm.\n", NAN);
    token_event(0, "c", "</think>\n\nParis", NAN);
    token_event(0, "a", ".", NAN);
    done(0, FINISH_STOP, "", 3, 4);
    json_t *json = answer();
    expect_text(json, "choices.0.message.reasoning_content", "Hm.");
    expect_text(json, "choices.0.message.content", "Paris.");
    EXPECT_INT(json_integer_value(at(json, "usage.completion_tokens_details.reasoning_tokens")), 3);
    json_decref(json);
    begin_tools("\"include_reasoning\":false,\"stream\":true", "think");
    token_event(0, "a", "<think>Hm.</think>Paris", NAN);
    done(0, FINISH_STOP, ".", 3, 1);
    json = frame(1);
    expect_text(json, "choices.0.delta.content", "Paris");
    json_decref(json);
    begin_tools("\"reasoning_format\":\"none\"", "think");
    token_event(0, "a", "<think>Hm.</think>Paris", NAN);
    done(0, FINISH_STOP, ".", 3, 1);
    json = answer();
    expect_text(json, "choices.0.message.content", "<think>Hm.</think>Paris.");
    json_decref(json);
    end();
}

TEST(tools_that_nobody_would_read_are_refused)
{
    begin_tools("", "none");
    takes_tools = false;
    run(api_chat, "{" ASK "," TOOLS "}");
    EXPECT_INT(failed.code, ERR_UNSUPPORTED_PARAM);
    EXPECT_STR(failed.param, "tools");
    takes_tools = true;
    app.format.dialect = NULL;
    run(api_chat, "{" ASK "," TOOLS "}");
    EXPECT_INT(failed.code, ERR_UNSUPPORTED_PARAM);
    EXPECT(strstr(failed.text, "--tool-call-parser") != NULL);
    end();
}
