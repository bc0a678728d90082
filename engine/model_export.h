/* model_export: writes a model, of any format that can be read, as a GGUF file: weights in the type
 * asked for, hyperparameters, tokenizer and chat template. */
#ifndef SIROCCO_MODEL_EXPORT_H
#define SIROCCO_MODEL_EXPORT_H

#include "engine/base/err.h"
#include "engine/source.h"
#include "kernels/quant.h"

struct imatrix;

struct model_export_options {
    const struct source *source;
    enum quant_type type;          /* model_parts_type says what each tensor gets */
    const struct imatrix *imatrix; /* NULL: none */
    int threads;                   /* 0: as many as the process may run on */
    /* progress, 0..1; non-zero: stop with ERR_CANCELLED. NULL: none */
    int (*progress)(void *user, const char *what, double fraction);
    void *user;
};

struct model_export_result {
    uint64_t bytes;        /* of the file */
    int64_t n_parameters;
    int n_tensors;
    int n_requantized;     /* matrices that were quantized before, to another type */
    int n_without;         /* body matrices of which the imatrix says nothing; 0 without one */
};

/* Write to path: as a whole or not at all (gguf_write.h). The float model is never in memory: rows
 * are read, converted and written a few MiB at a time. ERR_FORMAT for a model that cannot be read,
 * or that GGUF or llama.cpp has no words for; ERR_IO; ERR_CANCELLED. */
int model_export_run(const struct model_export_options *options, const char *path,
                     struct model_export_result *result, struct err *err);

#endif
