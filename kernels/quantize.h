/* quantize: rows of floats into the storage formats of quant.h, with the least weighted error that
 * a search finds.
 *
 * What is minimised, over all that a block can store, is the sum of w (x - decoded)^2. Without
 * importance w is a function of x itself (fit_weight in cpu/quantize_fit.h); with it, times the
 * column's importance: the mean square of what the column is multiplied with (the diagonal of the
 * layer's Hessian, as in GPTQ, Frantar et al. 2022, section 3; Nagel et al. 2020, section 3).
 *
 * Pure functions; any thread. Results are the same on every machine: all variants add in the same
 * order and none contracts products. quant_encode (quant.h) is the quick rounding of activations;
 * this is the slow one, of weights. */
#ifndef SIROCCO_QUANTIZE_H
#define SIROCCO_QUANTIZE_H

#include <stddef.h>

#include "kernels/quant.h"

enum { QUANTIZE_ERROR_BYTES = 160 };

/* Encode n values (a multiple of the type's block) into quant_row_bytes(type, n) bytes at row.
 * importance: NULL, or n finite values >= 0, one per column; a block whose importances are all 0 is
 * quantized as if it had none. Returns 0, or -1 with the reason in error (QUANTIZE_ERROR_BYTES;
 * may be NULL): a value is not finite, or beyond what the format can hold (65504 wherever scales
 * are float16), or an importance is none; row is then undefined. */
int quantize_row(enum quant_type type, const float *in, const float *importance, void *row,
                 size_t n, char *error);

/* ---- matrices, by rows on all cores */

struct quantize_pool; /* threads, and a row of floats for each; one caller at a time */

/* n_threads 0: as many as the process may run on, siblings of a core included. NULL: no memory or
 * no threads to be had. */
struct quantize_pool *quantize_open(int n_threads, int64_t cols_max);
void quantize_close(struct quantize_pool *pool); /* NULL allowed */

/* Rows first_row .. first_row + n_rows - 1 of a matrix, into another format. */
struct quantize_job {
    enum quant_type from, to;
    const void *in; /* the whole matrix: row 0 and on, quant_row_bytes(from, cols) each */
    int64_t cols, first_row, n_rows;
    const float *importance; /* [cols], or NULL */
    /* Above 0: heads of so many rows, halves of which are rotated with each other, become heads
     * whose neighbours are: row 2 j + t of a head is its row t * (head_rows / 2) + j. */
    int64_t head_rows;
    void *out; /* n_rows * quant_row_bytes(to, cols) bytes */
};
/* 0, or -1 with the reason, which names the row as well; from == to copies. */
int quantize_matrix(struct quantize_pool *pool, const struct quantize_job *job, char *error);

/* ---- the searches, per instruction set (cpu/quantize_base.c, cpu/quantize_avx2.c) */

/* Encode n checked values; in and importance as above. */
typedef void quantize_rows(const float *in, const float *importance, uint8_t *row, size_t n);

extern quantize_rows *const quantize_base[QUANT_COUNT]; /* NULL: F32, F16, BF16 */
extern quantize_rows *const quantize_avx2[QUANT_COUNT]; /* all NULL where it was not built */

#endif
