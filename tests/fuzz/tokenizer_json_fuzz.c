/* Fuzz entry: any bytes as tokenizer.json (and, up to the first 0x1e byte, as tokenizer_config.json
 * in front of it); what opens must encode and decode. */
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size ? memchr(data, 0x1e, size) : NULL;
    size_t skip = cut ? (size_t)(cut + 1 - data) : 0;
    struct source_file files[2] = {
        {.name = "tokenizer.json", .data = data + skip, .size = size - skip},
        {.name = "tokenizer_config.json", .data = data, .size = skip ? skip - 1 : 0}};
    use_files(files, cut ? 2 : 1, size % 2 ? 300 : 0);
    return 0;
}
