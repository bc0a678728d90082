/* Fuzz entry: any bytes as tokenizer.json (and, up to the first 0x1e byte, as tokenizer_config.json
 * in front of it), or as tekken.json when they say "token_bytes"; what opens must encode and decode.
 */
#include <string.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, const char *text, size_t n)
{
    struct text_span span = {0, n / 2};
    struct token_list ids = {0};
    struct buf out;
    struct err err;
    buf_init(&out, 0);
    if (!tokenizer_encode(t, text, n, true, &span, 1, &ids, &err))
        (void)tokenizer_decode(t, ids.ids, ids.n, true, true, &out);
    for (int32_t id = 0; id < tokenizer_vocab_size(t) && id < 64; id++) {
        size_t size;
        (void)tokenizer_piece(t, id, true, &size);
    }
    (void)tokenizer_mistral_version(t);
    token_list_free(&ids);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { TEXT_MAX = 2000 };
    static const char text[] = "ab <s>\xE2\x96\x81 \xF0\x9F\x98\x80\xFF\n\nI'll 123";
    const uint8_t *cut = size ? memchr(data, 0x1e, size) : NULL;
    size_t skip = cut ? (size_t)(cut + 1 - data) : 0;
    struct source_file files[2] = {
        {.name = "tokenizer.json", .data = data + skip, .size = size - skip},
        {.name = "tokenizer_config.json", .data = data, .size = skip ? skip - 1 : 0}};
    struct source *source = NULL;
    struct tokenizer *t = NULL;
    struct err err;
    if (memmem(data, size, "token_bytes", 11))
        files[0].name = "tekken.json";
    if (size > 1 << 16 || source_open_memory("f", files, cut ? 2 : 1, &source, &err))
        return 0;
    if (!tokenizer_open(source, NULL, size % 2 ? 300 : 0, NULL, &t, &err)) {
        use(t, text, sizeof text - 1);
        use(t, (const char *)data, size < TEXT_MAX ? size : TEXT_MAX); /* the file as its text */
    }
    tokenizer_close(t);
    source_close(source);
    return 0;
}
