/* spm_model: reads and validates a sentencepiece .model file (a ModelProto, see
 * sentencepiece_model.proto of the sentencepiece project), and writes the part of it that was
 * validated as a new proto: the library never sees a byte that was not checked here. */
#ifndef SIROCCO_SPM_MODEL_H
#define SIROCCO_SPM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

enum { SPM_PIECES_MAX = 1 << 20, SPM_CHARSMAP_MAX = 4 << 20, SPM_REPLACEMENT_MAX = 256 };
enum spm_type { SPM_UNIGRAM = 1, SPM_BPE = 2, SPM_WORD = 3, SPM_CHAR = 4 };

struct spm_text { /* a byte string inside the file */
    const uint8_t *data;
    size_t size;
};

struct spm_piece {
    struct spm_text text;
    float score;
    int type; /* enum vocab_type */
};

struct spm_model {
    struct spm_piece *pieces;
    size_t n_pieces;
    int type; /* enum spm_type */
    bool space_as_suffix, byte_fallback;
    bool dummy_prefix, remove_extra_spaces, escape_spaces;
    struct spm_text charsmap, bos,
        eos; /* bos, eos: texts; "<s>" and "</s>" unless the file differs */
};

/* file names the file in messages. The texts point into data. ERR_FORMAT, ERR_NOMEM. */
int spm_model_open(struct spm_model *m, const uint8_t *data, size_t size, const char *file,
                   struct err *err);
void spm_model_close(struct spm_model *m); /* zeroed allowed */

/* Append m as a serialized ModelProto with add_dummy_prefix as given. A buf failure. */
int spm_model_write(const struct spm_model *m, bool dummy_prefix, struct buf *out);

#endif
