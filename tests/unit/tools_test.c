/* tools_test: the tool members of chat requests: what is offered to the template, and what is
 * refused with which code and path. */
#include "server/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

#define F "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"
#define G "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"
#define FG "\"tools\":[" F "," G "]"

static struct tools tools;
static struct arena arena;
static struct err err;

static int parse(const char *members)
{
    static char body[1 << 18];
    snprintf(body, sizeof body, "{%s}", members);
    json_t *root = json_loads(body, 0, NULL);
    EXPECT(root != NULL);
    arena_free(&arena);
    arena_init(&arena, 0);
    memset(&err, 0, sizeof err);
    int code = tools_parse(root, &tools, &arena, &err);
    json_decref(root);
    return code;
}

/* What templates see, as JSON; "" for nothing. */
static void expect_offered(const char *members, const char *expected, int n_names)
{
    EXPECT_INT(parse(members), 0);
    char *text = tools.offered ? json_dumps(tools.offered, JSON_COMPACT) : strdup("");
    EXPECT_STR(text, expected);
    EXPECT_INT(tools.n_names, n_names);
    free(text);
    tools_free(&tools);
}

static void expect_refused(const char *members, int code, const char *param)
{
    EXPECT_INT(parse(members), code);
    EXPECT_STR(err.param, param);
    EXPECT(err.text[0] != 0);
    EXPECT(tools.offered == NULL);
}

#define EMPTY "\"parameters\":{\"type\":\"object\",\"properties\":{}}"
#define F_SEEN "{\"type\":\"function\",\"function\":{\"name\":\"f\"," EMPTY "}}"
#define G_SEEN "{\"type\":\"function\",\"function\":{\"name\":\"g\"," EMPTY "}}"

TEST(templates_see_what_was_sent)
{
    expect_offered("", "", 0);
    expect_offered("\"tools\":[],\"tool_choice\":\"none\"", "", 0);
    expect_offered("\"tools\":null", "", 0);
    expect_offered(FG, "[" F_SEEN "," G_SEEN "]", 2);
    expect_offered("\"tools\":[{\"type\":\"function\",\"function\":{\"description\":\"d\","
                   "\"name\":\"f\",\"strict\":false,\"parameters\":{\"b\":1,\"a\":2}}}]",
                   "[{\"type\":\"function\",\"function\":{\"description\":\"d\",\"name\":\"f\","
                   "\"parameters\":{\"b\":1,\"a\":2}}}]",
                   1);
    EXPECT(tools.parallel && !tools.legacy);
    EXPECT_INT(parse(FG ",\"parallel_tool_calls\":false"), 0);
    EXPECT(!tools.parallel);
    EXPECT_STR(tools.names[1], "g");
    tools_free(&tools);
    EXPECT_STR(tools.names[0], "f"); /* the names outlive the JSON */
}

TEST(the_choice_decides_what_is_offered)
{
    expect_offered(FG ",\"tool_choice\":\"auto\"", "[" F_SEEN "," G_SEEN "]", 2);
    expect_offered(FG ",\"tool_choice\":\"none\"", "", 0);
#define ALLOW(list)                                                                                \
    FG ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\","        \
       "\"tools\":[" list "]}}"
    expect_offered(ALLOW(G), "[" G_SEEN "]", 1);
    expect_offered(ALLOW(F), "[" F_SEEN "]", 1);
    expect_offered(ALLOW(G "," F), "[" F_SEEN "," G_SEEN "]", 2);
    expect_offered(ALLOW(""), "", 0);
    EXPECT_INT(parse(ALLOW(G)), 0);
    EXPECT_STR(tools.names[0], "g");
    tools_free(&tools);
    expect_refused(ALLOW("1"), ERR_TYPE, "tool_choice.allowed_tools.tools[0]");
    expect_refused(ALLOW("{\"type\":\"function\",\"function\":{\"name\":\"h\"}}"), ERR_VALUE,
                   "tool_choice.allowed_tools.tools[0].function.name");
}

TEST(what_needs_constrained_decoding_is_refused)
{
    expect_refused(FG ",\"tool_choice\":\"required\"", ERR_UNSUPPORTED_VALUE, "tool_choice");
    expect_refused(FG ",\"tool_choice\":\"any\"", ERR_UNSUPPORTED_VALUE, "tool_choice");
    expect_refused(FG ",\"tool_choice\":" F, ERR_UNSUPPORTED_VALUE, "tool_choice");
    expect_refused(FG ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":"
                      "\"required\",\"tools\":[" F "]}}",
                   ERR_UNSUPPORTED_VALUE, "tool_choice.allowed_tools.mode");
    expect_refused("\"functions\":[{\"name\":\"f\"}],\"function_call\":{\"name\":\"f\"}",
                   ERR_UNSUPPORTED_VALUE, "function_call");
    expect_refused("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true}}"
                   "]",
                   ERR_UNSUPPORTED_VALUE, "tools[0].function.strict");
}

TEST(errors_name_the_place)
{
    static const struct {
        const char *members;
        int code;
        const char *param;
    } rows[] = {
        {"\"tools\":{}", ERR_TYPE, "tools"},
        {"\"tools\":[1]", ERR_TYPE, "tools[0]"},
        {"\"tools\":[{}]", ERR_MISSING, "tools[0].type"},
        {"\"tools\":[{\"type\":\"custom\"}]", ERR_UNSUPPORTED_VALUE, "tools[0].type"},
        {"\"tools\":[{\"type\":\"x\"}]", ERR_VALUE, "tools[0].type"},
        {"\"tools\":[{\"type\":\"function\"}]", ERR_MISSING, "tools[0].function"},
        {"\"tools\":[{\"type\":\"function\",\"function\":1}]", ERR_TYPE, "tools[0].function"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{}}]", ERR_MISSING,
         "tools[0].function.name"},
        {"\"tools\":[" F ",{\"type\":\"function\",\"function\":{\"name\":\"\"}}]", ERR_VALUE,
         "tools[1].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]", ERR_VALUE,
         "tools[0].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}}]",
         ERR_STRING_LONG, "tools[0].function.name"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]",
         ERR_TYPE, "tools[0].function.parameters"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":1}}]",
         ERR_TYPE, "tools[0].function.description"},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":1}}]", ERR_TYPE,
         "tools[0].function.strict"},
        {"\"tools\":[" F "," F "]", ERR_VALUE, "tools[1].function.name"},
        {FG ",\"functions\":[{\"name\":\"f\"}]", ERR_UNSUPPORTED_PARAM, "functions"},
        {FG ",\"function_call\":\"auto\"", ERR_UNSUPPORTED_PARAM, "function_call"},
        {FG ",\"tool_choice\":\"every\"", ERR_VALUE, "tool_choice"},
        {FG ",\"tool_choice\":1", ERR_TYPE, "tool_choice"},
        {FG ",\"tool_choice\":{}", ERR_MISSING, "tool_choice.type"},
        {FG ",\"tool_choice\":{\"type\":\"function\"}", ERR_MISSING, "tool_choice.function"},
        {FG ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"h\"}}", ERR_VALUE,
         "tool_choice.function.name"},
        {FG ",\"tool_choice\":{\"type\":\"allowed_tools\"}", ERR_MISSING,
         "tool_choice.allowed_tools"},
        {"\"tool_choice\":\"required\"", ERR_VALUE, "tool_choice"},
        {"\"function_call\":{\"name\":\"f\"}", ERR_VALUE, "function_call"},
        {"\"functions\":[{}]", ERR_MISSING, "functions[0].name"},
        {"\"functions\":[{\"name\":\"f\"}],\"function_call\":{\"name\":\"g\"}", ERR_VALUE,
         "function_call.name"},
        {FG ",\"parallel_tool_calls\":\"no\"", ERR_TYPE, "parallel_tool_calls"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_refused(rows[i].members, rows[i].code, rows[i].param);
}

TEST(lists_are_bounded)
{
    static char many[1 << 16];
    size_t n = 0;
    n += (size_t)snprintf(many + n, sizeof many - n, "\"tools\":[");
    for (int i = 0; i <= TOOLS_MAX; i++)
        n += (size_t)snprintf(many + n, sizeof many - n,
                              "%s{\"type\":\"function\",\"function\":{\"name\":\"f%d\"}}",
                              i ? "," : "", i);
    snprintf(many + n, sizeof many - n, "]");
    expect_refused(many, ERR_ARRAY_LONG, "tools");
    n = (size_t)snprintf(many, sizeof many,
                         "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                         "\"description\":\"");
    memset(many + n, 'x', TOOLS_DESCRIPTION_BYTES_MAX + 1);
    strncpy(many + n + TOOLS_DESCRIPTION_BYTES_MAX + 1, "\"}}]", 5);
    expect_refused(many, ERR_STRING_LONG, "tools[0].function.description");
}

TEST(functions_are_the_older_form)
{
    expect_offered("\"functions\":[{\"name\":\"f\"}]", "[" F_SEEN "]", 1);
    EXPECT(tools.legacy && !tools.parallel);
    expect_offered("\"functions\":[{\"name\":\"f\"}],\"function_call\":\"none\"", "", 0);
    expect_offered("\"functions\":[{\"name\":\"f\"}],\"function_call\":\"auto\"", "[" F_SEEN "]", 1);
}
