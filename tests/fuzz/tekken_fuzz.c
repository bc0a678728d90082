/* Fuzz entry: any bytes as tekken.json; what opens must encode and decode. */
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source_file file = {.name = "tekken.json", .data = data, .size = size};
    use_files(&file, 1, size % 2 ? 300 : 0);
    return 0;
}
