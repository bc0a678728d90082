/* model_quantize: quantizes the float matrices of an open model in memory, matrix by matrix. */
#ifndef SIROCCO_MODEL_QUANTIZE_H
#define SIROCCO_MODEL_QUANTIZE_H

#include "engine/model.h"

/* Every matrix stored as F32, F16 or BF16 becomes what model_parts_type gives it for `type`, in
 * memory of the model's own; its pages of the source are let go, so that the float model is never
 * in memory as a whole. Matrices quantized already stay as they are. Before matrices are loaded to
 * a device. threads 0: as many as the process may run on. progress: 0..1, non-zero stops; may be
 * NULL. ERR_FORMAT naming a tensor that cannot be stored so, ERR_NOMEM, ERR_CANCELLED. */
int model_quantize(struct model *m, const struct source *source, enum quant_type type, int threads,
                   int (*progress)(void *user, const char *what, double fraction), void *user,
                   struct err *err);

#endif
