/* Fuzz entry: any bytes as a .gguf file: header, tensors, and the model's hyperparameters; then, cut
 * where its magic comes again, as the two parts of a split one. */
#include "engine/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void open_all(const struct source_file *files, size_t n)
{
    struct err err;
    struct source *source = NULL;
    struct gguf *g = NULL;
    struct weights *w = NULL;
    struct model *m = NULL;
    volatile uint8_t sink = 0;

    if (source_open_memory("f", files, n, &source, &err))
        return;
    if (!gguf_open(&files[0], &g, &err)) {
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
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source_file files[2] = {{.name = "f.gguf", .data = data, .size = size}};
    open_all(files, 1);
    const uint8_t *cut = size > 4 ? memmem(data + 4, size - 4, "GGUF", 4) : NULL;
    if (!cut)
        return 0;
    size_t first = (size_t)(cut - data);
    files[0] = (struct source_file){.name = "f-00001-of-00002.gguf", .data = data, .size = first};
    files[1] = (struct source_file){.name = "f-00002-of-00002.gguf", .data = cut,
                                    .size = size - first};
    open_all(files, 2);
    return 0;
}
