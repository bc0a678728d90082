/* sse_test: frames as clients split them: no data may end a frame early or start another field. */
#include "server/sse.h"

#include <string.h>

#include "tests/test.h"

static const char *frame(const char *data)
{
    static struct buf out;
    buf_clear(&out);
    EXPECT_INT(sse_data(&out, data, strlen(data)), 0);
    return out.data;
}

TEST(frames)
{
    struct buf out = {0};
    sse_begin(&out);
    buf_text(&out, "{}");
    sse_end(&out);
    sse_keep_alive(&out);
    sse_done(&out);
    EXPECT_STR(out.data, "data: {}\n\n: keep-alive\n\ndata: [DONE]\n\n");
    buf_free(&out);
    EXPECT_STR(frame("{\"a\":1}"), "data: {\"a\":1}\n\n");
    EXPECT_STR(frame(""), "data: \n\n");
}

TEST(line_breaks_do_not_end_a_frame)
{
    EXPECT_STR(frame("a\nid: 1"), "data: a\ndata: id: 1\n\n");
    EXPECT_STR(frame("a\r\nb\rc"), "data: a\ndata: b\ndata: c\n\n");
    EXPECT_STR(frame("a\n\nb"), "data: a\ndata: \ndata: b\n\n");
    EXPECT_STR(frame("a\n"), "data: a\ndata: \n\n");
}

/* What the JSON writer gives never holds a raw line break, U+2028 and U+2029 included. */
TEST(json_strings_hold_no_line_breaks)
{
    struct buf out = {0};
    static const char text[] = "a\n\r\x0b\x0c\xc2\x85\xe2\x80\xa8\xe2\x80\xa9\0z";
    buf_json_string(&out, text, sizeof text - 1);
    EXPECT(memchr(out.data, '\n', out.size) == NULL && memchr(out.data, '\r', out.size) == NULL);
    EXPECT(strstr(out.data, "\xe2\x80\xa8") == NULL && strstr(out.data, "\\u2028") != NULL);
    EXPECT(strstr(out.data, "\\u0000z") != NULL);
    buf_free(&out);
}
