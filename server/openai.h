/* openai: writers of the OpenAI objects, and THE TABLE from ERR_* to HTTP status, type, code
 * (../reference: OpenAI's specification, error guide). Loop or worker; no state. */
#ifndef SIROCCO_OPENAI_H
#define SIROCCO_OPENAI_H

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/engine.h"

struct openai_error {
    int status;         /* HTTP */
    const char *type;   /* "invalid_request_error" */
    const char *code;   /* or NULL: null */
    bool retry;         /* 429/503: Retry-After; otherwise x-should-retry: false */
    bool close;         /* Connection: close */
};
const struct openai_error *openai_error_for(int err_code); /* never NULL */

/* {"error":{"message":..,"type":..,"param":..|null,"code":..|null}} */
int openai_write_error(struct buf *out, const struct err *err);

const char *openai_finish(enum finish_reason reason); /* "stop", "length" */
int openai_write_usage(struct buf *out, const struct engine_usage *usage, int n_reasoning);

#endif
