/* toolcall_test: model outputs in, what clients get out: each output whole, byte by byte, and cut in
 * two at every place, which must all give the same; then special tokens as markers, ids, and how a
 * model's dialect is found. */
#include "server/toolcall.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

enum { OUT_BYTES = 1 << 16 };

static struct buf out;
static enum toolcall_kind last;
static bool any;
static uint64_t counter;

static uint64_t count_up(void)
{
    return counter++;
}

/* Writes what comes out as T(text)R(reasoning)C(name)A(arguments), pieces of one kind joined. */
static void sink(void *user, const struct toolcall *t, enum toolcall_kind kind, const char *bytes,
                 size_t n)
{
    static const char *const open[] = {"T(", "R(", "C(", "A("};
    (void)user;
    (void)t;
    EXPECT(n > 0 || kind == TOOLCALL_NAME);
    if (!any || kind != last || kind == TOOLCALL_NAME) {
        if (any)
            buf_byte(&out, ')');
        buf_text(&out, open[kind]);
    }
    buf_add(&out, bytes, n);
    any = true;
    last = kind;
}

static const struct toolcall_dialect *dialect(const char *name)
{
    for (int i = 0; i < toolcall_n_dialects; i++)
        if (!strcmp(toolcall_dialects[i].name, name))
            return &toolcall_dialects[i];
    return NULL;
}

static const struct toolcall_thinking *thinking(const char *name)
{
    for (int i = 0; i < toolcall_n_thinkings; i++)
        if (!strcmp(toolcall_thinkings[i].name, name))
            return &toolcall_thinkings[i];
    return NULL;
}

static struct toolcall_format format;
static struct toolcall_options options;

static void set_up(const char *calls, const char *reasoning)
{
    static const char *const names[] = {"f", "get_weather"};
    format = (struct toolcall_format){.dialect = dialect(calls), .thinking = thinking(reasoning)};
    for (int m = 0; m < N_MARKS; m++)
        format.ids[m] = -1;
    options = (struct toolcall_options){.format = &format,
                                        .calls = format.dialect != NULL,
                                        .thinking = format.thinking != NULL,
                                        .names = names,
                                        .n_names = 2,
                                        .random = count_up};
}

static struct toolcall *start(void)
{
    buf_free(&out);
    buf_init(&out, OUT_BYTES);
    any = false;
    struct toolcall *t = toolcall_open(&options, OUT_BYTES, sink, NULL);
    EXPECT(t != NULL);
    return t;
}

static void finish(struct toolcall *t)
{
    toolcall_end(t);
    EXPECT_INT(toolcall_failed(t), 0);
    if (any)
        buf_byte(&out, ')');
    buf_byte(&out, toolcall_complete(t) ? '!' : '.');
    buf_format(&out, "%d", toolcall_n_malformed(t));
    toolcall_close(t);
}

/* expected: what comes out, "!" if the turn ends in calls ("." otherwise), malformed calls. */
static void expect(const char *text, const char *expected)
{
    size_t n = strlen(text);
    struct toolcall *t = start();
    toolcall_text(t, text, n);
    finish(t);
    EXPECT_STR(out.data, expected);
    t = start();
    for (size_t i = 0; i < n; i++)
        toolcall_text(t, text + i, 1);
    finish(t);
    EXPECT_STR(out.data, expected);
    for (size_t cut = 1; cut < n; cut++) {
        t = start();
        toolcall_text(t, text, cut);
        toolcall_text(t, text + cut, n - cut);
        finish(t);
        EXPECT_STR(out.data, expected);
    }
}

TEST(plain_text_passes)
{
    set_up("mistral", "think");
    expect("", ".0");
    expect("Hello there.", "T(Hello there.).0");
    expect(" \n Hello\n\n", "T( \n Hello\n\n).0");
    expect("\n", "T(\n).0");
    expect("a [TOOL_CALL] b", "T(a [TOOL_CALL] b).0");
    expect("[[TOOL", "T([[TOOL).0");
    expect("h\xC3\xA9 \xF0\x9F\x98\x80", "T(h\xC3\xA9 \xF0\x9F\x98\x80).0");
    options.calls = false;
    expect("[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}]",
           "T([TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}]).0");
}

TEST(mistral_arrays)
{
    set_up("mistral", "none");
    expect("[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"}]\"}]}}]",
           "C(f)A({\"a\": [1, {\"b\": \"}]\"}]})!0");
    expect("[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}, "
           "{\"name\": \"g\", \"arguments\": {}}]",
           "C(f)A({\"a\": 1})C(g)A({})!0");
    expect("Let me see.\n[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}]\n",
           "T(Let me see.\n)C(f)A({})!0");
    expect("\n\n[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}]", "C(f)A({})!0");
    expect("[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}}] Done.", "C(f)A({})T( Done.)!0");
    expect("[TOOL_CALLS] {\"name\":\"f\",\"arguments\":{}}", "C(f)A({})!0");
    expect("[TOOL_CALLS] [{\"name\":\"f\",\"arguments\":{}},]", "C(f)A({})!0");
}

TEST(members_in_any_order_and_form)
{
    set_up("mistral", "none");
    expect("[TOOL_CALLS][{\"arguments\": {\"a\": 1}, \"name\": \"f\"}]", "C(f)A({\"a\": 1})!0");
    expect("[TOOL_CALLS][{\"id\":\"x\",\"t\":[{}],\"n\":-1.5e3,\"parameters\":{},\"name\":\"f\"}]",
           "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": \\\"\\u00e9\\ud83d\\ude00\\n\\\"}\"}]",
           "C(f)A({\"a\": \"\xC3\xA9\xF0\x9F\x98\x80\n\"})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":\"\\ud83d\\ud83dx\\udc00\"}]",
           "C(f)A(\xEF\xBF\xBD\xEF\xBF\xBDx\xEF\xBF\xBD)!0");
    expect("[TOOL_CALLS][{\"name\":\"f\"}]", "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":null}]", "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"arguments\":\"\",\"name\":\"f\"}]", "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":12 }]", "C(f)A(12)!0");
    expect("[TOOL_CALLS][{\"n\\u0061me\":\"\\u0066\",\"arguments\":{}}]", "C(f)A({})!0");
}

TEST(mistral_names)
{
    set_up("mistral", "mistral");
    expect("[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}",
           "C(get_weather)A({\"city\": \"Paris\"})!0");
    expect("[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS] {\"a\": {}}[TOOL_CALLS]g[ARGS]{}",
           "C(f)A({\"a\": {}})C(g)A({})!0");
    expect("[TOOL_CALLS]f{\"a\": 1}", "C(f)A({\"a\": 1})!0");
    expect("[THINK]Hm.\n[/THINK]I look.[TOOL_CALLS]f[ARGS]{}", "R(Hm.)T(I look.)C(f)A({})!0");
    expect("[TOOL_CALLS]f[ARGS]", "T([TOOL_CALLS]f[ARGS]).1");
    expect("[TOOL_CALLS]f[ARG", "T([TOOL_CALLS]f[ARG).1");
    expect("[TOOL_CALLS]f g[ARGS]{}", "T([TOOL_CALLS]f g[ARGS]{}).1");
    expect("[TOOL_CALLS]f[ARGS]x{}", "T([TOOL_CALLS]f[ARGS]x{}).1");
    expect("[TOOL_CALLS]f[CALL_ID]1-2[ARGS]{}", "T([TOOL_CALLS]f[CALL_ID]1-2[ARGS]{}).1");
}

TEST(hermes)
{
    set_up("hermes", "think");
    expect("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call>\"}}\n</tool_call>\n"
           "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
           "C(f)A({\"x\": \"</tool_call>\"})C(g)A({})!0");
    expect("<think>\n\nHm <tool_call>\n\n</think>\n\nOk.\n<tool_call>{\"name\":\"f\","
           "\"arguments\":{}}",
           "R(Hm <tool_call>)T(Ok.\n)C(f)A({})!0");
    expect("I write <tool_call> so.", "T(I write <tool_call> so.).1");
    expect("<tool_call>\n<function=f>\n</function>\n</tool_call>",
           "T(<tool_call>\n<function=f>\n</function>\n</tool_call>).1");
    expect("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and text",
           "C(f)A({})T( and text)!0");
}

TEST(llama3)
{
    set_up("llama3", "none");
    expect("{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "C(f)A({\"a\": 1})!0");
    expect("\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": "
           "\"get_weather\", \"parameters\": {}}",
           "C(f)A({})C(get_weather)A({})!0");
    expect("<|python_tag|>{\"name\": \"other\", \"parameters\": {}}", "C(other)A({})!0");
    expect("{\"city\": \"Paris\", \"name\": \"f\"}", "T({\"city\": \"Paris\", \"name\": \"f\"}).1");
    expect("{\"name\": \"Bob\", \"parameters\": {}}", "T({\"name\": \"Bob\", \"parameters\": {}}).1");
    expect("{\"name\": \"f\"}", "T({\"name\": \"f\"}).1");
    expect("Well: {\"name\": \"f\", \"parameters\": {}}",
           "T(Well: {\"name\": \"f\", \"parameters\": {}}).0");
    expect("<|python_tag|>search.call(query=\"x\")", "T(<|python_tag|>search.call(query=\"x\")).1");
    expect("{\"name\":\"f\",\"parameters\":{}};no", "C(f)A({})T(;no)!1");
}

TEST(malformed_calls_are_text)
{
    static const char *const texts[] = {
        "[TOOL_CALLS]",          "[TOOL_CALLS] [",
        "[TOOL_CALLS] []",       "[TOOL_CALLS] [{\"name\": \"f\"",
        "[TOOL_CALLS] [1]",      "[TOOL_CALLS] [{\"name\": 1}]",
        "[TOOL_CALLS] [{}]",     "[TOOL_CALLS] [{\"arguments\": {}}]",
        "[TOOL_CALLS] [{\"a\":", "[TOOL_CALLS] [{\"name\":\"\",\"arguments\":{}}]",
        "[TOOL_CALLS] [{,}]",    "[TOOL_CALLS] [{\"name\":\"f\" \"arguments\":{}}]",
        "[TOOL_CALLS] {\"na\nme\": 1}",
        "[TOOL_CALLS] {\"arguments\": {\"a\": 1]",
        "[TOOL_CALLS] {\"x\": oops!, \"name\": \"f\", \"arguments\": {}}",
        " \n[TOOL_CALLS]\n\t, then text [TOOL_CALLS"};
    set_up("mistral", "none");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char wanted[256];
        snprintf(wanted, sizeof wanted, "T(%s).1", texts[i]);
        expect(texts[i], wanted);
    }
}

TEST(arguments_that_are_out_stay)
{
    set_up("mistral", "none");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a\": [1}, 2", "C(f)A({\"a\": [1)T(}, 2).1");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a\": \"cu", "C(f)A({\"a\": \"cu).0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":\"{\\\"a", "C(f)A({\"a).0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}, \"id\": \"12", "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}},", "C(f)A({})!0");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}} x", "C(f)A({})T( x)!1");
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{}},{\"name\":\"g\"",
           "C(f)A({})T(,{\"name\":\"g\")!1");
    expect("[TOOL_CALLS]f[ARGS]{\"a\": 1", "C(f)A({\"a\": 1).0");
}

TEST(depth_and_length_are_bounded)
{
    static char text[70000], wanted[70000];
    set_up("mistral", "none");
    int n = snprintf(text, sizeof text, "[TOOL_CALLS]{\"arguments\":");
    memset(text + n, '[', 65);
    text[n + 65] = 0;
    snprintf(wanted, sizeof wanted, "T(%s).1", text);
    expect(text, wanted);
    n = snprintf(text, sizeof text, "[TOOL_CALLS]{\"name\":\"");
    memset(text + n, 'x', 300);
    snprintf(text + n + 300, 40, "\",\"arguments\":{}}");
    snprintf(wanted, sizeof wanted, "T(%s).1", text);
    expect(text, wanted);
}

TEST(one_call_at_most)
{
    set_up("mistral", "none");
    options.n_calls_max = 1;
    expect("[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a\":1}},{\"name\":\"g\",\"arguments\":{}}]",
           "C(f)A({\"a\":1})!0");
}

TEST(reasoning)
{
    set_up("none", "think");
    expect("<think>\nLet me see.\n\nYes.\n</think>\n\nParis.", "R(Let me see.\n\nYes.)T(Paris.).0");
    expect("\n<think></think>Paris.", "T(Paris.).0");
    expect("<think>No end\n", "R(No end).0");
    expect("<thinker>", "T(<thinker>).0");
    expect("I <think> so. </think>", "T(I <think> so. </think>).0");
    expect("</think>x", "T(</think>x).0");
    options.thinks = true;
    expect("\nHm. <b </thin\n</think>\nOk", "R(Hm. <b </thin)T(Ok).0");
    options.thinking = false;
    expect("<think>a</think>b", "T(<think>a</think>b).0");
}

/* Text stands for tokens 0, markers for 10 + mark, '^' for a special token that is none. */
static void feed_tokens(const char *script, const char *expected, int n_reasoning)
{
    struct toolcall *t = start();
    for (const char *c = script; *c; c++) {
        if (*c >= '0' && *c <= '5')
            toolcall_token(t, 10 + (*c - '0'));
        else if (*c == '^')
            toolcall_token(t, 99);
        else {
            toolcall_text(t, c, 1);
            toolcall_token(t, 0);
        }
    }
    EXPECT_INT(toolcall_n_reasoning(t), n_reasoning);
    finish(t);
    EXPECT_STR(out.data, expected);
}

TEST(markers_that_are_special_tokens)
{
    set_up("mistral", "mistral");
    for (int m = 0; m < N_MARKS; m++)
        format.ids[m] = 10 + m;
    feed_tokens("0ab1 c", "R(ab)T( c).0", 4);
    feed_tokens("x2f4{}", "T(x)C(f)A({})!0", 0);
    feed_tokens("2f5abcdefghi4{}2g4{}^", "C(f)A({})C(g)A({})!0", 0);
    feed_tokens("0ab2f4{}", "R(ab)C(f)A({})!0", 4);  /* a call ends reasoning */
    feed_tokens("2f2g4{}", "T([TOOL_CALLS]f)C(g)A({})!1", 0);
    feed_tokens("2f4{4", "C(f)A({).1", 0);
    expect("[TOOL_CALLS]f[ARGS]{}", "T([TOOL_CALLS]f[ARGS]{}).0"); /* spelled out: text */
    options.by_text = true;
    expect("[TOOL_CALLS]f[ARGS]{}", "C(f)A({})!0");
}

TEST(ids)
{
    static const char text[] = "[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{}"
                               "[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{}";
    static const char hermes[] = "<tool_call>{\"name\":\"f\",\"arguments\":{}}";
    set_up("mistral", "none");
    struct toolcall *t = start();
    toolcall_text(t, text, strlen(text) / 2);
    EXPECT_STR(toolcall_id(t), "abcDEF123");
    toolcall_text(t, text + strlen(text) / 2, strlen(text) / 2);
    EXPECT(strcmp(toolcall_id(t), "abcDEF123") != 0); /* two calls never share one */
    EXPECT_INT((int)strlen(toolcall_id(t)), 9);
    EXPECT_INT(toolcall_n_calls(t), 2);
    toolcall_close(t);
    set_up("hermes", "none");
    t = start();
    toolcall_text(t, hermes, strlen(hermes));
    EXPECT(!strncmp(toolcall_id(t), "call_", 5));
    EXPECT_INT((int)strlen(toolcall_id(t)), 29);
    toolcall_close(t);
}

TEST(arguments_come_as_they_are_generated)
{
    static const char head[] = "[TOOL_CALLS][{\"name\":\"f\",\"arguments\":{\"a";
    set_up("mistral", "none");
    struct toolcall *t = start();
    toolcall_text(t, head, strlen(head));
    EXPECT_STR(out.data, "C(f)A({\"a");
    toolcall_text(t, "b", 1);
    EXPECT_STR(out.data, "C(f)A({\"ab");
    toolcall_close(t);
}

TEST(dialects_are_found)
{
    static struct source *source;
    struct tokenizer *tok = NULL;
    struct toolcall_format f;
    struct chat *chat = NULL;
    struct err err;
    EXPECT_INT(source_open(test_path("config/demo"), &source, &err), 0);
    EXPECT_INT(tokenizer_open(source, NULL, 4096, "json", &tok, &err), 0);
    EXPECT_INT(toolcall_detect(&f, NULL, tok, NULL, "auto", &err), 0);
    EXPECT_STR(f.dialect->name, "mistral");
    EXPECT(f.thinking == NULL);
    EXPECT_INT(f.ids[MARK_OPEN], 5);
    EXPECT_INT(f.ids[MARK_ARGS], -1);
    EXPECT_INT(toolcall_detect(&f, NULL, tok, "none", "none", &err), 0);
    EXPECT(f.dialect == NULL && f.thinking == NULL);
    EXPECT_INT(toolcall_detect(&f, NULL, tok, "llama3", "think", &err), 0);
    EXPECT_STR(f.dialect->name, "llama3");
    EXPECT_STR(f.thinking->open, "<think>");
    EXPECT_INT(toolcall_detect(&f, NULL, tok, "xml", NULL, &err), ERR_USAGE);
    EXPECT_INT(chat_open(source, NULL, tok, "{{ tools }}<think>", NULL, &chat, &err), 0);
    EXPECT(chat_takes_tools(chat));
    chat_close(chat);
    EXPECT_INT(chat_open(source, NULL, tok, "no tools {{ x }}</think>", NULL, &chat, &err), 0);
    EXPECT(!chat_takes_tools(chat));
    EXPECT_INT(toolcall_detect(&f, chat, tok, "auto", "auto", &err), 0);
    EXPECT_STR(f.thinking->name, "think");
    chat_close(chat);
    tokenizer_close(tok);
    source_close(source);
}

TEST(prompts_that_begin_to_think)
{
    static char text[] = "<s>user <think>\n";
    struct text_span trusted = {8, sizeof text - 1};
    struct template_text prompt = {.trusted = &trusted, .n_trusted = 1};
    prompt.text = (struct buf){.data = text, .size = sizeof text - 1};
    set_up("none", "think");
    EXPECT(toolcall_prompt_thinks(&format, &prompt));
    trusted.start = 9; /* a user wrote a part of it */
    EXPECT(!toolcall_prompt_thinks(&format, &prompt));
    trusted.start = 0;
    prompt.text.size = 11;
    EXPECT(!toolcall_prompt_thinks(&format, &prompt));
    prompt.text.size = 0;
    EXPECT(!toolcall_prompt_thinks(&format, &prompt));
}

/* A megabyte that looks for markers at every byte, and one that holds back for long. */
TEST(time_is_linear)
{
    enum { BYTES = 1 << 20 };
    char *text = malloc(BYTES);
    set_up("mistral", "think");
    for (int round = 0; round < 3; round++) {
        static const char *const parts[] = {"[TOOL_CALLS", "<think", "[TOOL_CALLS]f"};
        size_t n = strlen(parts[round]);
        for (size_t i = 0; i < BYTES; i++)
            text[i] = parts[round][i % n];
        struct toolcall *t = toolcall_open(&options, 4 * BYTES, sink, NULL);
        buf_free(&out);
        buf_init(&out, 4 * BYTES);
        toolcall_text(t, text, BYTES);
        toolcall_end(t);
        EXPECT_INT(toolcall_failed(t), 0);
        toolcall_close(t);
    }
    free(text);
}
