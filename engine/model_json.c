/* model_json: typed reads from a model's JSON files (model_json.h). Runs at open, in the caller's
 * thread; keeps nothing. */
#include "engine/model_json.h"

#include <string.h>

enum { FILE_BYTES_MAX = 16 << 20 };

int model_json_load(const struct source *source, const char *name, json_t **out, struct err *err)
{
    const struct source_file *file = source_find(source, name);
    json_error_t where;
    *out = NULL;
    if (!file)
        return 0;
    if (file->size > FILE_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "%s: %zu bytes; at most %d", name, file->size,
                       FILE_BYTES_MAX);
    *out = json_loadb((const char *)file->data, file->size, JSON_REJECT_DUPLICATES, &where);
    if (!*out)
        return err_set(err, where.text[0] ? ERR_FORMAT : ERR_NOMEM, "%s: line %d: %s", name,
                       where.line, where.text[0] ? where.text : "out of memory");
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_FORMAT, "%s: not a JSON object", name);
    }
    return 0;
}

int model_json_bad(struct model_json j, const char *key, const char *what, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: %s %s", j.file, key, what);
}

const json_t *model_json_get(struct model_json j, const char *key)
{
    const json_t *value = json_object_get(j.object, key);
    return json_is_null(value) ? NULL : value;
}

int model_json_bool(struct model_json j, const char *key, bool standard, bool *out, struct err *err)
{
    const json_t *value = model_json_get(j, key);
    *out = value ? json_is_true(value) : standard;
    return !value || json_is_boolean(value) ? 0 : model_json_bad(j, key, "is no boolean", err);
}

int model_json_int(struct model_json j, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct err *err)
{
    const json_t *value = model_json_get(j, key);
    if (!value)
        return 0;
    if (!json_is_integer(value))
        return model_json_bad(j, key, "is no integer", err);
    if (json_integer_value(value) < min || json_integer_value(value) > max)
        return err_set(err, ERR_FORMAT, "%s: %s is %lld, not %lld..%lld", j.file, key,
                       (long long)json_integer_value(value), (long long)min, (long long)max);
    *out = json_integer_value(value);
    return 0;
}

int model_json_float(struct model_json j, const char *key, double min, double max, double *out,
                     struct err *err)
{
    const json_t *value = model_json_get(j, key);
    if (!value)
        return 0;
    if (!json_is_number(value))
        return model_json_bad(j, key, "is no number", err);
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return err_set(err, ERR_FORMAT, "%s: %s is %g, not %g..%g", j.file, key, number, min, max);
    *out = number;
    return 0;
}
