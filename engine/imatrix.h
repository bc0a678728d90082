/* imatrix: how much each input column of a matrix matters: the mean square of what it is multiplied
 * with over a text (quantize.h has what for). Read and written as llama.cpp's GGUF imatrix files:
 * tensors NAME.in_sum2 (F32, [experts][cols]: sums of squares) and NAME.counts (F32, [experts][1]:
 * over how many rows). Immutable after it is read; any thread. */
#ifndef SIROCCO_IMATRIX_H
#define SIROCCO_IMATRIX_H

#include "engine/base/err.h"
#include "engine/source.h"

struct imatrix;

/* ERR_IO, ERR_FORMAT. */
int imatrix_open(const char *path, struct imatrix **out, struct err *err);
void imatrix_close(struct imatrix *m); /* NULL allowed */

/* The means of the matrix of this GGUF name: *values [n_experts][cols], and n_experts, which is 1
 * or what the matrix has. False: the file says nothing of it, or every count is 0. */
bool imatrix_find(const struct imatrix *m, const char *name, int64_t cols, const float **values,
                  int *n_experts);

#endif
