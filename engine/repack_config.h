/* repack_config: what a checkpoint says about how it was quantized. For engine/repack*.c alone. */
#ifndef SIROCCO_REPACK_CONFIG_H
#define SIROCCO_REPACK_CONFIG_H

#include "engine/repack.h"

struct repack_config {
    char method[48]; /* "": not quantized */
    bool words;      /* tensors qweight, qzeros, scales: GPTQ or AWQ */
    bool awq;
    int bits;                   /* of GPTQ and AWQ */
    int64_t group;              /* their columns that share a scale; 0: all of a row */
    bool symmetric;             /* GPTQ: zero points are half the range */
    int zero_plus;              /* GPTQ: 1 is added to stored zero points */
    int64_t block_rows, block_cols; /* FP8: of a block that shares a scale, where there are many */
};

/* quantization_config of config.json, or quantization of params.json. ERR_FORMAT naming file and
 * key for a method that is not known, and for known ones' options that are not. */
int repack_config_read(const struct source *source, struct repack_config *c, struct err *err);

#endif
