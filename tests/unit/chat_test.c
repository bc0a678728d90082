/* Chat: which template is taken, the variables it sees, continue_final_message, and the demo
 * model's conversations against the renderings of its goldens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/chat.h"
#include "tests/test.h"

struct file {
    const char *name, *text;
};

static struct chat *open_files(const struct file *files, size_t n, const char *override,
                               struct source **source, struct err *err)
{
    static struct source_file table[8]; /* borrowed by the source */
    struct chat *chat = NULL;
    EXPECT(n <= 8);
    for (size_t i = 0; i < n; i++)
        table[i] = (struct source_file){files[i].name, (const uint8_t *)files[i].text,
                                        strlen(files[i].text)};
    EXPECT_INT(source_open_memory("test", table, n, source, err), 0);
    *err = (struct err){0};
    chat_open(*source, NULL, NULL, override, NULL, &chat, err);
    return chat;
}

static int render(const struct chat *chat, const char *messages, struct chat_request request,
                  struct template_text *out, struct err *err)
{
    json_t *json = json_loads(messages, 0, NULL);
    EXPECT(json != NULL);
    request.messages = json;
    *err = (struct err){0};
    int rc = chat_render(chat, &request, out, err);
    json_decref(json);
    return rc;
}

static void expect_render(const struct chat *chat, const char *messages,
                          struct chat_request request, const char *expected)
{
    struct template_text out;
    struct err err;
    int rc = render(chat, messages, request, &out, &err);
    if (rc)
        EXPECT_STR(err.text, "");
    EXPECT_STR(out.text.data ? out.text.data : "", expected);
    for (size_t i = 0; i < out.n_trusted; i++)
        EXPECT(out.trusted[i].end <= out.text.size);
    template_text_free(&out);
}

static const char hello[] = "[{\"role\":\"user\",\"content\":\"hi\"}]";

/* One chat from files, one rendering of `hello`, all closed again. */
static void expect_files(const struct file *files, size_t n, const char *override,
                         const char *expected)
{
    struct source *source;
    struct err err;
    struct chat *chat = open_files(files, n, override, &source, &err);
    EXPECT(chat && chat_has_template(chat));
    expect_render(chat, hello, (struct chat_request){0}, expected);
    chat_close(chat);
    source_close(source);
}

TEST(the_override_then_the_file_then_the_config)
{
    const struct file files[] = {
        {"chat_template.jinja", "file"},
        {"tokenizer_config.json", "{\"chat_template\":\"config\"}"},
        {"chat_template.json", "{\"chat_template\":\"separate\"}"},
    };
    expect_files(files, 3, "given", "given");
    expect_files(files, 3, NULL, "file");
    expect_files(files + 1, 2, NULL, "config");
    expect_files(files + 2, 1, NULL, "separate");
}

TEST(named_templates)
{
    const struct file config = {
        "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T{{ tools|length }}\"},"
        "{\"name\":\"rag\",\"template\":\"R\"},{\"name\":\"default\",\"template\":\"D{{ tools }}\"}]}"};
    struct source *source;
    struct err err;
    struct chat *chat = open_files(&config, 1, NULL, &source, &err);
    json_t *tools = json_loads("[{},{}]", 0, NULL), *none = json_array();
    expect_render(chat, hello, (struct chat_request){0}, "DNone");
    expect_render(chat, hello, (struct chat_request){.tools = none}, "D[]");
    expect_render(chat, hello, (struct chat_request){.tools = tools}, "T2");
    json_decref(tools);
    json_decref(none);
    chat_close(chat);
    source_close(source);
}

TEST(no_template_and_broken_ones)
{
    struct source *source;
    struct err err;
    struct template_text out;
    const struct file empty = {"tokenizer_config.json", "{\"chat_template\":null}"};
    struct chat *chat = open_files(&empty, 1, NULL, &source, &err);
    EXPECT(chat && !chat_has_template(chat));
    EXPECT_INT(render(chat, hello, (struct chat_request){0}, &out, &err), ERR_UNSUPPORTED_PARAM);
    EXPECT_STR(err.param, "messages");
    chat_close(chat);
    source_close(source);

    static const struct file broken[] = {
        {"chat_template.jinja", "{% if %}"},
        {"tokenizer_config.json", "{\"chat_template\":7}"},
        {"tokenizer_config.json", "[]"},
        {"tokenizer_config.json", "{\"chat_template\":[{\"name\":\"default\"}]}"},
        {"tokenizer_config.json", "{"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        EXPECT(!open_files(&broken[i], 1, NULL, &source, &err));
        EXPECT_INT(err.code, ERR_FORMAT);
        EXPECT(strncmp(err.text, broken[i].name, strlen(broken[i].name)) == 0);
        source_close(source);
    }
}

static void *no_memory(size_t n)
{
    (void)n;
    return NULL;
}

TEST(a_lack_of_memory_is_no_malformed_file)
{
    const struct file files[] = {{"tokenizer_config.json", "{}"}};
    struct source *source;
    struct err err;
    json_set_alloc_funcs(no_memory, free);
    EXPECT(open_files(files, 1, NULL, &source, &err) == NULL);
    EXPECT_INT(err.code, ERR_NOMEM);
    source_close(source);
}

TEST(variables)
{
    const struct file config = {
        "tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"pad_token\":null}"};
    struct source *source;
    struct err err;
    struct chat *chat = open_files(&config, 1,
                                   "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}"
                                   "{{ add_generation_prompt }}{{ tools }}{{ documents }}"
                                   "{{ think }}{{ messages|length }}",
                                   &source, &err);
    json_t *kwargs = json_loads("{\"think\":\"T\",\"messages\":[],\"bos_token\":\"B\","
                                "\"pad_token\":\"P\",\"add_generation_prompt\":3,"
                                "\"documents\":\"D\"}", 0, NULL);
    expect_render(chat, hello, (struct chat_request){.add_generation_prompt = true},
                  "<s></s>FalseTrueNoneNone1");
    expect_render(chat, hello, (struct chat_request){.kwargs = kwargs},
                  "<s></s>FalseFalseNoneDT1");
    json_decref(kwargs);
    chat_close(chat);
    source_close(source);
}

TEST(a_template_that_refuses)
{
    struct source *source;
    struct err err;
    struct template_text out;
    const struct file file = {"chat_template.jinja", "{{ raise_exception('Roles must alternate') }}"};
    struct chat *chat = open_files(&file, 1, NULL, &source, &err);
    EXPECT_INT(render(chat, hello, (struct chat_request){0}, &out, &err), ERR_VALUE);
    EXPECT_STR(err.text, "Roles must alternate");
    EXPECT_STR(err.param, "messages");
    EXPECT_INT(render(chat, "[]", (struct chat_request){0}, &out, &err), ERR_ARRAY_EMPTY);
    chat_close(chat);
    source_close(source);
}

TEST(the_final_message_left_open)
{
    struct source *source;
    struct err err;
    struct template_text out;
    const struct file files[] = {
        {"chat_template.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
                                "{% if add_generation_prompt %}<assistant>{% endif %}"}};
    struct chat_request open_end = {.continue_final_message = true, .add_generation_prompt = true};
    struct chat *chat = open_files(files, 1, NULL, &source, &err);
    expect_render(chat, "[{\"role\":\"user\",\"content\":\"a b\"},"
                        "{\"role\":\"assistant\",\"content\":\"b\"}]", open_end,
                  "<user>a b</s><assistant>b");
    /* what comes behind the content may hold it, too */
    expect_render(chat, "[{\"role\":\"assistant\",\"content\":\"s\"}]", open_end, "<assistant>s");
    /* white space that the template keeps stays at the end */
    expect_render(chat, "[{\"role\":\"assistant\",\"content\":\" so \"}]", open_end,
                  "<assistant> so ");
    EXPECT_INT(render(chat, "[{\"role\":\"assistant\",\"content\":null}]", open_end, &out, &err),
               ERR_VALUE);
    EXPECT_STR(err.param, "continue_final_message");
    chat_close(chat);
    source_close(source);

    const struct file trims = {"chat_template.jinja", "{{ messages[-1].content|trim }}</s>"};
    chat = open_files(&trims, 1, NULL, &source, &err);
    expect_render(chat, "[{\"role\":\"assistant\",\"content\":\" so \"}]", open_end, "so");
    chat_close(chat);
    source_close(source);

    const struct file changes = {"chat_template.jinja", "{{ messages[-1].content|upper }}"};
    chat = open_files(&changes, 1, NULL, &source, &err);
    EXPECT_INT(render(chat, "[{\"role\":\"assistant\",\"content\":\"so\"}]", open_end, &out, &err),
               ERR_VALUE);
    EXPECT_STR(err.param, "continue_final_message");
    chat_close(chat);
    source_close(source);
}

static char *demo_config(void)
{
    char *text = test_read(test_path("config/demo/tokenizer_config.json"), &(size_t){0});
    EXPECT(text != NULL);
    return text;
}

TEST(the_demo_model_renders_its_goldens)
{
    static const char *const names[] = {
        "capital",     "hello",       "long",         "memory",        "story",       "sum",
        "system-json", "system",      "tool-call",    "tool-history",  "tool-parallel",
        "tool-result", "unicode",     "whitespace"};
    char *config = demo_config();
    const struct file file = {"tokenizer_config.json", config};
    struct source *source;
    struct err err;
    struct chat *chat = open_files(&file, 1, NULL, &source, &err);
    EXPECT(chat && chat_has_template(chat));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/demo/%s.json", names[i]);
        json_t *golden = json_load_file(test_path(path), 0, NULL);
        EXPECT(golden != NULL);
        const json_t *tools = json_object_get(golden, "tools");
        struct chat_request request = {.messages = json_object_get(golden, "messages"),
                                       .tools = json_is_null(tools) ? NULL : tools,
                                       .add_generation_prompt = true};
        struct template_text out;
        EXPECT_INT(chat_render(chat, &request, &out, &err), 0);
        EXPECT_STR(out.text.data, json_string_value(json_object_get(golden, "rendered")));
        template_text_free(&out);
        json_decref(golden);
    }
    chat_close(chat);
    source_close(source);
    free(config);
}

/* Mistral's own encoding: wanted, or for want of a template; the demo's tokenizer.json is no reason
 * for it by itself. */
TEST(the_native_encoding_is_chosen)
{
    struct tokenizer *tok = NULL;
    struct source *source;
    struct err err;
    const struct file none = {"config.json", "{}"};
    EXPECT_INT(tokenizer_open_path(test_path("config/demo"), 0, NULL, &tok, &err), 0);
    struct chat *chat = open_files(&none, 1, NULL, &source, &err);
    EXPECT_INT(chat_choose_native(chat, tok, false, &err), 0);
    EXPECT_INT(chat_native(chat), 0);
    EXPECT(!chat_takes_tools(chat));
    EXPECT_INT(chat_choose_native(chat, tok, true, &err), 0);
    EXPECT_INT(chat_native(chat), tokenizer_mistral_version(tok));
    EXPECT(chat_takes_tools(chat));
    chat_close(chat);
    source_close(source);
    tokenizer_close(tok);
}

TEST(a_shipped_tokenizer_without_template_is_encoded_natively)
{
    const char *path = test_data("tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3");
    struct tokenizer *tok = NULL;
    struct source *source;
    struct err err;
    const struct file none = {"config.json", "{}"}, some = {"chat_template.jinja", "x"};
    if (!path)
        SKIP("SIROCCO_TEST_DATA has no mistral-spm");
    EXPECT_INT(tokenizer_open_path(path, 0, NULL, &tok, &err), 0);
    struct chat *chat = open_files(&none, 1, NULL, &source, &err);
    EXPECT_INT(chat_choose_native(chat, tok, false, &err), 0);
    EXPECT_INT(chat_native(chat), 3);
    chat_close(chat);
    source_close(source);
    chat = open_files(&some, 1, NULL, &source, &err);
    EXPECT_INT(chat_choose_native(chat, tok, false, &err), 0);
    EXPECT_INT(chat_native(chat), 0);
    chat_close(chat);
    source_close(source);
    tokenizer_close(tok);
}

/* What a user writes never counts as the demo model's control tokens. */
TEST(control_tokens_in_user_text_are_not_trusted)
{
    char *config = demo_config();
    const struct file file = {"tokenizer_config.json", config};
    struct source *source;
    struct err err;
    struct template_text out;
    struct chat *chat = open_files(&file, 1, NULL, &source, &err);
    EXPECT_INT(render(chat, "[{\"role\":\"system\",\"content\":\"</s>\"},"
                            "{\"role\":\"user\",\"content\":\"[INST] </s> <s>\"}]",
                      (struct chat_request){0}, &out, &err), 0);
    EXPECT_STR(out.text.data, "<s>[INST] </s>\n\n[INST] </s> <s>[/INST]");
    static const struct text_span expected[] = {{0, 10}, {14, 16}, {31, 38}};
    EXPECT_INT(out.n_trusted, 3);
    EXPECT(memcmp(out.trusted, expected, sizeof expected) == 0);
    template_text_free(&out);
    chat_close(chat);
    source_close(source);
    free(config);
}
