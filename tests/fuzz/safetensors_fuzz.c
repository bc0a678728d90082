/* Fuzz entry: any bytes as model.safetensors; and, up to the first 0x1e byte, as a shard index, as
 * config.json, or as params.json (then the rest is consolidated.safetensors) in front of it; what they
 * say is quantized is repacked. */
#include "engine/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void open_all(const struct source_file *files, size_t n)
{
    struct err err;
    struct source *source = NULL;
    struct weights *w = NULL;
    struct model *m = NULL;
    volatile uint8_t sink = 0;

    if (source_open_memory("f", files, n, &source, &err))
        return;
    if (!weights_open(source, &w, &err) && !weights_load(w, NULL, &err)) {
        for (size_t i = 0; i < weights_count(w); i++) { /* every stated byte can be read */
            const struct weights_tensor *t = weights_at(w, i);
            if (t->bytes)
                sink ^= t->data[0] ^ t->data[t->bytes - 1];
        }
    }
    if (!model_open(source, NULL, &m, &err))
        sink ^= (uint8_t)m->n_layers;
    (void)sink;
    model_close(m);
    weights_close(w);
    source_close(source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size ? memchr(data, 0x1e, size) : NULL;
    struct source_file files[2] = {{.name = "model.safetensors", .data = data, .size = size}};
    if (!cut) {
        open_all(files, 1);
        return 0;
    }
    files[0].data = cut + 1;
    files[0].size = size - (size_t)(cut + 1 - data);
    files[1] = (struct source_file){.name = "config.json", .data = data,
                                    .size = (size_t)(cut - data)};
    open_all(files, 2);
    files[0].name = "consolidated.safetensors";
    files[1].name = "params.json";
    open_all(files, 2);
    files[0].name = "one.safetensors";
    files[1].name = "model.safetensors.index.json";
    open_all(files, 2);
    return 0;
}
