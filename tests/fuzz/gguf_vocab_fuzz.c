/* Fuzz entry: any bytes as a GGUF file with a vocabulary; what opens must encode and decode. */
#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "ab <s>\xE2\x96\x81 \xF0\x9F\x98\x80\xFF\n\nI'll 1234 \xE6\x97\xA5";
    struct source_file file = {.name = "v.gguf", .data = data, .size = size};
    struct text_span span = {0, sizeof text - 1};
    struct source *source = NULL;
    struct gguf *gguf = NULL;
    struct tokenizer *t = NULL;
    struct token_list ids = {0};
    struct buf out;
    struct err err;
    if (size > 1 << 16 || source_open_memory("f", &file, 1, &source, &err))
        return 0;
    buf_init(&out, 0);
    if (!gguf_open(&file, &gguf, &err) &&
        !tokenizer_open(source, gguf, size % 2 ? 64 : 0, NULL, &t, &err) &&
        !tokenizer_encode(t, text, sizeof text - 1, true, &span, 1, &ids, &err))
        (void)tokenizer_decode(t, ids.ids, ids.n, true, true, &out);
    token_list_free(&ids);
    buf_free(&out);
    tokenizer_close(t);
    gguf_close(gguf);
    source_close(source);
    return 0;
}
