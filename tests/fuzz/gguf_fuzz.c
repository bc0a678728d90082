/* Fuzz entry: any bytes as a .gguf file: header, tensors, and the model's hyperparameters. */
#include "engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct source_file file = {.name = "f.gguf", .data = data, .size = size};
    struct err err;
    struct source *source = NULL;
    struct gguf *g = NULL;
    struct weights *w = NULL;
    struct model *m = NULL;
    volatile uint8_t sink = 0;

    if (source_open_memory("f", &file, 1, &source, &err))
        return 0;
    if (!gguf_open(&file, &g, &err)) {
        if (!model_open(source, g, &m, &err))
            sink ^= (uint8_t)m->n_layers;
        if (!weights_open(source, &w, &err)) {
            for (size_t i = 0; i < weights_count(w); i++) { /* every stated byte can be read */
                const struct weights_tensor *t = weights_at(w, i);
                sink ^= t->data[0] ^ t->data[t->bytes - 1];
            }
        }
    }
    (void)sink;
    model_close(m);
    weights_close(w);
    gguf_close(g);
    source_close(source);
    return 0;
}
