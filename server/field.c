/* field: typed reading of a JSON object's members, with OpenAI's errors. Pure functions. */
#include "server/field.h"

#include <math.h>
#include <string.h>

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a decimal";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

int field_type_error(struct err *err, const char *param, const char *expected, const json_t *value)
{
    return err_param(err, ERR_TYPE, param, "Invalid type for '%s': expected %s, but got %s.", param,
                     expected, type_name(value));
}

const json_t *field_get(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

int field_bool(const json_t *object, const char *name, bool *out, struct err *err)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return field_type_error(err, name, "a boolean", value);
    *out = json_is_true(value);
    return 1;
}

int field_integral(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return 1;
    }
    if (!json_is_real(value))
        return 0;
    double real = json_real_value(value);
    /* 2^63 is exact in a double, and the first that does not fit */
    if (real != floor(real) || real < -9223372036854775808.0 || real >= 9223372036854775808.0)
        return 0;
    *out = (int64_t)real;
    return 1;
}

int field_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
              struct err *err)
{
    const json_t *value = field_get(object, name);
    int64_t n;
    if (!value)
        return 0;
    if (!field_integral(value, &n)) {
        double real = json_is_real(value) ? json_real_value(value) : NAN;
        if (real == floor(real)) /* beyond int64 */
            n = real > 0 ? INT64_MAX : INT64_MIN;
        else
            return field_type_error(err, name, "an integer", value);
    }
    if (n < min)
        return err_param(err, ERR_INT_MIN, name,
                         "Invalid '%s': integer below minimum value. Expected a value >= %lld, but "
                         "got %lld instead.",
                         name, (long long)min, (long long)n);
    if (n > max)
        return err_param(err, ERR_INT_MAX, name,
                         "Invalid '%s': integer above maximum value. Expected a value <= %lld, but "
                         "got %lld instead.",
                         name, (long long)max, (long long)n);
    *out = n;
    return 1;
}

int field_number(const json_t *object, const char *name, double min, double max, double *out,
                 struct err *err)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_number(value))
        return field_type_error(err, name, "a decimal", value);
    double real = json_number_value(value);
    if (real < min)
        return err_param(err, ERR_DECIMAL_MIN, name,
                         "Invalid '%s': decimal below minimum value. Expected a value >= %g, but "
                         "got %g instead.",
                         name, min, real);
    if (real > max)
        return err_param(err, ERR_DECIMAL_MAX, name,
                         "Invalid '%s': decimal above maximum value. Expected a value <= %g, but "
                         "got %g instead.",
                         name, max, real);
    *out = real;
    return 1;
}

int field_string(const json_t *object, const char *name, size_t bytes_max, struct field_string *out,
                 struct err *err)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_string(value))
        return field_type_error(err, name, "a string", value);
    if (json_string_length(value) > bytes_max)
        return err_param(err, ERR_STRING_LONG, name,
                         "Invalid '%s': string too long. Expected at most %zu bytes, but got %zu.",
                         name, bytes_max, json_string_length(value));
    out->text = json_string_value(value);
    out->size = json_string_length(value);
    return 1;
}

const char *field_word(const json_t *string)
{
    const char *text = json_string_value(string);
    return strlen(text) == json_string_length(string) ? text : "";
}

int field_array(const json_t *object, const char *name, const json_t **out, struct err *err)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_array(value))
        return field_type_error(err, name, "an array", value);
    *out = value;
    return 1;
}

int field_object(const json_t *object, const char *name, const json_t **out, struct err *err)
{
    const json_t *value = field_get(object, name);
    if (!value)
        return 0;
    if (!json_is_object(value))
        return field_type_error(err, name, "an object", value);
    *out = value;
    return 1;
}
