/* imatrix_collect: sums up what a model's matrices are multiplied with, and writes it as a file
 * that imatrix_open, and llama.cpp, read. One owner. */
#ifndef SIROCCO_IMATRIX_COLLECT_H
#define SIROCCO_IMATRIX_COLLECT_H

#include "engine/forward.h"

struct imatrix_collect;

/* m must outlive it. ERR_NOMEM. */
int imatrix_collect_open(struct model *m, struct imatrix_collect **out, struct err *err);
void imatrix_collect_close(struct imatrix_collect *c); /* NULL allowed */

/* A forward_observer; user is the struct imatrix_collect. */
void imatrix_collect_rows(void *user, int layer, enum forward_point point, const float *rows, int n,
                          int cols);

/* What was collected, under the names of the model's matrices in GGUF files; of experts, which are
 * not told apart, the same for each, and nothing of those whose inputs nobody sees. text: the name
 * of what was read, in chunks of chunk tokens. ERR_FORMAT when a sum is not finite; ERR_IO. */
int imatrix_collect_write(struct imatrix_collect *c, const char *path, const char *text,
                          int n_chunks, int chunk, struct err *err);

#endif
