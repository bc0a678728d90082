/* Fuzz entry: any bytes as model.safetensors.index.json, and as consolidated's, beside two small
 * shards, "a.safetensors" with tensor a and "b.safetensors" with tensor b. */
#include "engine/weights.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SHARD(name)                                                                                \
    "\x38\0\0\0\0\0\0\0{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}   "  \
    "1234"

static void open_all(const struct source_file *files, size_t n)
{
    struct err err;
    struct source *source = NULL;
    struct weights *w = NULL;
    volatile uint8_t sink = 0;
    if (source_open_memory("f", files, n, &source, &err))
        return;
    if (!weights_open(source, &w, &err))
        for (size_t i = 0; i < weights_count(w); i++)
            sink ^= weights_at(w, i)->data[3];
    (void)sink;
    weights_close(w);
    source_close(source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char a[] = SHARD("a"), b[] = SHARD("b");
    struct source_file files[4] = {
        {"model.safetensors.index.json", data, size},
        {"a.safetensors", (const uint8_t *)a, sizeof a - 1},
        {"b.safetensors", (const uint8_t *)b, sizeof b - 1},
        {"params.json", (const uint8_t *)"{}", 2}};
    open_all(files, 3);
    files[0].name = "consolidated.safetensors.index.json";
    open_all(files, 4);
    return 0;
}
