/* json_text_test: what Python's json.dumps(json.loads(text), ensure_ascii=False) writes. */
#include "engine/template/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static void expect(const char *text, const char *laid)
{
    struct buf out;
    buf_init(&out, 0);
    buf_text(&out, "<");
    EXPECT_INT(json_text_normal(&out, text, strlen(text)), laid != NULL);
    EXPECT_INT(out.failed, 0);
    EXPECT_STR(out.data + 1, laid ? laid : "");
    buf_free(&out);
}

TEST(layout)
{
    expect(" {\"a\" :1,\"b\":[ ] ,\"c\":{ },\r\n\"d\":[1,\t2]} ",
           "{\"a\": 1, \"b\": [], \"c\": {}, \"d\": [1, 2]}");
    expect("\"\\u00e9\\/\\b\\f\\n\\r\\t\\\"\\\\\\u0001\\ud83d\\ude42\x7f\"",
           "\"\xC3\xA9/\\b\\f\\n\\r\\t\\\"\\\\\\u0001\xF0\x9F\x99\x82\x7f\"");
    expect("[true,false,null,NaN,Infinity,-Infinity]",
           "[true, false, null, NaN, Infinity, -Infinity]");
}

TEST(numbers)
{
    expect("[0,-0,-7,123456789012345678901234567890,-0.0,1e5,1E+5,2.50,1e-7,1e400,-1e400]",
           "[0, 0, -7, 123456789012345678901234567890, -0.0, 100000.0, 100000.0, 2.5, 1e-07, "
           "Infinity, -Infinity]");
    expect("1e16", "1e+16");
    expect("0.1", "0.1");
}

TEST(repeated_names)
{
    expect("{\"a\":1,\"b\":2,\"a\":[3],\"c\":4,\"\\u0061\":{\"x\":1,\"x\":2}}",
           "{\"a\": {\"x\": 2}, \"b\": 2, \"c\": 4}");
    expect("[{\"\":1,\"\":2},{\"ab\":1,\"a\":2}]", "[{\"\": 2}, {\"ab\": 1, \"a\": 2}]");
    expect("{\"a\\u0000b\":1,\"a\":2}", "{\"a\\u0000b\": 1, \"a\": 2}");
}

TEST(what_is_no_json_leaves_the_output)
{
    static const char *const wrong[] = {"",
                                        " ",
                                        "{",
                                        "[",
                                        "[1,]",
                                        "{\"a\":}",
                                        "{\"a\" 1}",
                                        "{a:1}",
                                        "01",
                                        "1.",
                                        ".5",
                                        "+1",
                                        "1e",
                                        "-",
                                        "tru",
                                        "nulll",
                                        "1 2",
                                        "\"a",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\n\"",
                                        "'a'",
                                        "[1}",
                                        "{\"a\":1,}",
                                        "\"\\ud800\"",
                                        "\"\\udc00\"",
                                        "\"\\ud800\\u0041\"",
                                        "nan",
                                        "-NaN",
                                        "[",
                                        "\xEF\xBB\xBF"
                                        "1"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect(wrong[i], NULL);
}

TEST(depth_is_bounded)
{
    char text[2003];
    memset(text, '[', 400);
    memset(text + 400, ']', 400);
    text[800] = '\0';
    struct buf out;
    buf_init(&out, 0);
    EXPECT(json_text_normal(&out, text, 800));
    memset(text, '[', 1000);
    memset(text + 1000, ']', 1000);
    EXPECT(!json_text_normal(&out, text, 2000));
    buf_free(&out);
}

TEST(many_members_take_little_time)
{
    static const char begin[] = "{\"k0\": {\"x\": 1}, \"k1\": {\"x\": 1}, ";
    struct buf text, out;
    buf_init(&text, 0);
    buf_init(&out, 0);
    buf_byte(&text, '{');
    for (int i = 0; i < 200000; i++)
        buf_format(&text, "%s\"k%d\":{\"x\":%d,\"x\":1}", i ? "," : "", i / 2, i);
    buf_byte(&text, '}');
    EXPECT(json_text_normal(&out, text.data, text.size));
    EXPECT(!strncmp(out.data, begin, strlen(begin)));
    EXPECT(strlen(out.data) < text.size);
    buf_free(&text);
    buf_free(&out);
}
