/* gguf_write: writes GGUF files, version 3 (the format's specification, docs/gguf.md of the ggml
 * project): metadata, then tensors that are announced first and streamed after.
 *
 * Life: gguf_write_init; metadata and gguf_write_tensor in any order; gguf_write_open creates a
 * file beside the one asked for and writes the header; gguf_write_data, for every tensor in the
 * order announced; gguf_write_close puts the file in its place; gguf_write_free removes what was
 * not closed. Owner: one thread. Nothing is kept of what metadata functions are given. They cannot
 * fail but for memory, which gguf_write_open reports. */
#ifndef SIROCCO_GGUF_WRITE_H
#define SIROCCO_GGUF_WRITE_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/weights.h"

enum { GGUF_WRITE_ALIGNMENT = 32 };

struct gguf_write {
    struct buf pairs, infos;
    uint64_t n_pairs, n_tensors;
    struct buf sizes;     /* uint64_t: bytes of each tensor */
    uint64_t data_bytes;  /* of all tensors, each padded to the alignment */
    uint64_t header_bytes;
    uint64_t at, written; /* the tensor being written, and how much of it is */
    char *path, *temporary;
    int file;             /* -1: not open */
    int failed;           /* 0 or the first ERR_* of a call without struct err */
};

void gguf_write_init(struct gguf_write *w);
void gguf_write_free(struct gguf_write *w); /* zeroed and NULL allowed */

/* Metadata; keys must differ. */
void gguf_write_int(struct gguf_write *w, const char *key, enum gguf_type type, int64_t value);
void gguf_write_float(struct gguf_write *w, const char *key, double value); /* as F32 */
void gguf_write_bool(struct gguf_write *w, const char *key, bool value);
void gguf_write_text(struct gguf_write *w, const char *key, const char *text, size_t n);
void gguf_write_array(struct gguf_write *w, const char *key, enum gguf_type type,
                      const void *values, uint64_t n); /* of numbers */
/* An array of strings: n calls of gguf_write_string must follow. */
void gguf_write_strings(struct gguf_write *w, const char *key, uint64_t n);
void gguf_write_string(struct gguf_write *w, const char *text, size_t n);
/* A value that was read from another file. */
void gguf_write_value(struct gguf_write *w, const char *key, const struct gguf_value *value);

/* Announce a tensor; dims outermost first, as in weights.h. Returns its bytes; 0: the shape does
 * not fit the type, or is too large, and gguf_write_open will fail. */
uint64_t gguf_write_tensor(struct gguf_write *w, const char *name, int n_dims, const int64_t *dims,
                           enum quant_type type);

/* ERR_IO naming path: it cannot be created, or its folder has no room for all of the file. */
int gguf_write_open(struct gguf_write *w, const char *path, struct err *err);
int gguf_write_data(struct gguf_write *w, const void *bytes, size_t n, struct err *err);
/* Everything must have been written. The file is on the disk when this returns 0. */
int gguf_write_close(struct gguf_write *w, struct err *err);

/* Bytes of the finished file. */
uint64_t gguf_write_bytes(const struct gguf_write *w);

#endif
