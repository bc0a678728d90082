/* request_test: request bodies against their errors: the catalogue of bad inputs, JSONTestSuite,
 * and what a good request comes to. No engine, no exchange. */
#include "server/request.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "server/json_budget.h"
#include "server/prompt.h"
#include "tests/test.h"

static const char *const names[] = {"demo", "demo-alias"};
static struct sample_params defaults;
static struct request_limits limits = {
    .vocab_size = 1000, .defaults = &defaults, .names = names, .n_names = 2};
static struct arena arena;
static struct request request;
static struct err error;

enum api { CHAT, COMPLETION, INFILL };

static int parse_bytes(enum api api, const char *text, size_t n)
{
    sample_params_init(&defaults);
    defaults.temperature = 0.7f;
    arena_free(&arena);
    arena_init(&arena, 0);
    request_free(&request);
    memset(&error, 0, sizeof error);
    /* exactly n bytes on the heap: a read past the end is seen by sanitizers */
    char *copy = malloc(n + 1);
    memcpy(copy, text, n);
    int (*const parsers[])(struct request *, const char *, size_t, const struct request_limits *,
                           struct arena *, struct err *) = {
        [CHAT] = request_parse_chat,
        [COMPLETION] = request_parse_completion,
        [INFILL] = request_parse_infill};
    int code = parsers[api](&request, copy, n, &limits, &arena, &error);
    free(copy);
    return code;
}

/* fields: "\"n\":3", put into a body that is otherwise good. */
static int parse(enum api api, const char *fields)
{
    struct buf body;
    buf_init(&body, 0);
    buf_format(&body, "{%s%s%s}",
               api == CHAT ? "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
                           : "\"prompt\":\"hi\"",
               *fields ? "," : "", fields);
    int code = parse_bytes(api, body.data, body.size);
    buf_free(&body);
    return code;
}

static int parse_text(enum api api, const char *text)
{
    return parse_bytes(api, text, strlen(text));
}

struct row {
    const char *fields;
    int code;
    const char *param;
};

static void expect_rows(enum api api, const struct row *rows, size_t n, bool whole)
{
    for (size_t i = 0; i < n; i++) {
        int code = whole ? parse_text(api, rows[i].fields) : parse(api, rows[i].fields);
        if (code != rows[i].code || strcmp(error.param, rows[i].param) || !code != !error.text[0])
            printf("    %s\n    gave %s '%s': %s\n", rows[i].fields, err_name(code), error.param,
                   error.text);
        EXPECT_INT(code, rows[i].code);
        EXPECT_STR(error.param, rows[i].param);
        EXPECT(code == error.code);
        EXPECT(!code == !error.text[0]);
    }
}
#define EXPECT_ROWS(api, rows, whole) expect_rows(api, rows, sizeof(rows) / sizeof(rows)[0], whole)

TEST(shared_fields_have_openai_errors)
{
    static const struct row rows[] = {
        {"", 0, ""},
        {"\"model\":\"demo\"", 0, ""},
        {"\"model\":\"default\"", 0, ""},
        {"\"model\":null", 0, ""},
        {"\"model\":\"\"", ERR_VALUE, "model"},
        {"\"model\":\"../demo\"", ERR_NO_MODEL, "model"},
        {"\"model\":\"demo\\u0000\"", ERR_NO_MODEL, "model"},
        {"\"model\":1", ERR_TYPE, "model"},
        {"\"temperature\":-0.01", ERR_DECIMAL_MIN, "temperature"},
        {"\"temperature\":2.01", ERR_DECIMAL_MAX, "temperature"},
        {"\"temperature\":\"1\"", ERR_TYPE, "temperature"},
        {"\"temperature\":true", ERR_TYPE, "temperature"},
        {"\"temperature\":null", 0, ""},
        {"\"temperature\":1e308", ERR_DECIMAL_MAX, "temperature"},
        {"\"temperature\":-0.0", 0, ""},
        {"\"temperature\":1e-45", 0, ""},
        {"\"temperature\":2", 0, ""},
        {"\"top_p\":-0.1", ERR_DECIMAL_MIN, "top_p"},
        {"\"top_p\":0", 0, ""},
        {"\"top_p\":1", 0, ""},
        {"\"top_p\":1.0001", ERR_DECIMAL_MAX, "top_p"},
        {"\"top_k\":-1", 0, ""},
        {"\"top_k\":-2", ERR_INT_MIN, "top_k"},
        {"\"top_k\":2147483648", ERR_INT_MAX, "top_k"},
        {"\"top_k\":1.5", ERR_TYPE, "top_k"},
        {"\"min_p\":2", ERR_DECIMAL_MAX, "min_p"},
        {"\"presence_penalty\":-2", 0, ""},
        {"\"presence_penalty\":2.01", ERR_DECIMAL_MAX, "presence_penalty"},
        {"\"frequency_penalty\":-2.01", ERR_DECIMAL_MIN, "frequency_penalty"},
        {"\"repeat_penalty\":\"x\"", ERR_TYPE, "repeat_penalty"},
        {"\"n\":0", ERR_INT_MIN, "n"},
        {"\"n\":1", 0, ""},
        {"\"n\":128", 0, ""},
        {"\"n\":129", ERR_INT_MAX, "n"},
        {"\"n\":2147483648", ERR_INT_MAX, "n"},
        {"\"n\":9223372036854775807", ERR_INT_MAX, "n"},
        {"\"n\":9223372036854775808", ERR_JSON, ""},
        {"\"n\":1.0", 0, ""},
        {"\"n\":1e1", 0, ""},
        {"\"n\":1e300", ERR_INT_MAX, "n"},
        {"\"n\":-1e300", ERR_INT_MIN, "n"},
        {"\"n\":\"1\"", ERR_TYPE, "n"},
        {"\"n\":true", ERR_TYPE, "n"},
        {"\"max_tokens\":-1", ERR_INT_MIN, "max_tokens"},
        {"\"max_tokens\":1", 0, ""},
        {"\"max_tokens\":9223372036854775807", 0, ""},
        {"\"max_tokens\":5,\"max_completion_tokens\":5", 0, ""},
        {"\"max_tokens\":5,\"max_completion_tokens\":6", ERR_VALUE, "max_completion_tokens"},
        {"\"max_tokens\":5,\"min_tokens\":6", ERR_VALUE, "min_tokens"},
        {"\"stop\":\"\"", ERR_VALUE, "stop"},
        {"\"stop\":[]", 0, ""},
        {"\"stop\":[\"a\",\"b\",\"c\",\"a\"]", 0, ""},
        {"\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", ERR_ARRAY_LONG, "stop"},
        {"\"stop\":[\"a\",null]", ERR_TYPE, "stop"},
        {"\"stop\":7", ERR_TYPE, "stop"},
        {"\"logit_bias\":[]", ERR_TYPE, "logit_bias"},
        {"\"logit_bias\":{}", 0, ""},
        {"\"logit_bias\":{\"999\":100,\"0\":-100}", 0, ""},
        {"\"logit_bias\":{\"abc\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"-1\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"1.0\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\" 1\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"01\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"1000\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"4294967297\":1}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"1\":101}", ERR_VALUE, "logit_bias"},
        {"\"logit_bias\":{\"1\":\"1\"}", ERR_TYPE, "logit_bias"},
        {"\"logit_bias\":{\"1\":NaN}", ERR_JSON, ""},
        {"\"seed\":-9223372036854775808", 0, ""},
        {"\"seed\":9223372036854775807", 0, ""},
        {"\"seed\":9223372036854775808", ERR_JSON, ""},
        {"\"seed\":1.5", ERR_TYPE, "seed"},
        {"\"seed\":\"1\"", ERR_TYPE, "seed"},
        {"\"stream\":\"true\"", ERR_TYPE, "stream"},
        {"\"stream\":1", ERR_TYPE, "stream"},
        {"\"stream_options\":{}", ERR_VALUE, "stream_options"},
        {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", ERR_TYPE,
         "stream_options.include_usage"},
        {"\"stream\":true,\"stream_options\":{\"other\":1}", 0, ""},
        {"\"stream\":true,\"stream_options\":7", ERR_TYPE, "stream_options"},
        {"\"stop_token_ids\":[0,999]", 0, ""},
        {"\"stop_token_ids\":[1000]", ERR_VALUE, "stop_token_ids"},
        {"\"stop_token_ids\":[\"1\"]", ERR_TYPE, "stop_token_ids"},
        {"\"ignore_eos\":\"no\"", ERR_TYPE, "ignore_eos"},
        {"\"cache_salt\":\"\"", ERR_VALUE, "cache_salt"},
        {"\"cache_salt\":1", ERR_TYPE, "cache_salt"},
        {"\"priority\":1.5", ERR_TYPE, "priority"},
        {"\"user\":1", ERR_TYPE, "user"},
        {"\"metadata\":{\"a\":1}", ERR_TYPE, "metadata"},
        {"\"store\":true,\"service_tier\":\"flex\",\"verbosity\":\"low\"", 0, ""},
        {"\"unknown\":{\"deep\":[1,2]},\"mirostat\":2,\"web_search_options\":{}", 0, ""},
        {"\"guided_json\":{\"type\":\"object\"}", ERR_UNSUPPORTED_PARAM, "guided_json"},
        {"\"guided_json\":null,\"grammar\":\"\",\"bad_words\":[]", 0, ""},
        {"\"use_beam_search\":true", ERR_UNSUPPORTED_PARAM, "use_beam_search"},
        {"\"use_beam_search\":false", 0, ""},
        {"\"prompt_logprobs\":0", ERR_UNSUPPORTED_PARAM, "prompt_logprobs"},
    };
    EXPECT_ROWS(CHAT, rows, false);
    EXPECT_ROWS(COMPLETION, rows, false);
}

TEST(chat_fields_have_openai_errors)
{
    static const struct row rows[] = {
        {"\"max_tokens\":0", ERR_INT_MIN, "max_tokens"},
        {"\"logprobs\":true", 0, ""},
        {"\"logprobs\":5", ERR_TYPE, "logprobs"},
        {"\"logprobs\":true,\"top_logprobs\":20", 0, ""},
        {"\"logprobs\":true,\"top_logprobs\":21", ERR_INT_MAX, "top_logprobs"},
        {"\"logprobs\":true,\"top_logprobs\":-1", ERR_INT_MIN, "top_logprobs"},
        {"\"logprobs\":false,\"top_logprobs\":2", ERR_VALUE, "top_logprobs"},
        {"\"response_format\":{\"type\":\"text\"}", 0, ""},
        {"\"response_format\":\"json\"", ERR_TYPE, "response_format"},
        {"\"response_format\":{}", ERR_MISSING, "response_format.type"},
        {"\"response_format\":{\"type\":\"xml\"}", ERR_VALUE, "response_format.type"},
        {"\"response_format\":{\"type\":\"json_object\"}", ERR_UNSUPPORTED_VALUE,
         "response_format.type"},
        {"\"response_format\":{\"type\":\"json_schema\"}", ERR_UNSUPPORTED_VALUE,
         "response_format.type"},
        {"\"tools\":[]", 0, ""},
        {"\"tools\":[],\"parallel_tool_calls\":true", 0, ""},
        {"\"tools\":{}", ERR_TYPE, "tools"},
        {"\"tool_choice\":\"none\"", 0, ""},
        {"\"tool_choice\":\"auto\"", 0, ""},
        {"\"tool_choice\":\"required\"", ERR_VALUE, "tool_choice"},
        {"\"tool_choice\":{\"type\":\"function\"}", ERR_VALUE, "tool_choice"},
        {"\"tool_choice\":1", ERR_TYPE, "tool_choice"},
        {"\"parallel_tool_calls\":true", 0, ""},
        {"\"parallel_tool_calls\":1", ERR_TYPE, "parallel_tool_calls"},
        {"\"include_reasoning\":1", ERR_TYPE, "include_reasoning"},
        {"\"reasoning_format\":1", ERR_TYPE, "reasoning_format"},
        {"\"chat_template\":\"{{ x }}\"", ERR_UNSUPPORTED_PARAM, "chat_template"},
        {"\"chat_template_kwargs\":{\"enable_thinking\":false}", 0, ""},
        {"\"chat_template_kwargs\":{\"messages\":[]}", ERR_VALUE, "chat_template_kwargs"},
        {"\"chat_template_kwargs\":[]", ERR_TYPE, "chat_template_kwargs"},
        {"\"modalities\":[\"text\"]", 0, ""},
        {"\"modalities\":[\"text\",\"audio\"]", ERR_UNSUPPORTED_VALUE, "modalities"},
        {"\"reasoning_effort\":\"high\"", 0, ""},
        {"\"reasoning_effort\":\"huge\"", ERR_VALUE, "reasoning_effort"},
        {"\"continue_final_message\":true", ERR_VALUE, "continue_final_message"},
        {"\"continue_final_message\":true,\"add_generation_prompt\":true", ERR_VALUE,
         "continue_final_message"},
    };
    EXPECT_ROWS(CHAT, rows, false);
}

TEST(completion_fields_have_openai_errors)
{
    static const struct row rows[] = {
        {"\"max_tokens\":0", 0, ""},
        {"\"logprobs\":0", 0, ""},
        {"\"logprobs\":5", 0, ""},
        {"\"logprobs\":6", ERR_INT_MAX, "logprobs"},
        {"\"logprobs\":true", ERR_TYPE, "logprobs"},
        {"\"best_of\":21", ERR_INT_MAX, "best_of"},
        {"\"best_of\":2,\"n\":3", ERR_VALUE, "best_of"},
        {"\"best_of\":3,\"n\":3", 0, ""},
        {"\"best_of\":3", ERR_UNSUPPORTED_VALUE, "best_of"},
        {"\"suffix\":\"end\"", 0, ""},
        {"\"suffix\":\"\"", 0, ""},
        {"\"suffix\":5", ERR_TYPE, "suffix"},
        {"\"suffix\":\"end\",\"echo\":true", ERR_VALUE, "suffix"},
        {"\"suffix\":\"\",\"echo\":true", 0, ""},
        {"\"echo\":true,\"stream\":true", 0, ""},
        {"\"echo\":1", ERR_TYPE, "echo"},
    };
    static const struct row prompts[] = {
        {"{}", ERR_MISSING, "prompt"},
        {"{\"prompt\":null}", ERR_MISSING, "prompt"},
        {"{\"prompt\":\"\"}", 0, ""},
        {"{\"prompt\":1}", ERR_TYPE, "prompt"},
        {"{\"prompt\":[]}", ERR_ARRAY_EMPTY, "prompt"},
        {"{\"prompt\":[\"\"]}", 0, ""},
        {"{\"prompt\":[[]]}", ERR_ARRAY_EMPTY, "prompt[0]"},
        {"{\"prompt\":[1,-1]}", ERR_VALUE, "prompt[1]"},
        {"{\"prompt\":[1,999]}", 0, ""},
        {"{\"prompt\":[1000]}", ERR_VALUE, "prompt[0]"},
        {"{\"prompt\":[4294967297]}", ERR_VALUE, "prompt[0]"},
        {"{\"prompt\":[1,\"a\"]}", ERR_TYPE, "prompt[1]"},
        {"{\"prompt\":[\"a\",1]}", ERR_TYPE, "prompt[1]"},
        {"{\"prompt\":[[1],[\"a\"]]}", ERR_TYPE, "prompt[1][0]"},
        {"{\"prompt\":[[1],\"a\"]}", ERR_TYPE, "prompt[1]"},
        {"{\"prompt\":[[1],[2,1000]]}", ERR_VALUE, "prompt[1][1]"},
        {"{\"prompt\":[{}]}", ERR_TYPE, "prompt[0]"},
        {"{\"prompt\":[\"a\",\"b\"],\"n\":64}", 0, ""},
        {"{\"prompt\":[\"a\",\"b\"],\"n\":65}", ERR_VALUE, "prompt"},
    };
    EXPECT_ROWS(COMPLETION, rows, false);
    EXPECT_ROWS(COMPLETION, prompts, true);
}

#define TURN(text) "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}," text "]}"
#define CALLED                                                                                     \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":"   \
    "{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]}"

TEST(messages_have_errors_with_their_path)
{
    static const struct row rows[] = {
        {"{}", ERR_MISSING, "messages"},
        {"{\"messages\":null}", ERR_MISSING, "messages"},
        {"{\"messages\":{}}", ERR_TYPE, "messages"},
        {"{\"messages\":\"x\"}", ERR_TYPE, "messages"},
        {"{\"messages\":[]}", ERR_ARRAY_EMPTY, "messages"},
        {TURN("1"), ERR_TYPE, "messages[1]"},
        {TURN("{\"content\":\"b\"}"), ERR_MISSING, "messages[1].role"},
        {TURN("{\"role\":\"root\",\"content\":\"b\"}"), ERR_VALUE, "messages[1].role"},
        {TURN("{\"role\":1,\"content\":\"b\"}"), ERR_TYPE, "messages[1].role"},
        {TURN("{\"role\":\"user\"}"), ERR_MISSING, "messages[1].content"},
        {TURN("{\"role\":\"user\",\"content\":null}"), ERR_MISSING, "messages[1].content"},
        {TURN("{\"role\":\"user\",\"content\":1}"), ERR_TYPE, "messages[1].content"},
        {TURN("{\"role\":\"user\",\"content\":{}}"), ERR_TYPE, "messages[1].content"},
        {TURN("{\"role\":\"user\",\"content\":[]}"), ERR_ARRAY_EMPTY, "messages[1].content"},
        {TURN("{\"role\":\"user\",\"content\":[1]}"), ERR_TYPE, "messages[1].content[0]"},
        {TURN("{\"role\":\"user\",\"content\":[{}]}"), ERR_MISSING, "messages[1].content[0].type"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"odd\"}]}"), ERR_VALUE,
         "messages[1].content[0].type"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"), ERR_UNSUPPORTED_VALUE,
         "messages[1].content[0].type"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}"),
         ERR_UNSUPPORTED_VALUE, "messages[1].content[0].type"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), ERR_MISSING,
         "messages[1].content[0].text"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}"), ERR_TYPE,
         "messages[1].content[0].text"},
        {TURN("{\"role\":\"user\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}]}"),
         ERR_VALUE, "messages[1].content[0].type"},
        {TURN("{\"role\":\"assistant\"}"), ERR_MISSING, "messages[1].content"},
        {TURN("{\"role\":\"assistant\",\"tool_calls\":[]}"), ERR_MISSING, "messages[1].content"},
        {TURN("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}"), ERR_MISSING,
         "messages[1].content"},
        {TURN("{\"role\":\"assistant\",\"content\":[]}"), ERR_ARRAY_EMPTY, "messages[1].content"},
        {TURN("{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"hm\"}"), 0, ""},
        {TURN("{\"role\":\"assistant\",\"reasoning_content\":\"hm\"}"), 0, ""},
        {TURN(CALLED), 0, ""},
        {TURN("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"function\":{}}]}"),
         ERR_MISSING, "messages[1].tool_calls[0].function.name"},
        {TURN("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}"), ERR_MISSING,
         "messages[1].tool_calls[0].id"},
        {TURN("{\"role\":\"tool\",\"content\":\"b\"}"), ERR_MISSING, "messages[1].tool_call_id"},
        {TURN("{\"role\":\"tool\",\"content\":\"b\",\"tool_call_id\":\"c1\"}"), ERR_VALUE,
         "messages[1].tool_call_id"},
        {TURN(CALLED ",{\"role\":\"tool\",\"content\":\"b\",\"tool_call_id\":\"c1\"}"), 0, ""},
        {TURN("{\"role\":\"function\",\"content\":\"b\"}"), ERR_MISSING, "messages[1].name"},
        {TURN("{\"role\":\"user\",\"content\":\"b\",\"name\":7}"), ERR_TYPE, "messages[1].name"},
        {TURN("{\"role\":\"user\",\"content\":\"b\",\"name\":\"Ann\",\"extra\":[{}]}"), 0, ""},
    };
    EXPECT_ROWS(CHAT, rows, true);
}

static void expect_messages(const char *text, const char *built)
{
    EXPECT_INT(parse_text(CHAT, text), 0);
    char *dumped = json_dumps(request.messages, JSON_COMPACT);
    EXPECT_STR(dumped, built);
    free(dumped);
}

TEST(messages_are_built_as_templates_know_them)
{
    expect_messages("{\"messages\":[{\"content\":\"be\",\"role\":\"developer\"},"
                    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                    "{\"type\":\"text\",\"text\":\"b\"}]}]}",
                    "[{\"role\":\"system\",\"content\":\"be\"},"
                    "{\"role\":\"user\",\"content\":\"a\\nb\"}]");
    expect_messages(TURN(CALLED ",{\"role\":\"tool\",\"content\":\"4\",\"tool_call_id\":\"c1\"}"),
                    "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
                    "null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":"
                    "{\"name\":\"f\",\"arguments\":{\"x\":1}}}]},{\"role\":\"tool\",\"content\":"
                    "\"4\",\"tool_call_id\":\"c1\"}]");
    expect_messages(TURN("{\"role\":\"assistant\",\"refusal\":\"no\",\"reasoning\":\"why\"}"),
                    "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
                    "\"no\",\"reasoning_content\":\"why\"}]");
    expect_messages(TURN("{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":"
                         "[{\"type\":\"text\",\"text\":\"hm\"}]},{\"type\":\"text\",\"text\":\"no\"}]}"),
                    "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
                    "\"no\",\"reasoning_content\":\"hm\"}]");
    /* a NUL is a character as any other */
    EXPECT_INT(parse_text(CHAT, TURN("{\"role\":\"user\",\"content\":\"x\\u0000y\"}")), 0);
    EXPECT_INT(json_string_length(json_object_get(json_array_get(request.messages, 1), "content")),
               3);
}

TEST(values_arrive)
{
    EXPECT_INT(parse(CHAT, "\"model\":\"demo-alias\",\"temperature\":0.5,\"n\":3,\"stop\":[\"x\","
                           "\"\\u00e9\"],\"max_completion_tokens\":7,\"logit_bias\":{\"5\":-1.5},"
                           "\"seed\":9,\"logprobs\":true,\"top_logprobs\":2,\"stream\":true,"
                           "\"stream_options\":{\"include_usage\":true},\"stop_token_ids\":[4],"
                           "\"skip_special_tokens\":false,\"priority\":-2,\"cache_salt\":\"s\","
                           "\"reasoning_effort\":\"low\",\"repeat_penalty\":1.25"),
               0);
    EXPECT_STR(request.model, "demo-alias");
    EXPECT_NEAR(request.params.temperature, 0.5, 0);
    EXPECT_NEAR(request.params.repetition_penalty, 1.25, 0);
    EXPECT_INT(request.n, 3);
    EXPECT_INT(request.stops.n, 2);
    EXPECT_INT(request.stops.size[1], 2);
    EXPECT_STR(request.stops.text[1], "\xc3\xa9");
    EXPECT_INT(request.max_tokens, 7);
    EXPECT_INT(request.params.n_bias, 1);
    EXPECT_INT(request.params.bias[0].token, 5);
    EXPECT_NEAR(request.params.bias[0].bias, -1.5, 0);
    EXPECT(request.params.has_seed && request.params.seed == 9);
    EXPECT_INT(request.params.logprobs, 2);
    EXPECT(request.stream && request.include_usage && !request.continuous_usage);
    EXPECT(request.n_stop_token_ids == 1 && request.stop_token_ids[0] == 4);
    EXPECT(request.show_special && request.priority == -2 && request.cache_salt != 0);
    EXPECT_STR(json_string_value(json_object_get(request.kwargs, "reasoning_effort")), "low");
    EXPECT(request.add_generation_prompt);

    EXPECT_INT(parse(CHAT, "\"reasoning_format\":\"none\""), 0);
    EXPECT(!request.split_reasoning);
    EXPECT_INT(parse(CHAT, "\"reasoning_format\":\"none\\u0000\""), 0); /* not that word */
    EXPECT(request.split_reasoning);

    EXPECT_INT(parse(CHAT, "\"temperature\":null"), 0);
    EXPECT_STR(request.model, "demo");
    EXPECT_NEAR(request.params.temperature, 0.7f, 0);
    EXPECT(!request.params.has_seed && request.max_tokens == -1 && request.params.logprobs == -1);
    EXPECT_INT(parse(COMPLETION, ""), 0);
    EXPECT_INT(request.max_tokens, 16);
    EXPECT_INT(parse(CHAT, "\"random_seed\":7"), 0); /* Mistral's name */
    EXPECT(request.params.has_seed && request.params.seed == 7);
    EXPECT_INT(parse(COMPLETION, "\"max_tokens\":0,\"echo\":true,\"logprobs\":0"), 0);
    EXPECT(request.max_tokens == 0 && request.echo && request.params.logprobs == 0);

    EXPECT_INT(parse_text(CHAT, "{\"continue_final_message\":true,\"messages\":[{\"role\":"
                                "\"assistant\",\"content\":\"a\"}]}"),
               0);
    EXPECT(request.continue_final_message && !request.add_generation_prompt);
    EXPECT(!request.prefix);

    EXPECT_INT(parse_text(CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\","
                                "\"prefix\":true}]}"),
               0);
    EXPECT(request.prefix && !request.continue_final_message && !request.add_generation_prompt);
    EXPECT_INT(parse_text(CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\","
                                "\"prefix\":false}]}"),
               0);
    EXPECT(!request.prefix && request.add_generation_prompt);
    EXPECT_INT(parse_text(CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\","
                                "\"prefix\":1}]}"),
               ERR_TYPE);
    EXPECT_INT(parse_text(CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\","
                                "\"prefix\":true},{\"role\":\"user\",\"content\":\"b\"}]}"),
               ERR_VALUE);
}

/* Every byte string a client may send as a body gives an answer. */
TEST(bodies_that_are_no_json_object)
{
    static const struct row rows[] = {
        {"", ERR_JSON, ""},
        {" \n", ERR_JSON, ""},
        {"null", ERR_JSON, ""},
        {"[]", ERR_JSON, ""},
        {"\"s\"", ERR_JSON, ""},
        {"1", ERR_JSON, ""},
        {"\xef\xbb\xbf{}", ERR_JSON, ""},
        {"{\"a\":\"\xc0\x80\"}", ERR_JSON, ""},
        {"{\"\xed\xa0\x80\":1}", ERR_JSON, ""},
        {"{\"a\":\"\\ud800\"}", ERR_JSON, ""},
        {"{\"a\\u0000\":1}", ERR_JSON, ""},
        {"{\"model\":\"demo\",\"model\":\"demo\"}", ERR_JSON, ""},
        {"{\"a\":{\"b\":1,\"b\":2}}", ERR_JSON, ""},
        {"{\"a\":1e999}", ERR_JSON, ""},
        {"{\"a\":Infinity}", ERR_JSON, ""},
        {"{} x", ERR_JSON, ""},
        {"{}{}", ERR_JSON, ""},
        {"{\"a\":1,}", ERR_JSON, ""},
        {"{/* c */}", ERR_JSON, ""},
    };
    EXPECT_ROWS(CHAT, rows, true);
    EXPECT_ROWS(COMPLETION, rows, true);
    EXPECT_INT(parse_bytes(CHAT, "{}\0", 3), ERR_JSON);
    EXPECT_INT(parse_text(CHAT, "{\"a\":tru}"), ERR_JSON);
    EXPECT(strstr(error.text, "at byte") != NULL);
    EXPECT(strstr(error.text, "tru") == NULL);
}

static struct buf nested(int depth, const char *filling)
{
    struct buf b;
    buf_init(&b, 0);
    buf_text(&b, "{\"prompt\":\"hi\",\"unused\":");
    for (int i = 0; i < depth; i++)
        buf_byte(&b, '[');
    buf_text(&b, filling);
    for (int i = 0; i < depth; i++)
        buf_byte(&b, ']');
    buf_byte(&b, '}');
    return b;
}

TEST(depth_and_size_are_bounded)
{
    static const struct {
        int depth, code;
    } depths[] = {{63, 0}, {64, ERR_JSON}, {100000, ERR_JSON}, {1000000, ERR_JSON}};
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        struct buf b = nested(depths[i].depth, "");
        EXPECT_INT(parse_bytes(COMPLETION, b.data, b.size), depths[i].code);
        buf_free(&b);
    }
    /* brackets in strings are text */
    struct buf quoted =
        nested(1, "\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[\"");
    EXPECT_INT(parse_bytes(COMPLETION, quoted.data, quoted.size), 0);
    buf_free(&quoted);
    struct buf many;
    buf_init(&many, 0);
    for (int i = 0; i < 250000; i++)
        buf_text(&many, i ? ",{}" : "{}");
    struct buf b = nested(1, many.data);
    EXPECT_INT(parse_bytes(COMPLETION, b.data, b.size), ERR_JSON);
    buf_free(&b);
    buf_free(&many);
}

TEST(long_fields_are_refused)
{
    struct buf b;
    buf_init(&b, 0);
    buf_text(&b, "\"stop\":\"");
    for (int i = 0; i < 257; i++)
        buf_byte(&b, 's');
    buf_byte(&b, '"');
    EXPECT_INT(parse(CHAT, b.data), ERR_STRING_LONG);
    EXPECT_STR(error.param, "stop");
    buf_clear(&b);
    buf_text(&b, "\"model\":\"");
    for (int i = 0; i < 10240; i++)
        buf_byte(&b, 'm');
    buf_byte(&b, '"');
    EXPECT_INT(parse(CHAT, b.data), ERR_STRING_LONG);
    buf_clear(&b);
    buf_text(&b, "\"logit_bias\":{");
    for (int i = 0; i < 1025; i++)
        buf_format(&b, "%s\"%d\":1", i ? "," : "", i);
    buf_byte(&b, '}');
    EXPECT_INT(parse(CHAT, b.data), ERR_ARRAY_LONG);
    buf_clear(&b);
    buf_text(&b, "\"metadata\":{");
    for (int i = 0; i < 17; i++)
        buf_format(&b, "%s\"%d\":\"x\"", i ? "," : "", i);
    buf_byte(&b, '}');
    EXPECT_INT(parse(CHAT, b.data), ERR_ARRAY_LONG);
    EXPECT_STR(error.param, "metadata");
    for (int n = 2048; n <= 2049; n++) {
        buf_clear(&b);
        buf_text(&b, "{\"messages\":[");
        for (int i = 0; i < n; i++)
            buf_format(&b, "%s{\"role\":\"user\",\"content\":\"\"}", i ? "," : "");
        buf_text(&b, "]}");
        EXPECT_INT(parse_bytes(CHAT, b.data, b.size), n == 2048 ? 0 : ERR_ARRAY_LONG);
        buf_clear(&b);
        buf_text(&b, "{\"prompt\":[");
        for (int i = 0; i < n; i++)
            buf_text(&b, i ? ",\"\"" : "\"\"");
        buf_text(&b, "]}");
        EXPECT_INT(parse_bytes(COMPLETION, b.data, b.size), n == 2048 ? ERR_VALUE : ERR_ARRAY_LONG);
    }
    buf_free(&b);
}

TEST(a_parse_stays_in_its_budget)
{
    struct buf b = nested(1, "[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[]");
    json_t *value = NULL;
    json_budget_begin(512);
    EXPECT_INT(json_budget_parse(b.data, b.size, &value, &error), ERR_TOO_LARGE);
    EXPECT(json_budget_spent());
    json_budget_end();
    EXPECT_INT(json_budget_parse(b.data, b.size, &value, &error), 0);
    json_decref(value);
    buf_free(&b);
}

/* What is refused half-way is freed: values live on both sides of a budget. */
TEST(the_budget_counts_what_is_freed)
{
    for (int i = 0; i < 2000; i++) {
        json_t *value = NULL;
        if (!i)
            json_budget_begin(64 << 10);
        EXPECT_INT(json_budget_parse("{\"a\":[1,2,3]}", 13, &value, &error), 0);
        json_decref(value);
    }
    json_budget_end();
}

/* test_parsing of JSONTestSuite: y_ must parse, n_ must not, i_ must not crash. Our own bounds and
 * rules (depth, duplicate keys, int64) refuse some that a parser may take. */
TEST(json_test_suite)
{
    const char *folder = test_data("json/JSONTestSuite/test_parsing");
    if (!folder)
        SKIP("no test data");
    char path[1024];
    DIR *dir = opendir(folder);
    EXPECT(dir != NULL);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strstr(entry->d_name, ".json"))
            continue;
        snprintf(path, sizeof path, "%s/%.255s", folder, entry->d_name);
        size_t size;
        char *text = test_read(path, &size);
        EXPECT(text != NULL);
        json_t *value = NULL;
        int code = json_budget_parse(text, size, &value, &error);
        if (!code)
            json_decref(value);
        bool refused_by_us = strstr(entry->d_name, "duplicated_key") != NULL ||
                             strstr(entry->d_name, "escaped_null_in_key") != NULL;
        if (entry->d_name[0] == 'n' || (entry->d_name[0] == 'y' && !refused_by_us)) {
            if (!code != (entry->d_name[0] == 'y'))
                printf("    %s: %s\n", entry->d_name, error.text);
            EXPECT_INT(code, entry->d_name[0] == 'y' ? 0 : ERR_JSON);
        }
        /* as a body: never more than an error */
        code = parse_bytes(CHAT, text, size);
        EXPECT(code == ERR_JSON || code == ERR_MISSING);
        free(text);
        n++;
    }
    closedir(dir);
    EXPECT_INT(n, 318);
}

/* ---- fill-in-the-middle */

TEST(suffix_goes_with_texts)
{
    EXPECT_INT(parse(COMPLETION, "\"suffix\":\"end\""), 0);
    EXPECT(request.suffix_size == 3 && !memcmp(request.suffix, "end", 3));
    EXPECT_INT(parse(COMPLETION, "\"suffix\":\"\""), 0);
    EXPECT(request.suffix == NULL);
    EXPECT_INT(parse_text(COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"suffix\":\"c\"}"), 0);
    EXPECT(request.suffix != NULL && request.n_prompts == 2);
    EXPECT_INT(parse_text(COMPLETION, "{\"prompt\":[1,2],\"suffix\":\"c\"}"), ERR_VALUE);
    EXPECT_STR(error.param, "prompt");
    EXPECT_INT(parse_text(COMPLETION, "{\"prompt\":[[1],[2]],\"suffix\":\"c\"}"), ERR_VALUE);
    EXPECT_STR(error.param, "prompt");
    EXPECT_INT(parse_text(COMPLETION, "{\"prompt\":[1,2],\"suffix\":\"\"}"), 0);
}

TEST(infill_fields)
{
    static const struct row rows[] = {
        {"{}", 0, ""},
        {"{\"input_prefix\":5}", ERR_TYPE, "input_prefix"},
        {"{\"input_suffix\":{}}", ERR_TYPE, "input_suffix"},
        {"{\"prompt\":[1]}", ERR_TYPE, "prompt"},
        {"{\"n_predict\":-1}", 0, ""},
        {"{\"n_predict\":-2}", ERR_INT_MIN, "n_predict"},
        {"{\"n\":2}", ERR_VALUE, "n"},
        {"{\"input_extra\":\"x\"}", ERR_TYPE, "input_extra"},
        {"{\"input_extra\":[null]}", ERR_TYPE, "input_extra"},
        {"{\"input_extra\":[{\"text\":1}]}", ERR_TYPE, "input_extra.text"},
        {"{\"input_extra\":[{\"filename\":\"a\"}]}", ERR_MISSING, "input_extra.text"},
        {"{\"top_k\":40,\"cache_prompt\":true,\"samplers\":[\"top_k\"]}", 0, ""},
        {"{\"grammar\":\"root ::= x\"}", ERR_UNSUPPORTED_PARAM, "grammar"},
    };
    EXPECT_ROWS(INFILL, rows, true);
    const char *text;
    size_t size;
    EXPECT_INT(parse_text(INFILL, "{\"input_prefix\":\"b\",\"input_suffix\":\"d\",\"prompt\":\"c\","
                                  "\"n_predict\":7,\"input_extra\":[{\"text\":\"a\"}]}"), 0);
    EXPECT(request.max_tokens == 7 && request.suffix_size == 1 && request.suffix[0] == 'd');
    EXPECT_INT(request_infill_prefix(&request, &arena, &text, &size, &error), 0);
    EXPECT(size == 4 && !memcmp(text, "a\nbc", 4));
    EXPECT_INT(parse_text(INFILL, "{\"max_tokens\":3}"), 0);
    EXPECT(request.max_tokens == 3 && request.suffix != NULL && request.suffix_size == 0);
    EXPECT_INT(request_infill_prefix(&request, &arena, &text, &size, &error), 0);
    EXPECT_INT(size, 0);
}

TEST(stop_ids_are_added)
{
    static const int32_t more[] = {7, 8};
    EXPECT_INT(parse(COMPLETION, "\"stop_token_ids\":[5]"), 0);
    EXPECT_INT(request_add_stop_ids(&request, more, 2, &arena, &error), 0);
    EXPECT(request.n_stop_token_ids == 3 && request.stop_token_ids[0] == 5);
    EXPECT(request.stop_token_ids[1] == 7 && request.stop_token_ids[2] == 8);
    EXPECT_INT(parse(COMPLETION, ""), 0);
    EXPECT_INT(request_add_stop_ids(&request, more, 0, &arena, &error), 0);
    EXPECT_INT(request.n_stop_token_ids, 0);
    EXPECT_INT(request_add_stop_ids(&request, more, 1, &arena, &error), 0);
    EXPECT(request.n_stop_token_ids == 1 && request.stop_token_ids[0] == 7);
}
