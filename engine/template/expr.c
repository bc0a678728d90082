/* expr: the expression half of the parser, in Jinja's grammar and precedence (Jinja 3 template
 * designer documentation, "Expressions"); lowest first:
 *
 *   if-else | or | and | not | comparisons, in | + - | ~ | * / // % | ** | unary + - |
 *   .attr [item] (call) | filters, tests
 *
 * A unary sign binds weaker than attributes but stronger than filters: -1|abs is (-1)|abs.
 * Runs in template_parse; the state is struct parser. Any function may return NULL, and does so
 * only after a failure was recorded. */
#include <string.h>

#include "engine/template/ast.h"

static struct node *parse_unary(struct parser *p, bool with_filters);

static struct node *with_child(struct parser *p, enum node_kind kind, uint32_t at,
                               struct node *a, struct node *b)
{
    struct node *node = parse_node(p, kind, at);
    if (p->failed)
        return NULL;
    node->a = a;
    node->b = b;
    parse_adopt(p, node, a);
    parse_adopt(p, node, b);
    return node;
}

static void append_child(struct parser *p, struct node *node, struct node *child)
{
    if (p->failed)
        return;
    parse_append(p, &node->list, child);
    parse_adopt(p, node, child);
}

/* ---- atoms */

static struct node *constant(struct parser *p, uint32_t at, struct value value)
{
    struct node *node = parse_node(p, NODE_CONST, at);
    if (node) {
        node->value = value;
        node->value.trusted = true;
    }
    return node;
}

static struct node *parse_name(struct parser *p)
{
    static const struct {
        const char *name;
        uint8_t bit;
    } special[] = {{"varargs", USES_VARARGS}, {"kwargs", USES_KWARGS}, {"caller", USES_CALLER}};
    struct token t = p->token;
    bool yes = parse_is_name(p, "true") || parse_is_name(p, "True");
    bool no = parse_is_name(p, "false") || parse_is_name(p, "False");
    bool none = parse_is_name(p, "none") || parse_is_name(p, "None");
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (parse_is_name(p, special[i].name))
            p->uses |= special[i].bit;
    parse_advance(p);
    if (yes || no)
        return constant(p, t.at, value_bool(yes));
    if (none)
        return constant(p, t.at, value_none());
    struct node *node = parse_node(p, NODE_NAME, t.at);
    if (node)
        node->name = parse_intern(p, t.text, t.n);
    return node;
}

/* Literals that stand next to each other are one string. */
static struct node *parse_string(struct parser *p)
{
    struct token t = p->token;
    parse_advance(p);
    while (p->token.kind == TOKEN_STRING) {
        char *joined = arena_alloc(&p->t->arena, t.n + p->token.n + 1);
        if (!joined) {
            parse_fail(p, t.at, "the template needs too much memory");
            return NULL;
        }
        memcpy(joined, t.text, t.n);
        memcpy(joined + t.n, p->token.text, p->token.n);
        t.text = joined;
        t.n += p->token.n;
        parse_advance(p);
    }
    struct str *s = parse_intern(p, t.text, t.n);
    return p->failed ? NULL : constant(p, t.at, value_string(s));
}

static struct node *parse_brackets(struct parser *p)
{
    uint32_t at = p->token.at;
    bool dict = p->token.kind == TOKEN_LBRACE;
    enum token_kind end = dict ? TOKEN_RBRACE : TOKEN_RBRACKET;
    struct node *node = parse_node(p, dict ? NODE_DICT : NODE_LIST, at);
    parse_advance(p);
    while (!p->failed && p->token.kind != end) {
        if (node->list.n && (!parse_expect(p, TOKEN_COMMA) || p->token.kind == end))
            break;
        append_child(p, node, expr_parse(p, true));
        if (dict) {
            parse_expect(p, TOKEN_COLON);
            append_child(p, node, expr_parse(p, true));
        }
    }
    parse_expect(p, end);
    return p->failed ? NULL : node;
}

static struct node *parse_primary(struct parser *p)
{
    struct token t = p->token;
    struct node *node = NULL;
    switch (t.kind) {
    case TOKEN_NAME:
        return parse_name(p);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_INT:
        parse_advance(p);
        return constant(p, t.at, value_int(t.i));
    case TOKEN_FLOAT:
        parse_advance(p);
        return constant(p, t.at, value_float(t.f));
    case TOKEN_LPAREN:
        parse_advance(p);
        if (!parse_enter(p))
            return NULL;
        node = expr_tuple(p, true, NULL, true);
        p->nesting--;
        parse_expect(p, TOKEN_RPAREN);
        return node;
    case TOKEN_LBRACKET:
    case TOKEN_LBRACE:
        if (!parse_enter(p))
            return NULL;
        node = parse_brackets(p);
        p->nesting--;
        return node;
    default:
        parse_unexpected(p);
        return NULL;
    }
}

/* ---- what follows an atom */

/* 1, a:b, a:b:c between square brackets */
static struct node *parse_subscript_part(struct parser *p)
{
    uint32_t at = p->token.at;
    struct node *first = NULL;
    if (p->token.kind != TOKEN_COLON) {
        first = expr_parse(p, true);
        if (p->token.kind != TOKEN_COLON)
            return first;
    }
    parse_advance(p);
    struct node *slice = with_child(p, NODE_SLICE, at, first, NULL);
    if (!slice)
        return NULL;
    if (p->token.kind != TOKEN_COLON && p->token.kind != TOKEN_RBRACKET &&
        p->token.kind != TOKEN_COMMA)
        slice->b = expr_parse(p, true);
    if (parse_skip(p, TOKEN_COLON) && p->token.kind != TOKEN_RBRACKET &&
        p->token.kind != TOKEN_COMMA)
        slice->c = expr_parse(p, true);
    parse_adopt(p, slice, slice->b);
    parse_adopt(p, slice, slice->c);
    return slice;
}

static struct node *parse_subscript(struct parser *p, struct node *node)
{
    uint32_t at = p->token.at;
    parse_advance(p); /* the [ */
    struct node *tuple = parse_node(p, NODE_TUPLE, at);
    while (!p->failed && p->token.kind != TOKEN_RBRACKET) {
        if (tuple->list.n && !parse_expect(p, TOKEN_COMMA))
            break;
        append_child(p, tuple, parse_subscript_part(p));
    }
    parse_expect(p, TOKEN_RBRACKET);
    if (p->failed)
        return NULL;
    if (tuple->list.n > 1)
        for (size_t i = 0; i < tuple->list.n; i++)
            if (tuple->list.items[i]->kind == NODE_SLICE)
                parse_fail(p, at, "a slice can not be part of a tuple");
    return with_child(p, NODE_ITEM, at, node,
                      tuple->list.n == 1 ? tuple->list.items[0] : tuple);
}

static struct node *parse_attribute(struct parser *p, struct node *node)
{
    uint32_t at = p->token.at;
    parse_advance(p); /* the . */
    struct token t = p->token;
    if (t.kind == TOKEN_INT) {
        parse_advance(p);
        return with_child(p, NODE_ITEM, at, node, constant(p, t.at, value_int(t.i)));
    }
    if (t.kind != TOKEN_NAME) {
        parse_fail(p, t.at, "expected name or number");
        return NULL;
    }
    parse_advance(p);
    struct node *attr = with_child(p, NODE_ATTR, at, node, NULL);
    if (attr)
        attr->name = parse_intern(p, t.text, t.n);
    return attr;
}

static void parse_argument(struct parser *p, struct node *owner, struct args *args, uint32_t at)
{
    bool ok = true;
    struct node *value;
    if (parse_skip(p, TOKEN_MUL)) {
        ok = !args->star && !args->star_star;
        value = args->star = expr_parse(p, true);
    } else if (parse_skip(p, TOKEN_POW)) {
        ok = !args->star_star;
        value = args->star_star = expr_parse(p, true);
    } else if (p->token.kind == TOKEN_NAME && parse_look(p)->kind == TOKEN_ASSIGN) {
        ok = !args->star_star;
        value = parse_node(p, NODE_NAME, p->token.at);
        if (p->failed)
            return;
        value->name = parse_intern(p, p->token.text, p->token.n);
        parse_advance(p);
        parse_advance(p);
        value->a = expr_parse(p, true);
        parse_adopt(p, value, value->a);
        parse_append(p, &args->keyword, value);
    } else {
        ok = !args->star && !args->star_star && !args->keyword.n;
        value = expr_parse(p, true);
        parse_append(p, &args->positional, value);
    }
    if (!ok)
        parse_fail(p, at, "invalid syntax for function call expression");
    parse_adopt(p, owner, value);
}

/* (a, b, c=d, *e, **f) into owner->args */
static void parse_arguments(struct parser *p, struct node *owner)
{
    uint32_t at = p->token.at;
    struct args *args = arena_alloc(&p->t->arena, sizeof *args);
    if (!args)
        parse_fail(p, at, "the template needs too much memory");
    if (p->failed || !parse_expect(p, TOKEN_LPAREN) || !parse_enter(p))
        return;
    for (bool first = true; !p->failed && p->token.kind != TOKEN_RPAREN; first = false) {
        if (!first && (!parse_expect(p, TOKEN_COMMA) || p->token.kind == TOKEN_RPAREN))
            break;
        parse_argument(p, owner, args, at);
    }
    p->nesting--;
    parse_expect(p, TOKEN_RPAREN);
    owner->args = args;
}

static struct node *parse_call(struct parser *p, struct node *node)
{
    struct node *call = with_child(p, NODE_CALL, p->token.at, node, NULL);
    if (call)
        parse_arguments(p, call);
    return call;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    while (!p->failed) {
        if (p->token.kind == TOKEN_DOT)
            node = parse_attribute(p, node);
        else if (p->token.kind == TOKEN_LBRACKET)
            node = parse_subscript(p, node);
        else if (p->token.kind == TOKEN_LPAREN)
            node = parse_call(p, node);
        else
            break;
    }
    return p->failed ? NULL : node;
}

/* A filter's or test's name: a.b.c is one name. */
static struct str *parse_dotted(struct parser *p)
{
    const char *start = p->token.text;
    size_t n = p->token.n;
    if (!parse_expect(p, TOKEN_NAME))
        return NULL;
    while (parse_skip(p, TOKEN_DOT) && p->token.kind == TOKEN_NAME) {
        n = (size_t)(p->token.text + p->token.n - start);
        parse_advance(p);
    }
    return p->failed ? NULL : parse_intern(p, start, n);
}

static struct node *parse_filter(struct parser *p, struct node *node)
{
    uint32_t at = p->token.at;
    struct str *name = parse_dotted(p);
    struct node *filter = with_child(p, NODE_FILTER, at, node, NULL);
    if (!filter)
        return NULL;
    filter->name = name;
    if (p->token.kind == TOKEN_LPAREN)
        parse_arguments(p, filter);
    return filter;
}

struct node *expr_filters(struct parser *p, struct node *node)
{
    while (!p->failed && parse_skip(p, TOKEN_PIPE))
        node = parse_filter(p, node);
    return p->failed ? NULL : node;
}

struct node *expr_filter_block(struct parser *p)
{
    return expr_filters(p, parse_filter(p, NULL));
}

/* `is name`, `is not name`, with arguments in brackets or one atom without */
static struct node *parse_test(struct parser *p, struct node *node)
{
    uint32_t at = p->token.at;
    parse_advance(p); /* is */
    bool negated = parse_skip_name(p, "not");
    struct str *name = parse_dotted(p);
    struct node *test = with_child(p, NODE_TEST, at, node, NULL);
    if (!test)
        return NULL;
    test->name = name;
    enum token_kind kind = p->token.kind;
    if (kind == TOKEN_LPAREN) {
        parse_arguments(p, test);
    } else if ((kind == TOKEN_NAME || kind == TOKEN_STRING || kind == TOKEN_INT ||
                kind == TOKEN_FLOAT || kind == TOKEN_LBRACKET || kind == TOKEN_LBRACE) &&
               !parse_is_name(p, "else") && !parse_is_name(p, "or") && !parse_is_name(p, "and")) {
        if (parse_is_name(p, "is"))
            parse_fail(p, p->token.at, "tests can not be chained with 'is'");
        struct args *args = arena_alloc(&p->t->arena, sizeof *args);
        struct node *argument = parse_primary(p);
        argument = p->failed ? NULL : parse_postfix(p, argument);
        if (!args || p->failed) {
            parse_fail(p, at, "the template needs too much memory");
            return NULL;
        }
        parse_append(p, &args->positional, argument);
        parse_adopt(p, test, argument);
        test->args = args;
    }
    return negated ? with_child(p, NODE_NOT, at, test, NULL) : test;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *node)
{
    while (!p->failed) {
        if (parse_skip(p, TOKEN_PIPE))
            node = parse_filter(p, node);
        else if (parse_is_name(p, "is"))
            node = parse_test(p, node);
        else if (p->token.kind == TOKEN_LPAREN)
            node = parse_call(p, node);
        else
            break;
    }
    return p->failed ? NULL : node;
}

/* ---- operators */

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    uint32_t at = p->token.at;
    enum token_kind sign = p->token.kind;
    struct node *node;
    if (sign == TOKEN_SUB || sign == TOKEN_ADD) {
        parse_advance(p);
        if (!parse_enter(p))
            return NULL;
        node = parse_unary(p, false);
        p->nesting--;
        node = with_child(p, sign == TOKEN_SUB ? NODE_NEGATE : NODE_PLUS, at, node, NULL);
    } else {
        node = parse_primary(p);
    }
    node = p->failed ? NULL : parse_postfix(p, node);
    return with_filters && !p->failed ? parse_filters_and_tests(p, node) : node;
}

/* How tightly an operator binds its operands; 0: not a binary operator of this ladder. */
static int binding(enum token_kind kind)
{
    switch (kind) {
    case TOKEN_ADD:
    case TOKEN_SUB:
        return 1;
    case TOKEN_TILDE:
        return 2;
    case TOKEN_MUL:
    case TOKEN_DIV:
    case TOKEN_FLOORDIV:
    case TOKEN_MOD:
        return 3;
    case TOKEN_POW:
        return 4;
    default:
        return 0;
    }
}

/* Precedence climbing; all of these associate to the left, ** too. */
static struct node *parse_math(struct parser *p, int least)
{
    struct node *left = parse_unary(p, true);
    while (!p->failed && binding(p->token.kind) >= least) {
        enum token_kind op = p->token.kind;
        uint32_t at = p->token.at;
        parse_advance(p);
        struct node *right = parse_math(p, binding(op) + 1);
        if (op == TOKEN_TILDE && left && left->kind == NODE_CONCAT && left->op == 0) {
            append_child(p, left, right); /* a ~ b ~ c is one node */
            continue;
        }
        struct node *node = with_child(p, op == TOKEN_TILDE ? NODE_CONCAT : NODE_BINARY, at,
                                       NULL, NULL);
        if (!node)
            return NULL;
        if (op == TOKEN_TILDE) {
            append_child(p, node, left);
            append_child(p, node, right);
        } else {
            node->op = (uint8_t)op;
            node->a = left;
            node->b = right;
            parse_adopt(p, node, left);
            parse_adopt(p, node, right);
        }
        left = node;
    }
    return p->failed ? NULL : left;
}

static bool comparison(struct parser *p, enum token_kind *op)
{
    *op = p->token.kind;
    if (*op >= TOKEN_EQ && *op <= TOKEN_GE) {
        parse_advance(p);
        return true;
    }
    if (parse_skip_name(p, "in")) {
        *op = TOKEN_IN;
        return true;
    }
    const struct token *next = parse_is_name(p, "not") ? parse_look(p) : NULL;
    if (!next || next->kind != TOKEN_NAME || next->n != 2 || memcmp(next->text, "in", 2))
        return false;
    *op = TOKEN_NOT_IN;
    parse_advance(p);
    parse_advance(p);
    return true;
}

static struct node *parse_compare(struct parser *p)
{
    uint32_t at = p->token.at;
    struct node *left = parse_math(p, 1), *node = NULL;
    enum token_kind op;
    while (!p->failed) {
        uint32_t op_at = p->token.at;
        if (!comparison(p, &op))
            break;
        if (!node)
            node = with_child(p, NODE_COMPARE, at, left, NULL);
        struct node *operand = with_child(p, NODE_OPERAND, op_at, parse_math(p, 1), NULL);
        if (p->failed)
            return NULL;
        operand->op = (uint8_t)op;
        append_child(p, node, operand);
    }
    return p->failed ? NULL : node ? node : left;
}

static struct node *parse_not(struct parser *p)
{
    if (!parse_is_name(p, "not"))
        return parse_compare(p);
    uint32_t at = p->token.at;
    parse_advance(p);
    if (!parse_enter(p))
        return NULL;
    struct node *node = with_child(p, NODE_NOT, at, parse_not(p), NULL);
    p->nesting--;
    return node;
}

static struct node *parse_and(struct parser *p)
{
    struct node *node = parse_not(p);
    for (uint32_t at = p->token.at; parse_skip_name(p, "and"); at = p->token.at)
        node = with_child(p, NODE_AND, at, node, parse_not(p));
    return p->failed ? NULL : node;
}

static struct node *parse_or(struct parser *p)
{
    struct node *node = parse_and(p);
    for (uint32_t at = p->token.at; parse_skip_name(p, "or"); at = p->token.at)
        node = with_child(p, NODE_OR, at, node, parse_and(p));
    return p->failed ? NULL : node;
}

struct node *expr_parse(struct parser *p, bool with_if)
{
    if (!parse_enter(p))
        return NULL;
    struct node *node = parse_or(p);
    for (uint32_t at = p->token.at; with_if && parse_skip_name(p, "if"); at = p->token.at) {
        struct node *choice = with_child(p, NODE_IF_ELSE, at, node, parse_or(p));
        if (p->failed)
            break;
        if (parse_skip_name(p, "else")) {
            choice->c = expr_parse(p, true);
            parse_adopt(p, choice, choice->c);
        }
        node = choice;
    }
    p->nesting--;
    return p->failed ? NULL : node;
}

struct node *expr_tuple(struct parser *p, bool with_if, const char *end, bool empty_allowed)
{
    uint32_t at = p->token.at;
    struct node *tuple = NULL, *first = NULL;
    for (;;) {
        enum token_kind kind = p->token.kind;
        if (p->failed || kind == TOKEN_PRINT_END || kind == TOKEN_BLOCK_END ||
            kind == TOKEN_RPAREN || (end && parse_is_name(p, end)))
            break;
        struct node *item = expr_parse(p, with_if);
        if (!first)
            first = item;
        if (tuple)
            append_child(p, tuple, item);
        if (p->token.kind != TOKEN_COMMA)
            break;
        if (!tuple) {
            tuple = parse_node(p, NODE_TUPLE, at);
            append_child(p, tuple, first);
        }
        parse_advance(p);
    }
    if (p->failed)
        return NULL;
    if (!first && !empty_allowed) {
        parse_fail(p, at, "expected an expression, got '%s'", lex_kind_text(p->token.kind));
        return NULL;
    }
    return tuple ? tuple : first ? first : parse_node(p, NODE_TUPLE, at);
}

/* ---- targets of set, for and with */

static struct node *parse_target_name(struct parser *p, bool with_namespace)
{
    struct token t = p->token;
    if (parse_skip(p, TOKEN_LPAREN)) {
        if (!parse_enter(p))
            return NULL;
        struct node *tuple = expr_target(p, with_namespace);
        p->nesting--;
        parse_expect(p, TOKEN_RPAREN);
        return tuple;
    }
    if (parse_is_name(p, "true") || parse_is_name(p, "false") || parse_is_name(p, "none") ||
        parse_is_name(p, "True") || parse_is_name(p, "False") || parse_is_name(p, "None") ||
        (!with_namespace && parse_is_name(p, "loop")))
        parse_fail(p, t.at, "can't assign to '%.*s'", (int)t.n, t.text);
    if (!parse_expect(p, TOKEN_NAME))
        return NULL;
    struct node *node = parse_node(p, NODE_NAME, t.at);
    if (p->failed)
        return NULL;
    node->name = parse_intern(p, t.text, t.n);
    if (!with_namespace || !parse_skip(p, TOKEN_DOT))
        return node;
    struct token attribute = p->token;
    if (!parse_expect(p, TOKEN_NAME))
        return NULL;
    node = with_child(p, NODE_ATTR, t.at, node, NULL);
    if (node)
        node->name = parse_intern(p, attribute.text, attribute.n);
    return node;
}

struct node *expr_target(struct parser *p, bool with_namespace)
{
    uint32_t at = p->token.at;
    struct node *first = parse_target_name(p, with_namespace);
    if (p->failed || p->token.kind != TOKEN_COMMA)
        return first;
    struct node *tuple = parse_node(p, NODE_TUPLE, at);
    append_child(p, tuple, first);
    while (parse_skip(p, TOKEN_COMMA) && p->token.kind != TOKEN_ASSIGN &&
           p->token.kind != TOKEN_RPAREN && p->token.kind != TOKEN_BLOCK_END &&
           !parse_is_name(p, "in"))
        append_child(p, tuple, parse_target_name(p, with_namespace));
    return p->failed ? NULL : tuple;
}
