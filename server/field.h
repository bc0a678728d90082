/* field: typed reading of a JSON object's members, with OpenAI's errors. An absent member and an
 * explicit null are the same. Pure functions: any thread.
 *
 * Each returns 1 when the member is there and *out was set, 0 when it is absent (*out untouched),
 * or the error: ERR_TYPE, or the range error of its kind, with the member as `param`. Strings,
 * arrays and objects are borrowed from the object. */
#ifndef SIROCCO_FIELD_H
#define SIROCCO_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct field_string {
    const char *text; /* may hold NULs */
    size_t size;
};

const json_t *field_get(const json_t *object, const char *name); /* NULL: absent or null */

int field_bool(const json_t *object, const char *name, bool *out, struct err *err);
/* Integral floats ("1.0", as JavaScript and R write them) count as integers. */
int field_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
              struct err *err);
int field_number(const json_t *object, const char *name, double min, double max, double *out,
                 struct err *err);
int field_string(const json_t *object, const char *name, size_t bytes_max, struct field_string *out,
                 struct err *err); /* ERR_STRING_LONG */
int field_array(const json_t *object, const char *name, const json_t **out, struct err *err);
int field_object(const json_t *object, const char *name, const json_t **out, struct err *err);

/* A string as a C string to compare with words; "" where it holds a NUL, which no word does. */
const char *field_word(const json_t *string);

/* The value itself as an integer: 1, or 0 when it is none (a float with a fraction, a string...).
 */
int field_integral(const json_t *value, int64_t *out);

int field_type_error(struct err *err, const char *param, const char *expected, const json_t *value);

#endif
