/* render_internal: one render's state, and the doors between render.c, eval.c, call.c, the tables
 * of functions, and the output. Internal to engine/template.
 *
 * Errors are sticky: render_fail records the first, with the place of the node in r->at; everything
 * then returns an undefined value quickly, and loops look at r->failed. */
#ifndef SIROCCO_TEMPLATE_RENDER_INTERNAL_H
#define SIROCCO_TEMPLATE_RENDER_INTERNAL_H

#include "engine/template/ast.h"

enum {
    RENDER_STEP_UNITS = 16, /* a step: 16 expression nodes, or 2 KiB of text moved */
    RENDER_BYTES_PER_UNIT = 128,
    RENDER_STEPS_MAX = 4000000,
    RENDER_CALLS_MAX = 64,   /* macros and recursive loops inside each other */
    RENDER_DEPTH_MAX = 3000, /* nodes being evaluated inside each other */
    RENDER_VALUE_DEPTH_MAX = 100, /* containers inside each other when printed or compared */
    RENDER_RANGE_MAX = 100000
};

struct variable {
    const struct str *name; /* interned */
    struct value value;
    struct variable *next;
};

struct scope {
    struct scope *parent;
    struct variable *variables;
    struct variable *spare; /* of earlier rounds of a loop */
    bool kept;              /* a macro may read it later: not for another round */
};

struct render {
    const struct template *t;
    struct arena arena;
    struct value context; /* a dict */
    struct scope *scope;
    /* The output, and at the same time the stack on which strings are built: out_mark, writes,
     * out_cut. trusted: struct text_span of what was written. */
    struct buf text, trusted;
    uint64_t units; /* of work left */
    int depth, calls;
    uint32_t at;
    time_t now;
    struct err *err;
    int failed;
};

/* ---- render.c */

void render_fail(struct render *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void render_raise(struct render *r, const struct str *message); /* raise_exception: no position */
void render_no_memory(struct render *r);
bool render_work(struct render *r, uint64_t units); /* false: the steps are used up, failed */
bool render_bytes(struct render *r, size_t n);      /* the same for moving n bytes */
bool render_enter(struct render *r); /* one more level of nodes; leave with r->depth-- */
void *render_alloc(struct render *r, size_t count, size_t size); /* zeroed arena memory or NULL */
struct scope *render_push(struct render *r, struct scope *parent);
void render_set(struct render *r, struct scope *scope, const struct str *name, struct value value);
void render_assign(struct render *r, const struct node *target, struct value value);

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
enum flow render_body(struct render *r, const struct node_list *body);

struct loop { /* what `loop` is inside a for body */
    const struct node *node;
    struct scope *outside;
    struct list *items;
    size_t index0;
    size_t depth0;
    bool changed_set;
    struct value changed;
};
struct value render_loop_call(struct render *r, struct loop *loop, struct value items);

/* ---- eval.c */

struct value eval(struct render *r, const struct node *node);
struct value eval_name(struct render *r, const struct str *name);
struct value eval_filters(struct render *r, const struct node *node, struct value text);

/* ---- ops.c */

struct value ops_binary(struct render *r, enum token_kind op, struct value a, struct value b);
bool ops_compare(struct render *r, enum token_kind op, struct value a, struct value b);
struct value ops_negate(struct render *r, struct value v);
struct value ops_attribute(struct render *r, struct value object, struct str *name); /* a.name */
struct value ops_item(struct render *r, struct value object, struct value key);      /* a[key] */
struct value ops_slice(struct render *r, struct value object, const struct value part[3]);
void ops_undefined(struct render *r, struct value v); /* fails with "'x' is undefined" */

/* ---- call.c: arguments and what can be called */

struct call { /* arguments as given */
    struct value *values; /* positional, then those of the names */
    struct str **names;
    size_t n, n_names;
};

/* One row of a table of functions, filters, tests or methods. parameters: "width first=" style
 * names separated by blanks, "*" for whatever comes (the function reads call itself), a name ending
 * in = is optional. */
struct bound_args {
    struct value self; /* filters and tests: the value; methods: the object */
    struct value v[8]; /* by parameter; VALUE_MISSING when not given */
    const struct call *call;
};
typedef struct value (*builtin_call)(struct render *r, const struct bound_args *args);
struct builtin {
    const char *name;
    const char *parameters;
    builtin_call call;
};

struct value call_builtin(struct render *r, const struct builtin *b, struct value self,
                          const struct call *call);
struct value call_value(struct render *r, struct value callee, const struct call *call);
void call_arguments(struct render *r, const struct args *args, struct call *call);
const struct builtin *call_find(const struct builtin *table, size_t n, const struct str *name);
struct value *call_named(const struct call *call, const char *name); /* keyword argument or NULL */
/* A default for what was not given; None stands where given. */
struct value call_or(struct value v, struct value otherwise);
/* Typed arguments; a wrong type fails the render. */
struct str *call_text(struct render *r, struct value v);
int64_t call_int(struct render *r, struct value v);

/* ---- the tables */

const struct builtin *filters_find(const struct str *name);
const struct builtin *filters_list_find(const struct str *name);
const struct builtin *filters_text_find(const struct str *name);
const struct builtin *tests_find(const struct str *name);
const struct builtin *methods_find(enum value_kind kind, const struct str *name);
const struct builtin *methods_text_find(const struct str *name);
bool methods_is_unsafe(enum value_kind kind, const struct str *name); /* would change a value */
const struct builtin *globals_find(const struct str *name);
struct value globals_cycle(struct render *r, struct value cycler);
struct value filters_apply(struct render *r, const struct str *name, struct value v,
                           const struct call *call);
bool tests_apply(struct render *r, const struct str *name, struct value v,
                 const struct call *call);
/* obj.a.0.b as the attribute arguments of map, selectattr, sort... mean it */
struct value filters_attribute(struct render *r, struct value v, struct value path);

/* ---- out.c: the output and the text of values */

size_t out_mark(const struct render *r);
struct str *out_cut(struct render *r, size_t mark); /* take what was written since as a string */
void out_bytes(struct render *r, const char *data, size_t n, bool trusted);
void out_text(struct render *r, const char *text, bool trusted);
void out_str(struct render *r, const struct str *s);
void out_value(struct render *r, struct value v); /* str(v) */
void out_repr(struct render *r, struct value v);  /* repr(v) */
struct str *out_string(struct render *r, struct value v); /* str(v) as a string; no copy of one */
enum { OUT_FLOAT_MAX = 40 };
size_t out_float(char text[OUT_FLOAT_MAX], double f); /* as Python's repr */

/* ---- chars.c: case, classes and HTML escapes of characters */

struct str *chars_upper(struct render *r, struct str *s);
struct str *chars_lower(struct render *r, struct str *s);
struct str *chars_capitalize(struct render *r, struct str *s);
struct str *chars_title(struct render *r, struct str *s, bool jinja); /* str.title, or |title */
struct str *chars_swapcase(struct render *r, struct str *s);
struct str *chars_escape(struct render *r, struct str *s); /* & < > " ' as HTML; markup */
bool chars_is_upper(const struct str *s);
bool chars_is_lower(const struct str *s);
bool chars_is_printable(uint32_t code);
/* class: "alpha", "digit", "alnum", "space", "ascii": all of a non-empty string */
bool chars_is(const struct str *s, const char *class_name);

/* ---- format.c, tojson.c */

/* Formats that are markup escape the text that they insert. */
struct value format_percent(struct render *r, struct str *format, struct value args);
struct value format_braces(struct render *r, struct str *format, const struct call *call);

struct tojson_options {
    bool ascii, sort_keys;
    const struct str *indent; /* or NULL */
    const struct str *item_separator, *key_separator;
};
void tojson_write(struct render *r, struct value v, const struct tojson_options *options);

#endif
