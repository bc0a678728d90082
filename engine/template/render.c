/* render: executes statements, and owns a render's life: arena, scopes, bounds, errors, output.
 *
 * One render is on one thread with its own arena; the template is only read. Scopes are a chain
 * from the innermost; a name is looked up along it, then in the context, then among the globals. As
 * in Jinja, `if` opens no scope; for, macro, call, filter, with and block-set bodies do. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/render_internal.h"

enum {
    OUTPUT_BYTES_MAX = 16 << 20,
    SCRATCH_BYTES_MAX = 48 << 20, /* output and the strings being built on top of it */
    ARENA_BYTES_MAX = 96 << 20
};

/* ---- failures and bounds */

void render_fail(struct render *r, const char *format, ...)
{
    if (r->failed)
        return;
    char what[400];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t line, column;
    lex_place(r->t->source, r->at, &line, &column);
    r->failed = err_set(r->err, ERR_VALUE, "line %zu, column %zu: %s", line, column, what);
}

void render_raise(struct render *r, const struct str *message)
{
    int n = message->n > 470 ? 470 : (int)message->n;
    if (!r->failed)
        r->failed = err_set(r->err, ERR_VALUE, "%.*s", n, message->data);
}

void render_no_memory(struct render *r)
{
    render_fail(r, "rendering needs too much memory");
}

bool render_work(struct render *r, uint64_t units)
{
    if (r->failed)
        return false;
    if (units > r->units) {
        render_fail(r, "rendering takes more than %d steps", RENDER_STEPS_MAX);
        return false;
    }
    r->units -= units;
    return true;
}

bool render_bytes(struct render *r, size_t n)
{
    return render_work(r, n / RENDER_BYTES_PER_UNIT);
}

bool render_enter(struct render *r)
{
    if (r->failed || !render_work(r, 1))
        return false;
    if (r->depth < RENDER_DEPTH_MAX) {
        r->depth++;
        return true;
    }
    render_fail(r, "values or expressions are nested too deeply");
    return false;
}

void *render_alloc(struct render *r, size_t count, size_t size)
{
    void *memory = r->failed ? NULL : arena_array(&r->arena, count, size);
    if (!memory)
        render_no_memory(r);
    return memory;
}

/* ---- scopes */

struct scope *render_push(struct render *r, struct scope *parent)
{
    struct scope *scope = render_alloc(r, 1, sizeof *scope);
    if (scope)
        scope->parent = parent;
    return scope;
}

void render_set(struct render *r, struct scope *scope, const struct str *name, struct value value)
{
    if (!scope)
        return;
    for (struct variable *v = scope->variables; v; v = v->next)
        if (v->name == name) {
            v->value = value;
            return;
        }
    struct variable *v = scope->spare;
    if (v)
        scope->spare = v->next;
    else
        v = render_alloc(r, 1, sizeof *v);
    if (!v)
        return;
    *v = (struct variable){name, value, scope->variables};
    scope->variables = v;
}

static void keep_scopes(struct scope *scope)
{
    for (; scope && !scope->kept; scope = scope->parent)
        scope->kept = true;
}

/* The scope of a loop's next round: the last one's (NULL: there was none) with nothing set, so that
 * long loops take no memory for their scopes; a new one if something may still read that. */
static struct scope *next_round(struct render *r, struct scope *last, struct scope *outside)
{
    if (!last || last->kept)
        return render_push(r, outside);
    while (last->variables) {
        struct variable *v = last->variables;
        last->variables = v->next;
        v->next = last->spare;
        last->spare = v;
    }
    return last;
}

static void set_attribute(struct render *r, const struct node *target, struct value value)
{
    struct value object = eval_name(r, target->a->name);
    r->at = target->at;
    if (object.kind == VALUE_NAMESPACE)
        dict_set(r, object.u.dict, value_string(target->name), value);
    else
        render_fail(r, "cannot assign attribute on non-namespace object");
}

void render_assign(struct render *r, const struct node *target, struct value value)
{
    if (r->failed)
        return;
    r->at = target->at;
    if (target->kind == NODE_NAME) {
        render_set(r, r->scope, target->name, value);
        return;
    }
    if (target->kind == NODE_ATTR) {
        set_attribute(r, target, value);
        return;
    }
    struct iter it;
    struct value item;
    size_t want = target->list.n;
    if (!iter_can(value)) {
        render_fail(r, "cannot unpack non-iterable %s object", value_type(value));
        return;
    }
    if (!iter_open(r, value, &it))
        return;
    if (it.n > want)
        render_fail(r, "too many values to unpack (expected %zu)", want);
    else if (it.n < want)
        render_fail(r, "not enough values to unpack (expected %zu, got %zu)", want, it.n);
    for (size_t i = 0; i < want && iter_next(r, &it, &item); i++)
        render_assign(r, target->list.items[i], item);
}

/* ---- statements */

static enum flow exec(struct render *r, const struct node *node);

enum flow render_body(struct render *r, const struct node_list *body)
{
    enum flow flow = FLOW_NEXT;
    for (size_t i = 0; i < body->n && flow == FLOW_NEXT && !r->failed; i++)
        flow = exec(r, body->items[i]);
    return flow;
}

static enum flow scoped_body(struct render *r, const struct node_list *body)
{
    struct scope *outside = r->scope, *inside = render_push(r, outside);
    if (!inside)
        return FLOW_NEXT;
    r->scope = inside;
    enum flow flow = render_body(r, body);
    r->scope = outside;
    return flow;
}

/* The text a body renders to. */
static struct value capture(struct render *r, const struct node_list *body, enum flow *flow)
{
    size_t mark = out_mark(r);
    *flow = scoped_body(r, body);
    return value_string(out_cut(r, mark));
}

static enum flow exec_if(struct render *r, const struct node *node)
{
    for (size_t i = 0; i + 1 < node->list.n; i += 2) {
        bool holds = value_truth(eval(r, node->list.items[i]));
        if (r->failed)
            return FLOW_NEXT;
        if (holds)
            return render_body(r, &node->list.items[i + 1]->body);
    }
    return render_body(r, &node->else_body);
}

/* The items a for goes over: all of them, or those its `if` lets pass. */
static struct list *loop_items(struct render *r, const struct node *node, struct value items)
{
    r->at = node->b->at;
    bool is_list = items.kind == VALUE_LIST || items.kind == VALUE_TUPLE; /* does not change */
    struct value all = is_list ? items : iter_list(r, items, VALUE_LIST);
    if (r->failed || !node->c)
        return r->failed ? NULL : all.u.list;
    struct value chosen = value_list(r, VALUE_LIST, NULL);
    struct scope *outside = r->scope, *inside = NULL;
    for (size_t i = 0; i < all.u.list->n && !r->failed; i++) {
        r->scope = inside = next_round(r, inside, outside);
        render_assign(r, node->a, all.u.list->items[i]);
        if (!r->failed && value_truth(eval(r, node->c)))
            value_push(r, chosen, all.u.list->items[i]);
    }
    r->scope = outside;
    return r->failed ? NULL : chosen.u.list;
}

/* As in Jinja, the else body follows when no round got to its end, be it for break or continue. */
static void run_loop(struct render *r, const struct node *node, struct value items, size_t depth0)
{
    bool none_ended = true;
    struct scope *outside = r->scope, *inside = NULL;
    struct loop *loop = render_alloc(r, 1, sizeof *loop);
    struct list *list = loop ? loop_items(r, node, items) : NULL;
    if (!list)
        return;
    *loop = (struct loop){.node = node, .outside = outside, .items = list, .depth0 = depth0};
    if (node->recursive)
        keep_scopes(outside); /* the loop may be called later */
    for (size_t i = 0; i < list->n && render_work(r, RENDER_STEP_UNITS); i++) {
        r->scope = inside = next_round(r, inside, outside);
        loop->index0 = i;
        render_set(r, r->scope, r->t->loop_name,
                   (struct value){.kind = VALUE_LOOP, .u.loop = loop});
        render_assign(r, node->a, list->items[i]);
        enum flow flow = render_body(r, &node->body);
        none_ended = none_ended && flow != FLOW_NEXT;
        if (flow == FLOW_BREAK)
            break;
    }
    r->scope = outside;
    if (none_ended && !r->failed)
        scoped_body(r, &node->else_body);
}

struct value render_loop_call(struct render *r, struct loop *loop, struct value items)
{
    if (!loop->node->recursive) {
        render_fail(r, "The loop must have the 'recursive' marker to be called recursively.");
        return value_undefined();
    }
    if (r->calls >= RENDER_CALLS_MAX) {
        render_fail(r, "loops call themselves more than %d deep", RENDER_CALLS_MAX);
        return value_undefined();
    }
    struct scope *scope = r->scope;
    size_t mark = out_mark(r);
    r->calls++;
    r->scope = loop->outside;
    run_loop(r, loop->node, items, loop->depth0 + 1);
    r->scope = scope;
    r->calls--;
    return value_string(out_cut(r, mark));
}

static enum flow exec_with(struct render *r, const struct node *node)
{
    struct scope *outside = r->scope, *inside = render_push(r, outside);
    for (size_t i = 0; inside && i + 1 < node->list.n && !r->failed; i += 2) {
        struct value value = eval(r, node->list.items[i + 1]); /* sees the outside alone */
        r->scope = inside;
        render_assign(r, node->list.items[i], value);
        r->scope = outside;
    }
    if (!inside || r->failed)
        return FLOW_NEXT;
    r->scope = inside;
    enum flow flow = render_body(r, &node->body);
    r->scope = outside;
    return flow;
}

static struct value macro_value(struct render *r, const struct node *node)
{
    struct macro *macro = render_alloc(r, 1, sizeof *macro);
    if (!macro)
        return value_undefined();
    keep_scopes(r->scope);
    *macro = (struct macro){.node = node, .closure = r->scope,
                            .has_caller = node->uses & USES_CALLER};
    return (struct value){.kind = VALUE_MACRO, .u.macro = macro};
}

/* {% call f(x) %}: f(x) with one more keyword argument, caller. */
static void exec_call_block(struct render *r, const struct node *node)
{
    struct call call;
    struct value callee = eval(r, node->a->a);
    call_arguments(r, node->a->args, &call);
    struct value *values = render_alloc(r, call.n + call.n_names + 1, sizeof *values);
    struct str **names = render_alloc(r, call.n_names + 1, sizeof *names);
    if (!values || !names)
        return;
    if (call.n + call.n_names)
        memcpy(values, call.values, (call.n + call.n_names) * sizeof *values);
    if (call.n_names)
        memcpy(names, call.names, call.n_names * sizeof *names);
    values[call.n + call.n_names] = macro_value(r, node);
    names[call.n_names] = node->name;
    call = (struct call){values, names, call.n, call.n_names + 1};
    r->at = node->at;
    out_value(r, call_value(r, callee, &call));
}

static enum flow exec(struct render *r, const struct node *node)
{
    enum flow flow = FLOW_NEXT;
    struct value value;
    r->at = node->at;
    if (!render_work(r, RENDER_STEP_UNITS / 4) || !render_enter(r))
        return FLOW_NEXT;
    switch ((enum node_kind)node->kind) {
    case NODE_TEXT:
        out_str(r, node->value.u.s);
        break;
    case NODE_PRINT:
        value = eval(r, node->a);
        r->at = node->at;
        out_value(r, value);
        break;
    case NODE_IF:
        flow = exec_if(r, node);
        break;
    case NODE_FOR:
        run_loop(r, node, eval(r, node->b), 0);
        break;
    case NODE_SET:
        render_assign(r, node->a, eval(r, node->b));
        break;
    case NODE_SET_BLOCK:
        value = capture(r, &node->body, &flow);
        if (flow == FLOW_NEXT)
            render_assign(r, node->a, node->b ? eval_filters(r, node->b, value) : value);
        break;
    case NODE_FILTER_BLOCK:
        value = eval_filters(r, node->b, capture(r, &node->body, &flow));
        r->at = node->at;
        if (value.kind != VALUE_STRING)
            render_fail(r, "the filtered block is no text but of type '%s'", value_type(value));
        out_value(r, value);
        break;
    case NODE_WITH:
        flow = exec_with(r, node);
        break;
    case NODE_SCOPE:
        flow = scoped_body(r, &node->body);
        break;
    case NODE_MACRO:
        render_set(r, r->scope, node->name, macro_value(r, node));
        break;
    case NODE_CALL_BLOCK:
        exec_call_block(r, node);
        break;
    case NODE_BREAK:
        flow = FLOW_BREAK;
        break;
    case NODE_CONTINUE:
        flow = FLOW_CONTINUE;
        break;
    default:
        render_fail(r, "this statement can not be executed");
    }
    r->depth--;
    return flow;
}

/* ---- the public door */

static bool is_listed(const char *const *names, const char *name)
{
    for (; names && *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

static void read_context(struct render *r, const json_t *context, const char *const *trusted_names)
{
    const char *key;
    json_t *item;
    r->context = dict_new(r);
    if (r->failed)
        return;
    json_object_foreach((json_t *)context, key, item) {
        if (r->failed)
            return;
        bool trusted = json_is_string(item) && is_listed(trusted_names, key);
        dict_append(r, r->context.u.dict, value_string(str_new(r, key, strlen(key), false)),
                    value_from_json(r, item, trusted, 0));
    }
}

int template_render(const struct template *t, const json_t *context,
                    const char *const *trusted_names, time_t now, struct template_text *out,
                    struct err *err)
{
    struct err ignored;
    struct render r = {.t = t, .now = now, .err = err ? err : &ignored,
                       .units = (uint64_t)RENDER_STEPS_MAX * RENDER_STEP_UNITS};
    *out = (struct template_text){0};
    arena_init(&r.arena, ARENA_BYTES_MAX);
    buf_init(&r.text, SCRATCH_BYTES_MAX);
    buf_init(&r.trusted, SCRATCH_BYTES_MAX);
    r.scope = render_push(&r, NULL);
    read_context(&r, context, trusted_names);
    if (!r.failed)
        render_body(&r, &t->body);
    if (r.text.size > OUTPUT_BYTES_MAX)
        render_fail(&r, "the rendered text is larger than %d bytes", OUTPUT_BYTES_MAX);
    arena_free(&r.arena);
    if (r.failed) {
        buf_free(&r.text);
        buf_free(&r.trusted);
        return r.failed;
    }
    out->text = r.text;
    out->trusted = (struct text_span *)(void *)r.trusted.data;
    out->n_trusted = r.trusted.size / sizeof(struct text_span);
    return 0;
}

void template_text_free(struct template_text *t)
{
    if (!t)
        return;
    buf_free(&t->text);
    free(t->trusted);
    *t = (struct template_text){0};
}
