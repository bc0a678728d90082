/* spm: the sentencepiece library behind C functions (spm.cc). Immutable after spm_open; any thread
 * may encode. No exception leaves it. */
#ifndef SIROCCO_SPM_H
#define SIROCCO_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spm; /* opaque: one processor */

/* Load a serialized ModelProto that spm_model.c wrote. NULL when the library refuses it, or is out
 * of memory; then reason[reason_size] says why. */
struct spm *spm_open(const void *proto, size_t size, char *reason, size_t reason_size);
void spm_close(struct spm *s); /* NULL allowed */

/* Hand each id of well-formed UTF-8 text[0..n) to take, until it returns non-zero, which is then
 * the result. Control pieces written out in the text are plain text. -1: the library failed. */
int spm_encode(const struct spm *s, const char *text, size_t n, int (*take)(void *, int32_t),
               void *context);

#ifdef __cplusplus
}
#endif

#endif
