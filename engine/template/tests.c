/* tests: what stands after `is`, as one table; also used by select, reject and their kin. The
 * render's thread. */
#include <string.h>

#include "engine/template/render_internal.h"

static struct value test_defined(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind != VALUE_UNDEFINED);
}

static struct value test_undefined(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_UNDEFINED);
}

static struct value test_none(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_NONE);
}

static struct value test_boolean(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_BOOL);
}

static struct value test_true(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_BOOL && args->self.u.b);
}

static struct value test_false(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_BOOL && !args->self.u.b);
}

static struct value test_integer(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_INT);
}

static struct value test_float(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_FLOAT);
}

static struct value test_number(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(value_is_number(args->self));
}

static struct value test_string(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_STRING);
}

static struct value test_mapping(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_DICT);
}

/* Has a length and takes subscripts; Python's Undefined has both methods. */
static struct value test_sequence(struct render *r, const struct bound_args *args)
{
    enum value_kind kind = (enum value_kind)args->self.kind;
    (void)r;
    return value_bool(kind == VALUE_STRING || kind == VALUE_LIST || kind == VALUE_TUPLE ||
                      kind == VALUE_DICT || kind == VALUE_RANGE || kind == VALUE_UNDEFINED);
}

static struct value test_iterable(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(iter_can(args->self));
}

static struct value test_callable(struct render *r, const struct bound_args *args)
{
    enum value_kind kind = (enum value_kind)args->self.kind;
    (void)r;
    return value_bool(kind == VALUE_MACRO || kind == VALUE_BUILTIN || kind == VALUE_BOUND ||
                      kind == VALUE_LOOP || kind == VALUE_JOINER || kind == VALUE_UNDEFINED);
}

static struct value test_same(struct render *r, const struct bound_args *args)
{
    struct value a = args->self, b = args->v[0];
    return value_bool(a.kind == b.kind && (a.kind < VALUE_LIST ? value_equal(r, a, b)
                                                               : a.u.pointer == b.u.pointer));
}

static struct value test_even(struct render *r, const struct bound_args *args)
{
    struct value two = value_int(2), rest = ops_binary(r, TOKEN_MOD, args->self, two);
    return value_bool(!r->failed && value_equal(r, rest, value_int(0)));
}

static struct value test_odd(struct render *r, const struct bound_args *args)
{
    struct value two = value_int(2), rest = ops_binary(r, TOKEN_MOD, args->self, two);
    return value_bool(!r->failed && value_equal(r, rest, value_int(1)));
}

static struct value test_divisible(struct render *r, const struct bound_args *args)
{
    struct value rest = ops_binary(r, TOKEN_MOD, args->self, args->v[0]);
    return value_bool(!r->failed && value_equal(r, rest, value_int(0)));
}

static struct value test_in(struct render *r, const struct bound_args *args)
{
    return value_bool(value_contains(r, args->v[0], args->self));
}

static struct value test_upper(struct render *r, const struct bound_args *args)
{
    return value_bool(chars_is_upper(out_string(r, args->self)));
}

static struct value test_lower(struct render *r, const struct bound_args *args)
{
    return value_bool(chars_is_lower(out_string(r, args->self)));
}

/* Whether a table of names may be asked for this: what can be no key fails. */
static bool is_name(struct render *r, struct value v)
{
    bool is_set = v.kind == VALUE_VIEW && strcmp(value_type(v), "dict_values") != 0;
    if (v.kind == VALUE_LIST || v.kind == VALUE_DICT || is_set)
        render_fail(r, "unhashable type: '%s'", value_type(v));
    return v.kind == VALUE_STRING;
}

static struct value test_filter(struct render *r, const struct bound_args *args)
{
    return value_bool(is_name(r, args->self) && filters_find(args->self.u.s));
}

static struct value test_test(struct render *r, const struct bound_args *args)
{
    return value_bool(is_name(r, args->self) && tests_find(args->self.u.s));
}

static struct value test_escaped(struct render *r, const struct bound_args *args)
{
    (void)r;
    return value_bool(args->self.kind == VALUE_STRING && args->self.u.s->markup);
}

#define COMPARISON(name, op)                                                                       \
    static struct value test_##name(struct render *r, const struct bound_args *args)               \
    {                                                                                              \
        return value_bool(ops_compare(r, op, args->self, args->v[0]));                             \
    }
COMPARISON(eq, TOKEN_EQ)
COMPARISON(ne, TOKEN_NE)
COMPARISON(lt, TOKEN_LT)
COMPARISON(le, TOKEN_LE)
COMPARISON(gt, TOKEN_GT)
COMPARISON(ge, TOKEN_GE)
#undef COMPARISON

static const struct builtin table[] = {
    {"defined", "", test_defined},
    {"undefined", "", test_undefined},
    {"none", "", test_none},
    {"boolean", "", test_boolean},
    {"true", "", test_true},
    {"false", "", test_false},
    {"integer", "", test_integer},
    {"float", "", test_float},
    {"number", "", test_number},
    {"string", "", test_string},
    {"mapping", "", test_mapping},
    {"sequence", "", test_sequence},
    {"iterable", "", test_iterable},
    {"callable", "", test_callable},
    {"sameas", "other", test_same},
    {"even", "", test_even},
    {"odd", "", test_odd},
    {"divisibleby", "num", test_divisible},
    {"in", "seq", test_in},
    {"upper", "", test_upper},
    {"lower", "", test_lower},
    {"filter", "", test_filter},
    {"test", "", test_test},
    {"escaped", "", test_escaped},
    {"==", "other", test_eq},
    {"eq", "other", test_eq},
    {"equalto", "other", test_eq},
    {"!=", "other", test_ne},
    {"ne", "other", test_ne},
    {"<", "other", test_lt},
    {"lt", "other", test_lt},
    {"lessthan", "other", test_lt},
    {"<=", "other", test_le},
    {"le", "other", test_le},
    {">", "other", test_gt},
    {"gt", "other", test_gt},
    {"greaterthan", "other", test_gt},
    {">=", "other", test_ge},
    {"ge", "other", test_ge},
};

const struct builtin *tests_find(const struct str *name)
{
    return call_find(table, sizeof table / sizeof *table, name);
}

bool tests_apply(struct render *r, const struct str *name, struct value v, const struct call *call)
{
    const struct builtin *test = tests_find(name);
    if (!test) {
        render_fail(r, "No test named '%.*s'.", (int)(name->n > 60 ? 60 : name->n), name->data);
        return false;
    }
    return value_truth(call_builtin(r, test, v, call));
}
