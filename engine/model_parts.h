/* model_parts: the tensors of a model one by one, under GGUF's names, and the storage type that
 * quantizing gives each. */
#ifndef SIROCCO_MODEL_PARTS_H
#define SIROCCO_MODEL_PARTS_H

#include "engine/model.h"

enum { MODEL_PART_NAME_BYTES = 64 };

/* What a matrix does, as far as its storage depends on it. */
enum model_part { MODEL_PART_EMBED, MODEL_PART_HEAD, MODEL_PART_BODY, MODEL_PART_ROUTER };

struct model_matrix {
    char name[MODEL_PART_NAME_BYTES]; /* "blk.3.ffn_gate_exps.weight" */
    enum model_part part;
    int layer;            /* -1: outside the layers */
    bool rotated;         /* q and k: rows of a head are rotated in pairs */
    struct matrix *first; /* n matrices of one shape, one per expert; else n = 1 */
    int n;
    bool experts;         /* they are one tensor of three dimensions, even when n is 1 */
};

struct model_vector {
    char name[MODEL_PART_NAME_BYTES];
    const float *values;
    int64_t n;
};

/* Call visit for every matrix (a tied head is none) or vector until it returns non-zero, which is
 * then the result. */
int model_parts_matrices(struct model *m, int (*visit)(void *, const struct model_matrix *),
                         void *user);
int model_parts_vectors(const struct model *m, int (*visit)(void *, const struct model_vector *),
                        void *user);

/* The type of a matrix with rows of `cols` values in a model of type `wanted`: of embeddings and
 * head one step finer, of what routes to experts F32; where a row is no multiple of the type's
 * block the next finer one whose block divides it, in the end F16. */
enum quant_type model_parts_type(enum quant_type wanted, enum model_part part, int64_t cols);

#endif
