/* eval: values of expressions. One switch over the node kinds; operators and lookups are in ops.c,
 * calls in call.c. Recursion is bounded by the tree's depth and render_enter. */
#include <string.h>

#include "engine/template/render_internal.h"

struct value eval_name(struct render *r, const struct str *name)
{
    for (const struct scope *scope = r->scope; scope; scope = scope->parent)
        for (const struct variable *v = scope->variables; v; v = v->next)
            if (v->name == name)
                return v->value;
    struct value key = value_string((struct str *)name);
    struct value *found = dict_find(r, r->context.u.dict, key);
    if (found)
        return *found;
    const struct builtin *global = globals_find(name);
    if (global)
        return (struct value){.kind = VALUE_BUILTIN, .u.builtin = global};
    struct undefined *undefined = render_alloc(r, 1, sizeof *undefined);
    if (undefined)
        *undefined = (struct undefined){.kind = VALUE_MISSING, .name = key};
    return (struct value){.kind = VALUE_UNDEFINED, .u.undefined = undefined};
}

static struct value eval_list(struct render *r, const struct node *node, enum value_kind kind)
{
    struct value list = value_list(r, kind, NULL);
    for (size_t i = 0; i < node->list.n && !r->failed; i++)
        value_push(r, list, eval(r, node->list.items[i]));
    return list;
}

static struct value eval_dict(struct render *r, const struct node *node)
{
    struct value dict = dict_new(r);
    for (size_t i = 0; i + 1 < node->list.n && !r->failed; i += 2) {
        struct value key = eval(r, node->list.items[i]);
        struct value value = eval(r, node->list.items[i + 1]);
        r->at = node->at;
        if (!r->failed)
            dict_set(r, dict.u.dict, key, value);
    }
    return dict;
}

static struct value eval_concat(struct render *r, const struct node *node)
{
    enum { LONG_BYTES = 256 };
    size_t mark = out_mark(r);
    struct value first = eval(r, node->list.items[0]);
    bool is_long = first.kind == VALUE_STRING && first.u.s->n >= LONG_BYTES;
    if (!is_long)
        out_value(r, first);
    for (size_t i = 1; i < node->list.n && !r->failed; i++)
        out_value(r, eval(r, node->list.items[i]));
    struct str *text = out_cut(r, mark);
    if (is_long && !r->failed) /* may go on in the store of the first */
        text = str_concat(r, str_plain(r, first.u.s), text);
    return value_string(text);
}

static struct value eval_compare(struct render *r, const struct node *node)
{
    struct value left = eval(r, node->a);
    for (size_t i = 0; i < node->list.n && !r->failed; i++) {
        const struct node *operand = node->list.items[i];
        struct value right = eval(r, operand->a);
        r->at = operand->at;
        if (r->failed || !ops_compare(r, (enum token_kind)operand->op, left, right))
            return value_bool(false);
        left = right;
    }
    return value_bool(true);
}

static struct value eval_item(struct render *r, const struct node *node)
{
    struct value object = eval(r, node->a);
    if (node->b->kind != NODE_SLICE) {
        struct value key = eval(r, node->b);
        r->at = node->at;
        return r->failed ? value_undefined() : ops_item(r, object, key);
    }
    const struct node *const part[3] = {node->b->a, node->b->b, node->b->c};
    struct value value[3];
    for (int i = 0; i < 3; i++)
        value[i] = part[i] ? eval(r, part[i]) : value_none();
    r->at = node->at;
    return r->failed ? value_undefined() : ops_slice(r, object, value);
}

static struct value eval_call(struct render *r, const struct node *node)
{
    struct call call;
    struct value callee = eval(r, node->a);
    call_arguments(r, node->args, &call);
    r->at = node->at;
    return r->failed ? value_undefined() : call_value(r, callee, &call);
}

static struct value eval_filter(struct render *r, const struct node *node, struct value value)
{
    struct call call;
    call_arguments(r, node->args, &call);
    r->at = node->at;
    return r->failed ? value_undefined() : filters_apply(r, node->name, value, &call);
}

struct value eval_filters(struct render *r, const struct node *node, struct value text)
{
    if (node->a && render_enter(r)) {
        text = eval_filters(r, node->a, text);
        r->depth--;
    }
    return r->failed ? value_undefined() : eval_filter(r, node, text);
}

static struct value eval_test(struct render *r, const struct node *node)
{
    struct call call;
    struct value value = eval(r, node->a);
    call_arguments(r, node->args, &call);
    r->at = node->at;
    return value_bool(!r->failed && tests_apply(r, node->name, value, &call));
}

static struct value eval_if_else(struct render *r, const struct node *node)
{
    bool holds = value_truth(eval(r, node->b));
    if (r->failed)
        return value_undefined();
    if (holds || node->c)
        return eval(r, holds ? node->a : node->c);
    return value_hint(r, "the inline if-expression evaluated to false and no else section was "
                         "defined.");
}

static struct value eval_binary(struct render *r, const struct node *node)
{
    struct value a = eval(r, node->a);
    struct value b = eval(r, node->b);
    r->at = node->at;
    return r->failed ? value_undefined() : ops_binary(r, (enum token_kind)node->op, a, b);
}

static struct value eval_logic(struct render *r, const struct node *node)
{
    struct value a = eval(r, node->a);
    if (r->failed || value_truth(a) == (node->kind == NODE_OR))
        return a;
    return eval(r, node->b);
}

static struct value eval_sign(struct render *r, const struct node *node)
{
    struct value v = eval(r, node->a);
    r->at = node->at;
    if (r->failed)
        return v;
    if (node->kind == NODE_NEGATE)
        return ops_negate(r, v);
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else if (!value_is_number(v))
        render_fail(r, "bad operand type for unary +: '%s'", value_type(v));
    return v.kind == VALUE_BOOL ? value_int(v.u.b) : v;
}

static struct value eval_node(struct render *r, const struct node *node)
{
    switch ((enum node_kind)node->kind) {
    case NODE_CONST:
        return node->value;
    case NODE_NAME:
        return eval_name(r, node->name);
    case NODE_TUPLE:
        return eval_list(r, node, VALUE_TUPLE);
    case NODE_LIST:
        return eval_list(r, node, VALUE_LIST);
    case NODE_DICT:
        return eval_dict(r, node);
    case NODE_AND:
    case NODE_OR:
        return eval_logic(r, node);
    case NODE_NOT:
        return value_bool(!value_truth(eval(r, node->a)));
    case NODE_NEGATE:
    case NODE_PLUS:
        return eval_sign(r, node);
    case NODE_BINARY:
        return eval_binary(r, node);
    case NODE_CONCAT:
        return eval_concat(r, node);
    case NODE_COMPARE:
        return eval_compare(r, node);
    case NODE_IF_ELSE:
        return eval_if_else(r, node);
    case NODE_ATTR: {
        struct value object = eval(r, node->a);
        r->at = node->at;
        return r->failed ? object : ops_attribute(r, object, node->name);
    }
    case NODE_ITEM:
        return eval_item(r, node);
    case NODE_CALL:
        return eval_call(r, node);
    case NODE_FILTER:
        return eval_filter(r, node, node->a ? eval(r, node->a) : value_undefined());
    case NODE_TEST:
        return eval_test(r, node);
    default:
        render_fail(r, "this is not an expression");
        return value_undefined();
    }
}

struct value eval(struct render *r, const struct node *node)
{
    r->at = node->at;
    if (!render_enter(r))
        return value_undefined();
    struct value v = eval_node(r, node);
    r->depth--;
    return r->failed ? value_undefined() : v;
}
