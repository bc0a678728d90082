/* Fuzz entry: any bytes as a GGUF file with a vocabulary; what opens must encode and decode. */
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source_file file = {.name = "v.gguf", .data = data, .size = size};
    use_files(&file, 1, size % 2 ? 64 : 0);
    return 0;
}
