/* weights: the tensors of a model behind one header, whatever the file format.
 *
 * Readers: safetensors.c (one file, or shards with model.safetensors.index.json), gguf.c (v2, v3).
 * Every offset, length, shape and count is checked before use; an error names file and field.
 * Immutable after open (weights_load fills what was promised); data points into the source's
 * mapping or into memory of the weights. Any thread may read. */
#ifndef SIROCCO_WEIGHTS_H
#define SIROCCO_WEIGHTS_H

#include <stdint.h>

#include "engine/base/err.h"
#include "engine/source.h"
#include "kernels/quant.h"

enum { WEIGHTS_DIMS_MAX = 4 };

struct weights_tensor {
    const char *name;
    const char *file; /* where it lies: source_file.name */
    enum quant_type type;  /* QUANT_COUNT: a known type that is not supported; listed, unusable */
    const char *type_name; /* as the file's format calls it: "BF16", "Q4_K" */
    int n_dims;            /* above WEIGHTS_DIMS_MAX only the first dims are kept; unusable */
    int64_t dims[WEIGHTS_DIMS_MAX]; /* outermost first: [rows, cols]; GGUF's order is turned */
    const uint8_t *data;
    size_t bytes; /* equals the size its shape and type need */
};

struct weights; /* opaque: a name index over the tensors of all files */

int weights_open(const struct source *source, struct weights **out, struct err *err);
/* Bring tensors that the files hold in other quantizers' layouts (repack.h) to those of quant.h:
 * only then can their data be read. Nothing to do for most models, nor a second time. The source
 * must still be open. kept: a folder where the result is kept for the next time, or NULL.
 * ERR_FORMAT naming file and tensor. */
int weights_load(struct weights *w, const char *kept, struct err *err);
/* How they were quantized, as their files name it ("gptq"); NULL: no tensor is brought over. */
const char *weights_method(const struct weights *w);
size_t weights_disordered(const struct weights *w); /* repack_disordered; 0: nothing repacked */
void weights_close(struct weights *w); /* NULL allowed */
const struct weights_tensor *weights_find(const struct weights *w, const char *name); /* or NULL */
size_t weights_count(const struct weights *w);
const struct weights_tensor *weights_at(const struct weights *w, size_t i);

/* ---- GGUF metadata (gguf.c). A reader over one file's header, for weights, model, tokenizer. */

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
    GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPE_COUNT
};

struct gguf_value {
    enum gguf_type type;       /* of the value, or of the elements of an array */
    uint64_t count;            /* elements; 1 for a scalar */
    int is_array;
    const uint8_t *data;       /* scalars and numeric arrays: little-endian, unaligned */
    const struct gguf_string { const char *text; uint64_t size; } *strings; /* GGUF_STRING */
};

struct gguf; /* opaque */
int gguf_open(const struct source_file *file, struct gguf **out, struct err *err);
void gguf_close(struct gguf *g); /* NULL allowed */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key); /* or NULL */
/* Pair i, in the order of keys; NULL beyond the last. */
const struct gguf_value *gguf_at(const struct gguf *g, size_t i, const char **key);
/* Typed reads, any integer width converted; *found = 0 and default kept when the key is absent;
 * ERR_FORMAT naming the key when it is there with a wrong type or out of [min, max]. */
int gguf_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *value,
             int *found, struct err *err);
int gguf_float(const struct gguf *g, const char *key, double *value, int *found, struct err *err);
int gguf_text(const struct gguf *g, const char *key, const char **text, size_t *size, int *found,
              struct err *err);

#endif
