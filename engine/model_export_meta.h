/* model_export_meta: a model's metadata as GGUF has it. Internal to model_export.c. */
#ifndef SIROCCO_MODEL_EXPORT_META_H
#define SIROCCO_MODEL_EXPORT_META_H

#include "engine/gguf_write.h"
#include "engine/model.h"

enum { MODEL_EXPORT_DIVISORS_MAX = 512 };

/* What of the metadata is done to, or stands among, the tensors. */
struct model_export_extra {
    bool interleave; /* the architecture there rotates neighbours: q and k are reordered for it */
    int n_divisors;  /* of the rotary frequencies, by llama3's scaling; a tensor there */
    float divisors[MODEL_EXPORT_DIVISORS_MAX];
};

/* From a GGUF source its own pairs but those that the new file has otherwise; from another the
 * architecture's hyperparameters, tokenizer and chat template. ERR_FORMAT names what GGUF has no
 * words for. */
int model_export_metadata(struct gguf_write *w, const struct source *source,
                          const struct gguf *gguf, const struct model *m, enum quant_type type,
                          struct model_export_extra *extra, struct err *err);

#endif
