/* toolcall_data_test: published chat templates write an assistant's tool calls as their models were
 * trained to; the parser, set up from the template alone, must read the same calls back. And where a
 * template's dialect is not ours, none must be found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/chat.h"
#include "server/toolcall.h"
#include "tests/test.h"

enum { CALLS_MAX = 4, OUT_BYTES = 1 << 16 };

static struct {
    char name[64];
    struct buf arguments;
} calls[CALLS_MAX];
static int n_calls;

static void sink(void *user, const struct toolcall *t, enum toolcall_kind kind, const char *bytes,
                 size_t n)
{
    (void)user;
    (void)t;
    if (kind == TOOLCALL_NAME) {
        EXPECT(n_calls < CALLS_MAX);
        snprintf(calls[n_calls++].name, sizeof calls[0].name, "%.*s", (int)n, bytes);
    } else if (kind == TOOLCALL_ARGUMENTS) {
        buf_add(&calls[n_calls - 1].arguments, bytes, n);
    }
}

static uint64_t zero(void)
{
    return 0;
}

/* A question, and for n_calls > 0 the calls that answer it; "" when the template refuses. */
static void render(const struct chat *chat, int n, struct buf *out)
{
    static const char tools[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","
        "\"description\":\"c\"}},\"required\":[\"city\"]}}}]";
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Weather?");
    json_t *sent = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(
            sent, json_pack("{s:s, s:s, s:{s:s, s:{s:s, s:[{s:i}]}}}", "id",
                            i ? "abcdefgh1" : "abcdefgh0", "type", "function", "function", "name",
                            "get_weather", "arguments", "city", "Par\xC3\xADs \"]}", "list", "a", i));
    if (n)
        json_array_append_new(messages, json_pack("{s:s, s:s, s:O}", "role", "assistant", "content",
                                                  "", "tool_calls", sent));
    json_t *list = json_loads(tools, 0, NULL);
    struct chat_request request = {
        .messages = messages, .tools = list, .add_generation_prompt = !n};
    struct template_text text = {0};
    struct err err = {0};
    int code = chat_render(chat, &request, &text, &err);
    if (code)
        printf("    %s\n", err.text);
    EXPECT_INT(code, 0);
    buf_init(out, 0);
    buf_add(out, text.text.data, text.text.size);
    template_text_free(&text);
    json_decref(messages);
    json_decref(sent);
    json_decref(list);
}

static void read_back(const struct toolcall_format *format, const char *text, int n)
{
    static const char *const names[] = {"get_weather"};
    struct toolcall_options options = {.format = format,
                                       .calls = true,
                                       .by_text = true,
                                       .names = names,
                                       .n_names = 1,
                                       .random = zero};
    n_calls = 0;
    struct toolcall *t = toolcall_open(&options, OUT_BYTES, sink, NULL);
    toolcall_text(t, text, strlen(text));
    toolcall_end(t);
    EXPECT(toolcall_complete(t));
    toolcall_close(t);
    EXPECT_INT(n_calls, n);
    for (int i = 0; i < n_calls; i++) {
        json_t *wanted =
            json_pack("{s:s, s:[{s:i}]}", "city", "Par\xC3\xADs \"]}", "list", "a", i);
        json_t *got = json_loadb(calls[i].arguments.data, calls[i].arguments.size, 0, NULL);
        EXPECT_STR(calls[i].name, "get_weather");
        EXPECT(json_equal(wanted, got));
        json_decref(wanted);
        json_decref(got);
        buf_free(&calls[i].arguments);
    }
}

/* The template beside a tokenizer_config.json that names <s> and </s>. */
static struct chat *open_template(const char *file)
{
    static char path[256], text[1 << 18];
    static const char tokens[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";
    struct source *source = NULL;
    struct chat *chat = NULL;
    struct err err = {0};
    snprintf(path, sizeof path, "chat-templates/%s", file);
    FILE *in = fopen(test_data(path), "rb");
    EXPECT(in != NULL);
    size_t n = fread(text, 1, sizeof text, in);
    fclose(in);
    struct source_file files[] = {
        {"chat_template.jinja", (const unsigned char *)text, n},
        {"tokenizer_config.json", (const unsigned char *)tokens, sizeof tokens - 1}};
    EXPECT_INT(source_open_memory("template", files, 2, &source, &err), 0);
    int code = chat_open(source, NULL, NULL, NULL, NULL, &chat, &err);
    if (code)
        printf("    %s: %s\n", file, err.text);
    EXPECT_INT(code, 0);
    source_close(source);
    return chat;
}

TEST(templates_are_read_back)
{
    if (!test_data("chat-templates"))
        SKIP("SIROCCO_TEST_DATA has no chat-templates");
    static const struct {
        const char *file, *dialect, *thinking;
        int n; /* calls that the template writes in one turn */
    } rows[] = {
        {"llama.cpp/Mistral-Small-3.2-24B-Instruct-2506.jinja", "mistral", NULL, 2},
        {"llama.cpp/mistralai-Mistral-Nemo-Instruct-2407.jinja", "mistral", NULL, 2},
        {"llama.cpp/unsloth-mistral-Devstral-Small-2507.jinja", "mistral", NULL, 2},
        {"mistral-common/v11.jinja", "mistral", NULL, 2},
        {"mistral-common/v11_think.jinja", "mistral", "think", 2},
        {"mistral-common/v13_image_think.jinja", "mistral", "mistral", 2},
        {"mistral-common/v15_image_think.jinja", "mistral", "mistral", 2},
        {"llama.cpp/NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja", "hermes", NULL, 2},
        {"mistral.rs/nousresearch_hermes2_pro_tool_use.jinja", "hermes", NULL, 2},
        {"llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja", "hermes", NULL, 2},
        {"llama.cpp/Qwen-Qwen3-0.6B.jinja", "hermes", "think", 2},
        {"llama.cpp/Qwen-QwQ-32B.jinja", "hermes", "think", 2},
        {"llama.cpp/Reka-Edge.jinja", "hermes", "think", 2},
        {"llama.cpp/unsloth-Apriel-1.5.jinja", "apriel", NULL, 2},
        {"llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja", "llama3", NULL, 1},
        {"llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja", "llama3", NULL, 1},
        {"llama.cpp/meta-llama-Llama-3.3-70B-Instruct.jinja", "llama3", NULL, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct toolcall_format format;
        struct buf before, after;
        struct chat *chat = open_template(rows[i].file);
        EXPECT_INT(toolcall_detect(&format, chat, NULL, NULL, NULL, NULL), 0);
        EXPECT_STR(format.dialect ? format.dialect->name : "", rows[i].dialect);
        EXPECT_STR(format.thinking ? format.thinking->name : "",
                   rows[i].thinking ? rows[i].thinking : "");
        EXPECT(chat_takes_tools(chat));
        render(chat, 0, &before);
        render(chat, rows[i].n, &after);
        size_t common = 0; /* where the answer begins, or, where prompts open reasoning, its marker */
        while (common < before.size && before.data[common] == after.data[common])
            common++;
        const char *at = after.data + common;
        if (!format.dialect->bare)
            at = strstr(after.data + (common > 8 ? common - 8 : 0), format.dialect->open);
        EXPECT(at != NULL);
        read_back(&format, at, rows[i].n);
        buf_free(&before);
        buf_free(&after);
        chat_close(chat);
    }
}

TEST(other_dialects_are_not_taken_for_ours)
{
    if (!test_data("chat-templates"))
        SKIP("SIROCCO_TEST_DATA has no chat-templates");
    static const char *const files[] = {
        "llama.cpp/GLM-4.6.jinja",
        "llama.cpp/Qwen3-Coder.jinja",
        "llama.cpp/Qwen3.5-4B.jinja",
        "llama.cpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja",
        "llama.cpp/meetkai-functionary-medium-v3.1.jinja",
        "llama.cpp/deepseek-ai-DeepSeek-V3.1.jinja",
        "llama.cpp/moonshotai-Kimi-K2.jinja",
        "llama.cpp/google-gemma-4-31B-it.jinja",
        "llama.cpp/openai-gpt-oss-120b.jinja",
        "ollama/laguna_v8_chat_template.jinja2",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct toolcall_format format;
        struct chat *chat = open_template(files[i]);
        EXPECT_INT(toolcall_detect(&format, chat, NULL, NULL, NULL, NULL), 0);
        if (format.dialect)
            printf("    %s: %s\n", files[i], format.dialect->name);
        EXPECT(format.dialect == NULL);
        chat_close(chat);
    }
}
