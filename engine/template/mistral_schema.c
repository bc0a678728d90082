/* mistral_schema: whether a JSON Schema is one, by the schema that draft 7 has for itself
 * (json-schema.org/draft-07/schema): each keyword's value has the form its row says. Recursion is
 * bounded by the JSON parser's depth. No state. */
#include <string.h>

#include "engine/template/dumps.h"
#include "engine/template/mistral_internal.h"

enum form {
    FORM_SCHEMA,       /* an object or a boolean */
    FORM_SCHEMAS,      /* a non-empty list of schemas */
    FORM_ITEMS,        /* a schema or a list of them */
    FORM_MAP,          /* an object of schemas */
    FORM_DEPENDENCIES, /* an object of schemas or lists of names */
    FORM_TYPE,
    FORM_NAMES, /* a list of different texts */
    FORM_LIST,
    FORM_TEXT,
    FORM_NUMBER,
    FORM_FACTOR, /* a number above zero */
    FORM_COUNT,
    FORM_BOOL
};

static const struct {
    const char *keyword;
    enum form form;
} rows[] = {
    {"$id", FORM_TEXT},
    {"$schema", FORM_TEXT},
    {"$ref", FORM_TEXT},
    {"$comment", FORM_TEXT},
    {"title", FORM_TEXT},
    {"description", FORM_TEXT},
    {"readOnly", FORM_BOOL},
    {"examples", FORM_LIST},
    {"multipleOf", FORM_FACTOR},
    {"maximum", FORM_NUMBER},
    {"exclusiveMaximum", FORM_NUMBER},
    {"minimum", FORM_NUMBER},
    {"exclusiveMinimum", FORM_NUMBER},
    {"maxLength", FORM_COUNT},
    {"minLength", FORM_COUNT},
    {"pattern", FORM_TEXT},
    {"additionalItems", FORM_SCHEMA},
    {"items", FORM_ITEMS},
    {"maxItems", FORM_COUNT},
    {"minItems", FORM_COUNT},
    {"uniqueItems", FORM_BOOL},
    {"contains", FORM_SCHEMA},
    {"maxProperties", FORM_COUNT},
    {"minProperties", FORM_COUNT},
    {"required", FORM_NAMES},
    {"additionalProperties", FORM_SCHEMA},
    {"definitions", FORM_MAP},
    {"properties", FORM_MAP},
    {"patternProperties", FORM_MAP},
    {"dependencies", FORM_DEPENDENCIES},
    {"propertyNames", FORM_SCHEMA},
    {"enum", FORM_LIST},
    {"type", FORM_TYPE},
    {"format", FORM_TEXT},
    {"contentMediaType", FORM_TEXT},
    {"contentEncoding", FORM_TEXT},
    {"if", FORM_SCHEMA},
    {"then", FORM_SCHEMA},
    {"else", FORM_SCHEMA},
    {"allOf", FORM_SCHEMAS},
    {"anyOf", FORM_SCHEMAS},
    {"oneOf", FORM_SCHEMAS},
    {"not", FORM_SCHEMA},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static bool wrong(struct buf *words, const json_t *value, const char *what)
{
    dumps_repr(words, value);
    buf_text(words, what);
    return false;
}

static bool schema_holds(const json_t *schema, struct buf *words);

static bool list_holds(const json_t *list, struct buf *words)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (!schema_holds(item, words))
            return false;
    }
    return true;
}

static bool names_hold(const json_t *list, struct buf *words)
{
    if (!json_is_array(list))
        return wrong(words, list, " is not of type 'array'");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *name = json_array_get(list, i);
        if (!json_is_string(name))
            return wrong(words, name, " is not of type 'string'");
        for (size_t k = 0; k < i; k++)
            if (json_equal(name, json_array_get(list, k)))
                return wrong(words, list, " has non-unique elements");
    }
    return true;
}

static bool map_holds(const json_t *map, bool names, struct buf *words)
{
    const char *key;
    json_t *value;
    if (!json_is_object(map))
        return wrong(words, map, " is not of type 'object'");
    json_object_foreach((json_t *)map, key, value)
    {
        if (!(names && json_is_array(value) ? names_hold(value, words)
                                            : schema_holds(value, words)))
            return false;
    }
    return true;
}

static bool is_simple_type(const json_t *type)
{
    static const char *const types[] = {"array",  "boolean", "integer", "null",
                                        "number", "object",  "string"};
    for (size_t i = 0; json_is_string(type) && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(json_string_value(type), types[i]) == 0)
            return true;
    return false;
}

static bool type_holds(const json_t *type, struct buf *words)
{
    bool held = is_simple_type(type) || json_array_size(type) > 0;
    for (size_t i = 0; i < json_array_size(type) && held; i++) {
        held = is_simple_type(json_array_get(type, i));
        for (size_t k = 0; k < i && held; k++)
            held = !json_equal(json_array_get(type, i), json_array_get(type, k));
    }
    return held || wrong(words, type, " is not valid under any of the given schemas");
}

static bool count_holds(const json_t *value, struct buf *words)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || (json_is_real(value) && number != (double)(long long)number))
        return wrong(words, value, " is not of type 'integer'");
    return number >= 0 || wrong(words, value, " is less than the minimum of 0");
}

static bool value_holds(const json_t *value, enum form form, struct buf *words)
{
    switch (form) {
    case FORM_SCHEMA:
        return schema_holds(value, words);
    case FORM_SCHEMAS:
        if (!json_is_array(value))
            return wrong(words, value, " is not of type 'array'");
        return json_array_size(value) ? list_holds(value, words)
                                      : wrong(words, value, " should be non-empty");
    case FORM_ITEMS:
        return json_is_array(value) && json_array_size(value) ? list_holds(value, words)
                                                              : schema_holds(value, words);
    case FORM_MAP:
    case FORM_DEPENDENCIES:
        return map_holds(value, form == FORM_DEPENDENCIES, words);
    case FORM_TYPE:
        return type_holds(value, words);
    case FORM_NAMES:
        return names_hold(value, words);
    case FORM_LIST:
        return json_is_array(value) || wrong(words, value, " is not of type 'array'");
    case FORM_TEXT:
        return json_is_string(value) || wrong(words, value, " is not of type 'string'");
    case FORM_NUMBER:
        return json_is_number(value) || wrong(words, value, " is not of type 'number'");
    case FORM_FACTOR:
        if (!json_is_number(value))
            return wrong(words, value, " is not of type 'number'");
        return json_number_value(value) > 0 ||
               wrong(words, value, " is less than or equal to the minimum of 0");
    case FORM_COUNT:
        return count_holds(value, words);
    default:
        return json_is_boolean(value) || wrong(words, value, " is not of type 'boolean'");
    }
}

static bool schema_holds(const json_t *schema, struct buf *words)
{
    if (json_is_boolean(schema))
        return true;
    if (!json_is_object(schema))
        return wrong(words, schema, " is not of type 'object', 'boolean'");
    for (size_t i = 0; i < N_ROWS; i++) {
        const json_t *value = json_object_get(schema, rows[i].keyword);
        if (value && !value_holds(value, rows[i].form, words))
            return false;
    }
    return true;
}

bool mistral_schema_holds(const json_t *schema, struct buf *words)
{
    return schema_holds(schema, words);
}
