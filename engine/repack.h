/* repack: checkpoints of other quantizers (FP8, GPTQ, AWQ, compressed-tensors) become tensors of
 * the formats of quant.h. Internal to engine/weights.c.
 *
 * The plan replaces the several tensors that such a checkpoint has for a matrix by one, of the
 * name, shape and type that the rest of the engine asks for. Its bytes are room that nothing has
 * touched yet; repack_run fills it. Values are those that the quantizer defines, exactly:
 *
 *   FP8 E4M3 with one scale, one per row, or one per block of 128 columns      F8_128
 *   4 bits, symmetric, float16 scales: Q4_0; with zero points or other scales  G4_128, G4
 *   8 bits, symmetric, float16 scales: Q8_0; with zero points or other scales  G8_128, G8
 *   where groups or rows are no multiple of such a block, or columns lie in
 *   an order of their own (GPTQ's desc_act, actorder: a group for each column) F32
 *
 * Planned and run by the thread that opens the model; fills with threads of its own. */
#ifndef SIROCCO_REPACK_H
#define SIROCCO_REPACK_H

#include "engine/source.h"
#include "engine/weights_read.h"

struct repack; /* opaque: the jobs and the room */

/* list: sorted by name; stays so. *out NULL when there is nothing to repack. ERR_FORMAT naming file
 * and tensor or key; a quantization method that is not known is refused by its name. */
int repack_plan(const struct source *source, struct weights_list *list, struct repack **out,
                struct err *err);

/* Fill the room, from the file that an earlier start kept in the folder `kept` (repack_cache.h;
 * NULL: none is kept) or from the source, and let go of the source's pages that were read for it.
 * Once; the plan's tensors hold their values from then on. ERR_FORMAT for scales, zero points and
 * orders of columns that no value has. */
int repack_run(struct repack *r, const char *kept, struct err *err);
void repack_free(struct repack *r); /* NULL allowed */

const char *repack_method(const struct repack *r); /* "gptq", "fp8"; as the file names it */
size_t repack_disordered(const struct repack *r); /* matrices whose columns have an own order */

/* ---- one matrix (repack_fill.c) */

enum repack_kind { REPACK_FP8, REPACK_INT8, REPACK_PACKED, REPACK_GPTQ, REPACK_AWQ };

struct repack_job {
    enum repack_kind kind;
    int bits;                     /* of a stored value: 4 or 8 */
    int zero_plus;                /* added to stored zero points */
    bool symmetric;               /* zero points are absent, or must be half the range */
    int64_t rows, cols;
    int64_t scale_rows, scale_cols; /* that share a scale */
    int64_t n_groups;             /* scales of a row */
    struct weights_tensor data, scale, zero, order; /* zero, order: name NULL: none */
    enum quant_type type;         /* what it becomes */
    uint8_t *out;                 /* rows * quant_row_bytes(type, cols) bytes */
};

/* Rows row0 .. row1 - 1. scratch: REPACK_PANEL * cols bytes. */
enum { REPACK_PANEL = 16 };
int repack_fill(const struct repack_job *job, int64_t row0, int64_t row1, uint8_t *scratch,
                struct err *err);

/* Column c belongs to group c / scale_cols. */
bool repack_in_order(const struct repack_job *job);

/* What holds for the whole matrix: scales are finite, and columns belong to groups that exist. */
int repack_check(const struct repack_job *job, struct err *err);

#endif
