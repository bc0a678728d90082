/* Fuzz entry: any bytes as tokenizer.model; what opens must encode and decode. */
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source_file file = {.name = "tokenizer.model", .data = data, .size = size};
    use_files(&file, 1, size % 2 ? 512 : 0);
    return 0;
}
