/* mistral_schema: whether a JSON Schema is one, by the schema that draft 7 has for itself
 * (json-schema.org/draft-07/schema): each keyword's value has the form its row says. Recursion is
 * bounded by the JSON parser's depth. No state. */
#include <math.h>
#include <stdlib.h>
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

struct check {
    struct arena *arena;
    struct buf *words; /* what is wrong */
};

static bool wrong(struct check *c, const json_t *value, const char *what)
{
    dumps_repr(c->words, value);
    buf_text(c->words, what);
    return false;
}

static bool schema_holds(const json_t *schema, struct check *c);

static bool list_holds(const json_t *list, struct check *c)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (!schema_holds(item, c))
            return false;
    }
    return true;
}

static int by_text(const void *a, const void *b)
{
    const json_t *const *x = a, *const *y = b;
    size_t n = json_string_length(*x), m = json_string_length(*y);
    int order = memcmp(json_string_value(*x), json_string_value(*y), n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

/* A list of different texts. */
static bool names_hold(const json_t *list, struct check *c)
{
    size_t i, n = 0;
    json_t *name, **names = arena_array(c->arena, json_array_size(list) + 1, sizeof *names);
    if (!json_is_array(list))
        return wrong(c, list, " is not of type 'array'");
    if (!names)
        return wrong(c, list, " is too long");
    json_array_foreach(list, i, name)
    {
        if (json_is_string(name))
            names[n++] = name;
    }
    qsort(names, n, sizeof(json_t *), by_text);
    for (i = 1; i < n; i++)
        if (by_text(&names[i - 1], &names[i]) == 0)
            return wrong(c, list, " has non-unique elements");
    json_array_foreach(list, i, name)
    {
        if (!json_is_string(name))
            return wrong(c, name, " is not of type 'string'");
    }
    return true;
}

static bool map_holds(const json_t *map, bool names, struct check *c)
{
    const char *key;
    json_t *value;
    if (!json_is_object(map))
        return wrong(c, map, " is not of type 'object'");
    json_object_foreach((json_t *)map, key, value)
    {
        if (!(names && json_is_array(value) ? names_hold(value, c)
                                            : schema_holds(value, c)))
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

static bool type_holds(const json_t *type, struct check *c)
{
    bool held = is_simple_type(type) || json_array_size(type) > 0;
    for (size_t i = 0; i < json_array_size(type) && held; i++) {
        held = is_simple_type(json_array_get(type, i));
        for (size_t k = 0; k < i && held; k++)
            held = !json_equal(json_array_get(type, i), json_array_get(type, k));
    }
    return held || wrong(c, type, " is not valid under any of the given schemas");
}

static bool count_holds(const json_t *value, struct check *c)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || number != floor(number))
        return wrong(c, value, " is not of type 'integer'");
    return number >= 0 || wrong(c, value, " is less than the minimum of 0");
}

static bool value_holds(const json_t *value, enum form form, struct check *c)
{
    switch (form) {
    case FORM_SCHEMA:
        return schema_holds(value, c);
    case FORM_SCHEMAS:
        if (!json_is_array(value))
            return wrong(c, value, " is not of type 'array'");
        return json_array_size(value) ? list_holds(value, c)
                                      : wrong(c, value, " should be non-empty");
    case FORM_ITEMS:
        return json_is_array(value) && json_array_size(value) ? list_holds(value, c)
                                                              : schema_holds(value, c);
    case FORM_MAP:
    case FORM_DEPENDENCIES:
        return map_holds(value, form == FORM_DEPENDENCIES, c);
    case FORM_TYPE:
        return type_holds(value, c);
    case FORM_NAMES:
        return names_hold(value, c);
    case FORM_LIST:
        return json_is_array(value) || wrong(c, value, " is not of type 'array'");
    case FORM_TEXT:
        return json_is_string(value) || wrong(c, value, " is not of type 'string'");
    case FORM_NUMBER:
        return json_is_number(value) || wrong(c, value, " is not of type 'number'");
    case FORM_FACTOR:
        if (!json_is_number(value))
            return wrong(c, value, " is not of type 'number'");
        return json_number_value(value) > 0 ||
               wrong(c, value, " is less than or equal to the minimum of 0");
    case FORM_COUNT:
        return count_holds(value, c);
    default:
        return json_is_boolean(value) || wrong(c, value, " is not of type 'boolean'");
    }
}

static bool schema_holds(const json_t *schema, struct check *c)
{
    if (json_is_boolean(schema))
        return true;
    if (!json_is_object(schema))
        return wrong(c, schema, " is not of type 'object', 'boolean'");
    for (size_t i = 0; i < N_ROWS; i++) {
        const json_t *value = json_object_get(schema, rows[i].keyword);
        if (value && !value_holds(value, rows[i].form, c))
            return false;
    }
    return true;
}

bool mistral_schema_holds(const json_t *schema, struct arena *arena, struct buf *words)
{
    struct check c = {arena, words};
    return schema_holds(schema, &c);
}
