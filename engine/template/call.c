/* call: binds arguments to parameters and calls what can be called: table functions, methods,
 * macros, recursive loops, joiners. The render's thread. */
#include <stdio.h>
#include <string.h>

#include "engine/template/render_internal.h"

static size_t count_star(struct render *r, const struct value *star, const struct value *star_star)
{
    if (star && !iter_can(*star))
        render_fail(r, "argument after * must be an iterable, not %s", value_type(*star));
    if (star_star && star_star->kind != VALUE_DICT)
        render_fail(r, "argument after ** must be a mapping, not %s", value_type(*star_star));
    if (r->failed || !star)
        return 0;
    struct iter it;
    return iter_open(r, *star, &it) ? it.n : 0;
}

/* The values of **mapping, each with its name. */
static void add_names(struct render *r, struct call *call, const struct dict *d)
{
    for (size_t i = 0; i < d->n && render_work(r, 1); i++) {
        if (d->pairs[i].key.kind != VALUE_STRING) {
            render_fail(r, "keywords must be strings");
            return;
        }
        call->names[call->n_names] = d->pairs[i].key.u.s;
        call->values[call->n + call->n_names++] = d->pairs[i].value;
    }
}

void call_arguments(struct render *r, const struct args *args, struct call *call)
{
    *call = (struct call){0};
    if (!args || r->failed)
        return;
    struct value star = args->star ? eval(r, args->star) : value_none();
    struct value star_star = args->star_star ? eval(r, args->star_star) : value_none();
    size_t n_star = count_star(r, args->star ? &star : NULL, args->star_star ? &star_star : NULL);
    size_t n_names = args->keyword.n;
    if (!r->failed && args->star_star)
        n_names += star_star.u.dict->n;
    size_t n = args->positional.n + n_star + n_names;
    if (r->failed || n == 0)
        return;
    call->values = render_alloc(r, n, sizeof *call->values);
    call->names = render_alloc(r, n_names + 1, sizeof *call->names);
    if (!call->values || !call->names) {
        *call = (struct call){0};
        return;
    }
    for (size_t i = 0; i < args->positional.n; i++)
        call->values[call->n++] = eval(r, args->positional.items[i]);
    struct iter it;
    struct value item;
    if (n_star && iter_open(r, star, &it))
        while (iter_next(r, &it, &item))
            call->values[call->n++] = item;
    for (size_t i = 0; i < args->keyword.n; i++) {
        const struct node *keyword = args->keyword.items[i];
        call->names[call->n_names] = keyword->name;
        call->values[call->n + call->n_names] = eval(r, keyword->a);
        call->n_names++;
    }
    if (args->star_star)
        add_names(r, call, star_star.u.dict);
}

struct value *call_named(const struct call *call, const char *name)
{
    for (size_t i = 0; i < call->n_names; i++)
        if (str_is(call->names[i], name))
            return &call->values[call->n + i];
    return NULL;
}

const struct builtin *call_find(const struct builtin *table, size_t n, const struct str *name)
{
    for (size_t i = 0; i < n; i++)
        if (str_is(name, table[i].name))
            return &table[i];
    return NULL;
}

struct value call_or(struct value v, struct value otherwise)
{
    return v.kind == VALUE_MISSING ? otherwise : v;
}

struct str *call_text(struct render *r, struct value v)
{
    if (v.kind == VALUE_STRING)
        return v.u.s;
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else
        render_fail(r, "expected a string, got %s", value_type(v));
    return str_new(r, "", 0, false);
}

int64_t call_int(struct render *r, struct value v)
{
    if (v.kind == VALUE_INT)
        return v.u.i;
    if (v.kind == VALUE_BOOL)
        return v.u.b;
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else
        render_fail(r, "'%s' object cannot be interpreted as an integer", value_type(v));
    return 0;
}

/* ---- table functions */

static const char *next_parameter(const char *at, size_t *n, bool *optional)
{
    while (*at == ' ')
        at++;
    *n = strcspn(at, " =");
    *optional = at[*n] == '=';
    return *n ? at : NULL;
}

static void bind_named(struct render *r, const struct builtin *b, const struct call *call,
                       struct bound_args *args)
{
    for (size_t k = 0; k < call->n_names && !r->failed; k++) {
        const struct str *name = call->names[k];
        const char *at = b->parameters;
        size_t n, i = 0;
        bool optional, found = false;
        while ((at = next_parameter(at, &n, &optional)) != NULL) {
            if (n == name->n && memcmp(at, name->data, n) == 0) {
                found = true;
                if (args->v[i].kind != VALUE_MISSING)
                    render_fail(r, "%s() got multiple values for argument '%.*s'", b->name, (int)n,
                                at);
                args->v[i] = call->values[call->n + k];
            }
            at += n + optional;
            i++;
        }
        if (!found)
            render_fail(r, "%s() got an unexpected keyword argument '%.*s'", b->name,
                        (int)(name->n > 60 ? 60 : name->n), name->data);
    }
}

struct value call_builtin(struct render *r, const struct builtin *b, struct value self,
                          const struct call *call)
{
    struct bound_args args = {.self = self, .call = call};
    if (r->failed)
        return value_undefined();
    if (strcmp(b->parameters, "*") != 0) {
        const char *at = b->parameters;
        size_t n, count = 0;
        bool optional;
        for (; (at = next_parameter(at, &n, &optional)) != NULL; at += n + optional)
            if (++count <= call->n)
                args.v[count - 1] = call->values[count - 1];
        if (call->n > count)
            render_fail(r, "%s() takes at most %zu argument%s (%zu given)", b->name, count,
                        count == 1 ? "" : "s", call->n);
        bind_named(r, b, call, &args);
        at = b->parameters;
        for (size_t i = 0; (at = next_parameter(at, &n, &optional)) != NULL; at += n + optional)
            if (args.v[i++].kind == VALUE_MISSING && !optional)
                render_fail(r, "%s() missing required argument '%.*s'", b->name, (int)n, at);
    }
    if (r->failed || !render_work(r, 2))
        return value_undefined();
    return b->call(r, &args);
}

/* ---- macros */

static bool is_parameter(const struct node *node, const struct str *name)
{
    for (size_t i = 0; i < node->list.n; i++)
        if (node->list.items[i]->name == name || str_equal(node->list.items[i]->name, name))
            return true;
    return false;
}

/* varargs, kwargs and caller, for the macros that name them; what nobody takes is an error. */
static void bind_special(struct render *r, const struct macro *macro, const struct call *call,
                         struct scope *scope)
{
    const struct node *node = macro->node;
    int n_name = (int)(node->name->n > 80 ? 80 : node->name->n);
    struct value varargs = value_list(r, VALUE_TUPLE, NULL), kwargs = dict_new(r);
    struct value caller = value_hint(r, "No caller defined");
    for (size_t i = node->list.n; i < call->n && !r->failed; i++)
        value_push(r, varargs, call->values[i]);
    if (!(node->uses & USES_VARARGS) && call->n > node->list.n)
        render_fail(r, "macro '%.*s' takes not more than %zu argument(s)", n_name,
                    node->name->data, node->list.n);
    for (size_t i = 0; i < call->n_names && !r->failed; i++) {
        struct str *name = call->names[i];
        struct value value = call->values[call->n + i];
        if (is_parameter(node, name))
            continue;
        if (macro->has_caller && str_is(name, "caller"))
            caller = value;
        else if (node->uses & USES_KWARGS)
            dict_set(r, kwargs.u.dict, value_string(name), value);
        else
            render_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", n_name,
                        node->name->data, (int)(name->n > 80 ? 80 : name->n), name->data);
    }
    if (node->uses & USES_VARARGS)
        render_set(r, scope, r->t->varargs_name, varargs);
    if (node->uses & USES_KWARGS)
        render_set(r, scope, r->t->kwargs_name, kwargs);
    if (macro->has_caller)
        render_set(r, scope, r->t->caller_name, caller);
}

static void bind_parameter(struct render *r, const struct node *parameter, size_t i,
                           const struct call *call, struct scope *scope)
{
    struct value value = {.kind = VALUE_MISSING};
    if (i < call->n)
        value = call->values[i];
    for (size_t k = 0; k < call->n_names; k++)
        if (str_equal(call->names[k], parameter->name))
            value = call->values[call->n + k];
    if (value.kind == VALUE_MISSING && parameter->a) {
        value = eval(r, parameter->a);
    } else if (value.kind == VALUE_MISSING) {
        char hint[160];
        snprintf(hint, sizeof hint, "parameter '%.*s' was not provided",
                 (int)(parameter->name->n > 80 ? 80 : parameter->name->n), parameter->name->data);
        value = value_hint(r, r->failed ? "" : arena_copy(&r->arena, hint, strlen(hint)));
    }
    render_set(r, scope, parameter->name, value);
}

static struct value call_macro(struct render *r, const struct macro *macro,
                               const struct call *call)
{
    const struct node *node = macro->node;
    if (r->calls >= RENDER_CALLS_MAX) {
        render_fail(r, "macros call each other more than %d deep", RENDER_CALLS_MAX);
        return value_undefined();
    }
    struct scope *scope = r->scope, *inside = render_push(r, macro->closure);
    if (!inside)
        return value_undefined();
    size_t mark = out_mark(r);
    r->calls++;
    r->scope = inside;
    for (size_t i = 0; i < node->list.n && !r->failed; i++)
        bind_parameter(r, node->list.items[i], i, call, inside);
    if (!r->failed)
        bind_special(r, macro, call, inside);
    if (!r->failed)
        render_body(r, &node->body);
    r->scope = scope;
    r->calls--;
    return value_string(out_cut(r, mark));
}

struct value call_value(struct render *r, struct value callee, const struct call *call)
{
    struct value first = call->n ? call->values[0] : value_undefined();
    if (r->failed)
        return value_undefined();
    switch ((enum value_kind)callee.kind) {
    case VALUE_BUILTIN:
        return call_builtin(r, callee.u.builtin, value_none(), call);
    case VALUE_BOUND:
        return call_builtin(r, callee.u.bound->builtin, callee.u.bound->self, call);
    case VALUE_MACRO:
        return call_macro(r, callee.u.macro, call);
    case VALUE_LOOP:
        return render_loop_call(r, callee.u.loop, first);
    case VALUE_JOINER: {
        struct str *separator = callee.u.joiner[1];
        bool used = callee.u.joiner[0] != NULL;
        callee.u.joiner[0] = separator;
        return value_string(used ? separator : str_new(r, "", 0, false));
    }
    case VALUE_UNDEFINED:
        ops_undefined(r, callee);
        return value_undefined();
    default:
        render_fail(r, "'%s' object is not callable", value_type(callee));
        return value_undefined();
    }
}
