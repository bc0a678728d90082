/* model_json: typed reads from the JSON files that lie beside a model's weights. Internal to
 * engine/model*.c. Errors are ERR_FORMAT and name file and key. */
#ifndef SIROCCO_MODEL_JSON_H
#define SIROCCO_MODEL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/source.h"

struct model_json {
    const char *file; /* for messages */
    const json_t *object;
};

/* Parse a JSON object file; *out NULL when the file is absent. The caller lets go of *out. */
int model_json_load(const struct source *source, const char *name, json_t **out, struct err *err);

/* "FILE: KEY WHAT" */
int model_json_bad(struct model_json j, const char *key, const char *what, struct err *err);

/* The value of key, NULL when it is absent or null. */
const json_t *model_json_get(struct model_json j, const char *key);

/* *out is left alone when key is absent or null (model_json_bool: becomes standard). */
int model_json_bool(struct model_json j, const char *key, bool standard, bool *out,
                    struct err *err);
int model_json_int(struct model_json j, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct err *err);
int model_json_float(struct model_json j, const char *key, double min, double max, double *out,
                     struct err *err);

#endif
