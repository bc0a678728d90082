/* sse: writers of server-sent event frames. Loop thread; no state. Invariant: a frame ends with the
 * only blank line in it. */
#include "server/sse.h"

int sse_begin(struct buf *out)
{
    return buf_add(out, "data: ", 6);
}

int sse_end(struct buf *out)
{
    return buf_add(out, "\n\n", 2);
}

int sse_data(struct buf *out, const char *data, size_t n)
{
    sse_begin(out);
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        if (data[i] != '\n' && data[i] != '\r')
            continue;
        buf_add(out, data + start, i - start);
        if (data[i] == '\r' && i + 1 < n && data[i + 1] == '\n')
            i++;
        buf_text(out, "\ndata: ");
        start = i + 1;
    }
    buf_add(out, data + start, n - start);
    return sse_end(out);
}

int sse_done(struct buf *out)
{
    return buf_text(out, "data: [DONE]\n\n");
}

int sse_keep_alive(struct buf *out)
{
    return buf_text(out, ": keep-alive\n\n");
}
