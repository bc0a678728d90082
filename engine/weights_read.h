/* weights_read: what the weight-file readers hand to weights.c. Internal to engine/weights.c,
 * safetensors.c and gguf.c; everybody else uses weights.h. */
#ifndef SIROCCO_WEIGHTS_READ_H
#define SIROCCO_WEIGHTS_READ_H

#include "engine/base/arena.h"
#include "engine/weights.h"

/* A growing list of validated tensors; names live in the arena. */
struct weights_list {
    struct arena arena;
    struct weights_tensor *tensors; /* malloced */
    size_t n, capacity;
};

/* Append room for one tensor, zeroed; NULL: out of memory. */
struct weights_tensor *weights_list_add(struct weights_list *list);

/* Every tensor of the source's safetensors files: model.safetensors, or the shards named by
 * model.safetensors.index.json; in Mistral's layout consolidated.safetensors, the shards of its
 * index, or, without one, all files consolidated-K-of-N.safetensors. */
int safetensors_read(const struct source *source, struct weights_list *list, struct err *err);

/* One safetensors file. */
int safetensors_read_file(const struct source_file *file, struct weights_list *list,
                          struct err *err);

/* Every tensor of an open GGUF file. */
int gguf_read(const struct gguf *g, struct weights_list *list, struct err *err);

/* Every tensor of the source's .gguf file, of a split one those of all parts, which must agree on
 * what they are parts of (gguf_split.c). */
int gguf_split_read(const struct source *source, struct weights_list *list, struct err *err);

#endif
