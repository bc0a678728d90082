/* ast: the tree between parse.c and render.c. Internal to engine/template.
 *
 * One node struct for all kinds; the list below says what its fields mean. Nodes live in the
 * template's arena and never change after the parse. `at` is the byte offset in the (newline
 * normalised) source; lines and columns are counted only for errors. */
#ifndef SIROCCO_TEMPLATE_AST_H
#define SIROCCO_TEMPLATE_AST_H

#include "engine/base/arena.h"
#include "engine/template/lex.h"
#include "engine/template/template.h"
#include "engine/template/value.h"

enum node_kind {
    /* expressions */
    NODE_CONST,  /* value */
    NODE_NAME,   /* name */
    NODE_TUPLE,  /* list */
    NODE_LIST,   /* list */
    NODE_DICT,   /* list: key, value, key, value... */
    NODE_AND,    /* a, b */
    NODE_OR,     /* a, b */
    NODE_NOT,    /* a */
    NODE_NEGATE, /* a */
    NODE_PLUS,   /* a */
    NODE_BINARY, /* op, a, b: + - * / // % ** */
    NODE_CONCAT, /* list: a ~ b ~ c */
    NODE_COMPARE, /* a, list of NODE_OPERAND (op, a) */
    NODE_OPERAND,
    NODE_IF_ELSE, /* a if b else c; c may be NULL */
    NODE_ATTR,    /* a.name */
    NODE_ITEM,    /* a[b] */
    NODE_SLICE,   /* a:b:c, each may be NULL; only inside NODE_ITEM's b */
    NODE_CALL,    /* a(args) */
    NODE_FILTER,  /* a|name(args); a NULL: the text of the block */
    NODE_TEST,    /* a is name(args) */
    /* statements */
    NODE_TEXT,      /* value: a string */
    NODE_PRINT,     /* a */
    NODE_IF,        /* list: condition, body, condition, body...; else_body */
    NODE_FOR,       /* target a, iterable b, condition c or NULL, body, else_body, recursive */
    NODE_SET,       /* target a, b */
    NODE_SET_BLOCK, /* target a, filter chain b or NULL, body */
    NODE_WITH,      /* list: target, value, ...; body */
    NODE_MACRO,     /* name, list of parameters (NODE_NAME with default a), body, uses */
    NODE_CALL_BLOCK, /* call a; list of parameters, body, uses */
    NODE_FILTER_BLOCK, /* filter chain b, body */
    NODE_SCOPE,     /* body: generation and block tags */
    NODE_BREAK,
    NODE_CONTINUE
};

struct node_list {
    struct node **items;
    size_t n, capacity;
};

struct args { /* of a call, filter or test */
    struct node_list positional;
    struct node_list keyword; /* NODE_NAME with value a */
    struct node *star, *star_star;
};

enum { USES_VARARGS = 1, USES_KWARGS = 2, USES_CALLER = 4 }; /* names a macro's body reads */

struct node {
    uint8_t kind; /* enum node_kind */
    uint8_t op;   /* enum token_kind */
    uint8_t uses;
    bool recursive;
    uint16_t depth; /* longest way down to a leaf: bounds the evaluator's recursion */
    uint32_t at;
    struct str *name;   /* interned: equal names are the same pointer */
    struct value value;
    struct node *a, *b, *c;
    struct node_list list, body, else_body;
    struct args *args;
};

struct template {
    struct arena arena;
    const char *source; /* newlines normalised */
    size_t n;
    struct node_list body;
    struct name **names; /* intern table: the names that occur */
    struct str *loop_name, *varargs_name, *kwargs_name, *caller_name; /* interned */
};

/* ---- the parser's state, shared by parse.c (statements) and expr.c (expressions) */

struct parser {
    struct template *t;
    struct lexer lexer;
    struct token token, next; /* current and one ahead */
    bool has_next;
    int nesting; /* of brackets, prefix operators and blocks */
    int loops;   /* open for bodies, for break and continue */
    uint8_t uses; /* names read since the enclosing macro began */
    struct name **names; /* intern table */
    struct err *err;
    int failed; /* sticky; the current token is TOKEN_END from then on */
};

struct name {
    struct str str;
    struct name *next;
};

struct node *parse_node(struct parser *p, enum node_kind kind, uint32_t at);
void parse_adopt(struct parser *p, struct node *parent, const struct node *child); /* depth */
void parse_append(struct parser *p, struct node_list *list, struct node *item);
void parse_advance(struct parser *p);
const struct token *parse_look(struct parser *p);
bool parse_is_name(const struct parser *p, const char *name);
bool parse_skip(struct parser *p, enum token_kind kind);   /* true: was there, taken */
bool parse_skip_name(struct parser *p, const char *name);
bool parse_expect(struct parser *p, enum token_kind kind); /* false: failed */
bool parse_enter(struct parser *p); /* one level of nesting deeper; false: too deep, failed */
struct str *parse_intern(struct parser *p, const char *text, size_t n);
void parse_fail(struct parser *p, uint32_t at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void parse_unexpected(struct parser *p); /* fails at the current token */

struct node *expr_parse(struct parser *p, bool with_if); /* with_if: `a if b else c` allowed */
/* One expression or, with commas, a tuple; ends before the name `end` (may be NULL). */
struct node *expr_tuple(struct parser *p, bool with_if, const char *end, bool empty_allowed);
struct node *expr_target(struct parser *p, bool with_namespace); /* name, a.b, or tuple of names */
struct node *expr_filters(struct parser *p, struct node *node); /* |f(x)|g; node may be NULL */
struct node *expr_filter_block(struct parser *p); /* f(x)|g, as after {% filter */

#endif
