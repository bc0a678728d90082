/* value: what a Jinja expression evaluates to, with Python's semantics and the provenance of text.
 *
 * Internal to engine/template. Values are 16 bytes and passed by value; what they point to lives in
 * the render's arena (or in the template's, for literals) and is immutable, save the cells of
 * namespaces, iterators, cyclers and joiners.
 *
 * Provenance: a string carries the byte spans that are trusted (template text); str_* keep it byte
 * exact. Scalars carry one bit, for the text that str() makes of them. */
#ifndef SIROCCO_TEMPLATE_VALUE_H
#define SIROCCO_TEMPLATE_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/tokenizer/tokenizer.h"

struct render;
struct node;
struct scope;
struct builtin;

enum value_kind {
    VALUE_MISSING, /* an argument that was not given; never reaches a template */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_VIEW,     /* dict.keys(), .values(), .items(): has a length, no subscript */
    VALUE_ITERATOR, /* what Python makes a generator of: always true, read once */
    VALUE_DICT,
    VALUE_RANGE,
    VALUE_NAMESPACE,
    VALUE_LOOP,
    VALUE_MACRO,
    VALUE_BUILTIN, /* a global function */
    VALUE_BOUND,   /* a method with its object */
    VALUE_CYCLER,
    VALUE_JOINER
};

/* Shared growable bytes behind strings made by +, so that "s = s + x" in a loop stays linear: the
 * string that ends where the used bytes end may be continued in place. */
struct store {
    char *data;
    size_t used, capacity;
    struct text_span *spans; /* of the longest string here, once they are many; or NULL */
    size_t n_spans, spans_capacity;
};

struct str {
    const char *data; /* well-formed UTF-8, may hold NULs, not terminated */
    size_t n;
    size_t n_chars; /* SIZE_MAX: not counted yet */
    const struct text_span *trusted; /* ascending, disjoint, within [0, n); few are merged */
    size_t n_trusted;
    struct store *store; /* or NULL */
    bool markup; /* Python's Markup (|safe, |escape): + and its kin escape what joins it */
};

struct value {
    uint8_t kind;
    bool trusted; /* scalars: their text counts as template text */
    union {
        bool b;
        int64_t i;
        double f;
        struct str *s;
        struct list *list; /* LIST, TUPLE, VIEW, ITERATOR, CYCLER */
        struct dict *dict; /* DICT, NAMESPACE */
        struct range *range;
        struct loop *loop;
        struct macro *macro;
        struct bound *bound;
        const struct builtin *builtin;
        struct undefined *undefined; /* NULL: no more to say */
        struct str **joiner; /* [0] NULL until used, [1] the separator */
        void *pointer;
    } u;
};

struct list_store { /* behind lists made by +, as struct store behind strings */
    struct value *items;
    size_t used, capacity;
};

struct list {
    struct value *items;
    size_t n, capacity;
    struct list_store *store; /* or NULL */
    size_t at;        /* ITERATOR, CYCLER: next item */
    const char *name; /* VIEW "dict_items", ITERATOR "generator": Python's type name */
};

struct pair {
    struct value key, value;
};

struct dict { /* insertion order */
    struct pair *pairs;
    size_t n, capacity;
    uint32_t *index; /* open addressing, pair number + 1; NULL while small or not yet built */
    size_t n_index;  /* a power of two */
};

struct range {
    int64_t start, stop, step;
    size_t n;
};

struct undefined { /* what was looked for where, for the message */
    enum value_kind kind; /* of the object; VALUE_MISSING: a variable */
    struct value name;
    const char *hint; /* or NULL */
};

struct bound {
    struct value self;
    const struct builtin *builtin;
};

struct macro {
    const struct node *node; /* NODE_MACRO or NODE_CALL_BLOCK */
    struct scope *closure;
    bool has_caller; /* the body names `caller`, so a call block may be given */
};

/* ---- constructors (value.c). Allocation failure fails the render and gives an empty value. */

struct value value_undefined(void);
struct value value_hint(struct render *r, const char *hint);
struct value value_none(void);
struct value value_bool(bool b);
struct value value_int(int64_t i);
struct value value_float(double f);
struct value value_string(struct str *s);
struct value value_list(struct render *r, enum value_kind kind, const char *name);
void value_push(struct render *r, struct value list, struct value item);
struct value value_pair(struct render *r, struct value a, struct value b); /* a tuple */
struct value value_from_json(struct render *r, const json_t *json, bool trusted, int depth);

bool value_truth(struct value v);
const char *value_type(struct value v);   /* Python's type name: "str", "NoneType" */
const char *value_object(enum value_kind kind); /* Jinja's name in messages: "str object" */
bool value_is_number(struct value v);     /* bool, int or float */
double value_double(struct value v);      /* of a number */
bool value_equal(struct render *r, struct value a, struct value b);
/* -1, 0, 1; fails the render with Python's message when the types have no order. op: "<". */
int value_compare(struct render *r, struct value a, struct value b, const char *op);
bool value_contains(struct render *r, struct value container, struct value item);
/* len(v), or -1 with the render failed. */
int64_t value_length(struct render *r, struct value v);

/* ---- iteration (iter.c): any iterable, in Python's order. */

struct iter {
    struct value source;
    size_t i, n;   /* items taken; items in all */
    size_t byte;   /* strings: offset of the next character */
};
bool iter_can(struct value v);
bool iter_open(struct render *r, struct value v, struct iter *it); /* false: not iterable, failed */
bool iter_next(struct render *r, struct iter *it, struct value *item);
struct value iter_list(struct render *r, struct value v, enum value_kind kind); /* list(v) */

/* ---- dicts (dict.c). Keys must be hashable; others fail the render. */

struct value dict_new(struct render *r);
struct value *dict_find(struct render *r, const struct dict *d, struct value key); /* or NULL */
struct value *dict_find_text(struct render *r, const struct dict *d, const char *key);
void dict_set(struct render *r, struct dict *d, struct value key, struct value value);
/* Append without looking for an equal key (JSON objects have none). */
void dict_append(struct render *r, struct dict *d, struct value key, struct value value);

/* ---- strings (str.c). Positions are bytes unless named chars. */

struct str *str_new(struct render *r, const char *data, size_t n, bool trusted); /* borrows data */
struct str *str_copy(struct render *r, const char *data, size_t n, bool trusted);
struct value str_value(struct render *r, const char *text, bool trusted); /* copies a C string */
struct str *str_slice(struct render *r, const struct str *s, size_t from, size_t to);
struct str *str_concat(struct render *r, struct str *a, struct str *b);
size_t str_chars(struct str *s);                  /* code points */
size_t str_byte_of(struct str *s, size_t chars);  /* byte offset of a character, n when past */
bool str_equal(const struct str *a, const struct str *b);
bool str_is(const struct str *s, const char *text);
int str_compare(const struct str *a, const struct str *b); /* by code points */
struct str *str_plain(struct render *r, struct str *s); /* str(markup) */
bool str_all_trusted(const struct str *s);
/* First (last) place of needle in [from, n); SIZE_MAX: none. */
size_t str_find(const struct str *s, const struct str *needle, size_t from);
size_t str_find_last(const struct str *s, const struct str *needle, size_t to);
bool str_is_space(uint32_t code); /* Python's str.isspace */
size_t str_skip_space(const char *text, size_t n);  /* bytes of leading white space */
size_t str_trim_space(const char *text, size_t n);  /* n less trailing white space */
enum { STR_LEFT = 1, STR_RIGHT = 2 };
struct str *str_strip(struct render *r, struct str *s, const struct str *chars, int sides);

#endif
