/* parse: tokens to the tree: statements here, expressions in expr.c; and the template's life.
 *
 * Owns: struct template (immutable after template_parse) and, during it, struct parser on one
 * thread. Errors are sticky: after the first one every look at the tokens sees the end, so loops
 * stop by themselves. Depth of nesting and of the tree is bounded: no source can exhaust the stack
 * here or in the evaluator. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/ast.h"

enum {
    SOURCE_MAX = 256 * 1024,
    NESTING_MAX = 120,  /* brackets, prefix operators and blocks inside each other */
    DEPTH_MAX = 1200,   /* of the tree: also long chains such as a + b + c + ... */
    NAMES_BUCKETS = 512 /* a power of two */
};
static const size_t TREE_BYTES_MAX = 128u << 20;

/* ---- tokens and errors */

void parse_fail(struct parser *p, uint32_t at, const char *format, ...)
{
    if (p->failed)
        return;
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t line, column;
    lex_place(p->t->source, at, &line, &column);
    p->failed = err_set(p->err, ERR_FORMAT, "line %zu, column %zu: %s", line, column, what);
    p->token.kind = TOKEN_END;
}

static void fail_memory(struct parser *p)
{
    if (!p->failed)
        p->failed = err_set(p->err, ERR_NOMEM, "the template needs too much memory");
    p->token.kind = TOKEN_END;
}

static void lex(struct parser *p, struct token *token)
{
    int rc = p->failed ? p->failed : lex_next(&p->lexer, token, p->err);
    if (rc) {
        p->failed = rc;
        p->token.kind = TOKEN_END;
        token->kind = TOKEN_END;
    }
}

void parse_advance(struct parser *p)
{
    if (p->has_next && !p->failed)
        p->token = p->next;
    else
        lex(p, &p->token);
    p->has_next = false;
}

const struct token *parse_look(struct parser *p)
{
    if (!p->has_next) {
        lex(p, &p->next);
        p->has_next = true;
    }
    return &p->next;
}

static bool token_is(const struct token *t, const char *name)
{
    return t->kind == TOKEN_NAME && strlen(name) == t->n && memcmp(t->text, name, t->n) == 0;
}

bool parse_is_name(const struct parser *p, const char *name)
{
    return token_is(&p->token, name);
}

bool parse_skip(struct parser *p, enum token_kind kind)
{
    if (p->failed || p->token.kind != kind)
        return false;
    parse_advance(p);
    return true;
}

bool parse_skip_name(struct parser *p, const char *name)
{
    if (!parse_is_name(p, name))
        return false;
    parse_advance(p);
    return true;
}

void parse_unexpected(struct parser *p)
{
    const struct token *t = &p->token;
    if (t->kind == TOKEN_NAME)
        parse_fail(p, t->at, "unexpected '%.*s'", (int)(t->n > 60 ? 60 : t->n), t->text);
    else
        parse_fail(p, t->at, "unexpected '%s'", lex_kind_text(t->kind));
}

bool parse_expect(struct parser *p, enum token_kind kind)
{
    if (parse_skip(p, kind))
        return !p->failed;
    const struct token *t = &p->token;
    if (t->kind == TOKEN_NAME)
        parse_fail(p, t->at, "expected '%s', got '%.*s'", lex_kind_text(kind),
                   (int)(t->n > 60 ? 60 : t->n), t->text);
    else
        parse_fail(p, t->at, "expected '%s', got '%s'", lex_kind_text(kind),
                   lex_kind_text(t->kind));
    return false;
}

bool parse_enter(struct parser *p)
{
    if (++p->nesting > NESTING_MAX)
        parse_fail(p, p->token.at, "nested more than %d deep", NESTING_MAX);
    return !p->failed;
}

/* ---- nodes */

struct node *parse_node(struct parser *p, enum node_kind kind, uint32_t at)
{
    struct node *node = arena_alloc(&p->t->arena, sizeof *node);
    if (!node) {
        fail_memory(p);
        return NULL;
    }
    node->kind = (uint8_t)kind;
    node->at = at;
    node->depth = 1;
    return node;
}

void parse_adopt(struct parser *p, struct node *parent, const struct node *child)
{
    if (!parent || !child || child->depth < parent->depth)
        return;
    if (child->depth >= DEPTH_MAX)
        parse_fail(p, parent->at, "the template is nested or chained more than %d deep",
                   DEPTH_MAX);
    else
        parent->depth = (uint16_t)(child->depth + 1);
}

void parse_append(struct parser *p, struct node_list *list, struct node *item)
{
    if (p->failed || !item)
        return;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        struct node **items = arena_array(&p->t->arena, capacity, sizeof *items);
        if (!items) {
            fail_memory(p);
            return;
        }
        if (list->n)
            memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = item;
}

/* The bucket of a name, and the name if it is there. */
static struct name **find_name(struct name **names, const char *text, size_t n, struct name **found)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    struct name **bucket = &names[hash & (NAMES_BUCKETS - 1)];
    for (*found = *bucket; *found; *found = (*found)->next)
        if ((*found)->str.n == n && memcmp((*found)->str.data, text, n) == 0)
            break;
    return bucket;
}

struct str *parse_intern(struct parser *p, const char *text, size_t n)
{
    struct name *known, **bucket = find_name(p->names, text, n, &known);
    if (known)
        return &known->str;
    struct name *name = arena_alloc(&p->t->arena, sizeof *name);
    struct text_span *span = arena_alloc(&p->t->arena, sizeof *span);
    if (!name || !span) {
        fail_memory(p);
        return NULL;
    }
    *span = (struct text_span){0, n};
    name->str = (struct str){.data = text, .n = n, .n_chars = SIZE_MAX, .trusted = span,
                             .n_trusted = n > 0};
    str_chars(&name->str); /* counted here: renders on several threads only read it */
    name->next = *bucket;
    *bucket = name;
    return &name->str;
}

/* ---- statements */

static void parse_body(struct parser *p, struct node_list *body, const char *const *ends);

/* The statements up to the tag that `ends` names, whose name is the current token afterwards. */
static void statements(struct parser *p, struct node *node, struct node_list *body,
                       const char *const *ends)
{
    parse_skip(p, TOKEN_COLON);
    if (!parse_expect(p, TOKEN_BLOCK_END) || !parse_enter(p))
        return;
    parse_body(p, body, ends);
    p->nesting--;
    for (size_t i = 0; i < body->n; i++)
        parse_adopt(p, node, body->items[i]);
}

#define ENDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct node *parse_if(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_IF, at);
    while (!p->failed) {
        struct node *condition = expr_tuple(p, false, NULL, false);
        struct node *body = parse_node(p, NODE_SCOPE, p->token.at);
        if (p->failed)
            break;
        statements(p, body, &body->body, ENDS("elif", "else", "endif"));
        parse_append(p, &node->list, condition);
        parse_append(p, &node->list, body);
        parse_adopt(p, node, condition);
        parse_adopt(p, node, body);
        if (parse_skip_name(p, "elif"))
            continue;
        if (parse_skip_name(p, "else"))
            statements(p, node, &node->else_body, ENDS("endif"));
        parse_skip_name(p, "endif");
        break;
    }
    return node;
}

static struct node *parse_for(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_FOR, at);
    struct node *target = expr_target(p, false);
    if (!parse_skip_name(p, "in"))
        parse_unexpected(p);
    struct node *items = expr_tuple(p, false, "recursive", false);
    struct node *condition = parse_skip_name(p, "if") ? expr_parse(p, true) : NULL;
    if (p->failed)
        return NULL;
    node->recursive = parse_skip_name(p, "recursive");
    node->a = target;
    node->b = items;
    node->c = condition;
    parse_adopt(p, node, target);
    parse_adopt(p, node, items);
    parse_adopt(p, node, condition);
    p->loops++;
    statements(p, node, &node->body, ENDS("else", "endfor"));
    p->loops--;
    if (parse_skip_name(p, "else"))
        statements(p, node, &node->else_body, ENDS("endfor"));
    parse_skip_name(p, "endfor");
    return node;
}

static struct node *parse_set(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_SET, at);
    struct node *target = expr_target(p, true);
    if (p->failed)
        return NULL;
    node->a = target;
    parse_adopt(p, node, target);
    if (parse_skip(p, TOKEN_ASSIGN)) {
        node->b = expr_tuple(p, true, NULL, false);
        parse_adopt(p, node, node->b);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    node->b = expr_filters(p, NULL);
    parse_adopt(p, node, node->b);
    statements(p, node, &node->body, ENDS("endset"));
    parse_skip_name(p, "endset");
    return node;
}

static struct node *parse_with(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_WITH, at);
    while (!p->failed && p->token.kind != TOKEN_BLOCK_END && p->token.kind != TOKEN_COLON) {
        if (node->list.n && !parse_expect(p, TOKEN_COMMA))
            break;
        struct node *target = expr_target(p, false);
        if (!parse_expect(p, TOKEN_ASSIGN))
            break;
        struct node *value = expr_parse(p, true);
        parse_append(p, &node->list, target);
        parse_append(p, &node->list, value);
        parse_adopt(p, node, target);
        parse_adopt(p, node, value);
    }
    if (p->failed)
        return NULL;
    statements(p, node, &node->body, ENDS("endwith"));
    parse_skip_name(p, "endwith");
    return node;
}

/* (a, b=1) of a macro or call block */
static void parse_signature(struct parser *p, struct node *node)
{
    bool defaults = false;
    parse_expect(p, TOKEN_LPAREN);
    while (!p->failed && p->token.kind != TOKEN_RPAREN) {
        if (node->list.n && !parse_expect(p, TOKEN_COMMA))
            return;
        if (p->token.kind != TOKEN_NAME) {
            parse_unexpected(p);
            return;
        }
        struct node *parameter = parse_node(p, NODE_NAME, p->token.at);
        if (!parameter)
            return;
        parameter->name = parse_intern(p, p->token.text, p->token.n);
        parse_advance(p);
        if (parse_skip(p, TOKEN_ASSIGN)) {
            parameter->a = expr_parse(p, true);
            parse_adopt(p, parameter, parameter->a);
            defaults = true;
        } else if (defaults) {
            parse_fail(p, parameter->at, "non-default argument follows default argument");
        }
        parse_append(p, &node->list, parameter);
        parse_adopt(p, node, parameter);
    }
    parse_expect(p, TOKEN_RPAREN);
}

/* The body of a macro or call block: it starts a function of its own, outside of any loop. */
static void parse_function(struct parser *p, struct node *node, const char *end)
{
    uint8_t uses = p->uses;
    int loops = p->loops;
    p->uses = 0;
    p->loops = 0;
    statements(p, node, &node->body, ENDS(end));
    node->uses = p->uses;
    p->uses = uses | node->uses; /* Jinja counts what an inner macro names as the outer's, too */
    p->loops = loops;
    parse_skip_name(p, end);
}

static struct node *parse_macro(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_MACRO, at);
    if (p->token.kind != TOKEN_NAME)
        parse_unexpected(p);
    if (p->failed)
        return NULL;
    node->name = parse_intern(p, p->token.text, p->token.n);
    parse_advance(p);
    parse_signature(p, node);
    if (!p->failed)
        parse_function(p, node, "endmacro");
    return node;
}

static struct node *parse_call_block(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_CALL_BLOCK, at);
    if (node && p->token.kind == TOKEN_LPAREN)
        parse_signature(p, node);
    struct node *call = expr_parse(p, true);
    if (p->failed)
        return NULL;
    if (call->kind != NODE_CALL)
        parse_fail(p, call->at, "expected call");
    node->a = call;
    node->name = parse_intern(p, "caller", 6);
    parse_adopt(p, node, call);
    parse_function(p, node, "endcall");
    return node;
}

static struct node *parse_filter_block(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_FILTER_BLOCK, at);
    struct node *chain = expr_filter_block(p);
    if (p->failed)
        return NULL;
    node->b = chain;
    parse_adopt(p, node, node->b);
    statements(p, node, &node->body, ENDS("endfilter"));
    parse_skip_name(p, "endfilter");
    return node;
}

/* {% generation %} marks what the assistant wrote, {% block name %} what a child template may
 * replace: both render in place. */
static struct node *parse_scope(struct parser *p, uint32_t at, const char *end, bool named)
{
    struct node *node = parse_node(p, NODE_SCOPE, at);
    struct token name = p->token;
    if (named)
        parse_expect(p, TOKEN_NAME);
    if (p->failed)
        return NULL;
    int loops = p->loops;
    p->loops = 0;
    statements(p, node, &node->body, ENDS(end));
    p->loops = loops;
    parse_skip_name(p, end);
    if (named && p->token.kind == TOKEN_NAME && p->token.n == name.n &&
        memcmp(p->token.text, name.text, name.n) == 0)
        parse_advance(p);
    return node;
}

static struct node *parse_loop_control(struct parser *p, uint32_t at, enum node_kind kind)
{
    if (p->loops == 0)
        parse_fail(p, at, "'%s' outside of a loop", kind == NODE_BREAK ? "break" : "continue");
    return parse_node(p, kind, at);
}

static struct node *parse_print(struct parser *p, uint32_t at)
{
    struct node *node = parse_node(p, NODE_PRINT, at);
    struct node *value = expr_tuple(p, true, NULL, false);
    if (p->failed)
        return NULL;
    node->a = value;
    parse_adopt(p, node, value);
    return node;
}

static struct node *parse_statement(struct parser *p)
{
    struct token tag = p->token;
    if (tag.kind != TOKEN_NAME) {
        parse_fail(p, tag.at, "tag name expected");
        return NULL;
    }
    parse_advance(p);
    if (token_is(&tag, "if"))
        return parse_if(p, tag.at);
    if (token_is(&tag, "for"))
        return parse_for(p, tag.at);
    if (token_is(&tag, "set"))
        return parse_set(p, tag.at);
    if (token_is(&tag, "with"))
        return parse_with(p, tag.at);
    if (token_is(&tag, "macro"))
        return parse_macro(p, tag.at);
    if (token_is(&tag, "call"))
        return parse_call_block(p, tag.at);
    if (token_is(&tag, "filter"))
        return parse_filter_block(p, tag.at);
    if (token_is(&tag, "generation"))
        return parse_scope(p, tag.at, "endgeneration", false);
    if (token_is(&tag, "block"))
        return parse_scope(p, tag.at, "endblock", true);
    if (token_is(&tag, "print"))
        return parse_print(p, tag.at);
    if (token_is(&tag, "break"))
        return parse_loop_control(p, tag.at, NODE_BREAK);
    if (token_is(&tag, "continue"))
        return parse_loop_control(p, tag.at, NODE_CONTINUE);
    parse_fail(p, tag.at, "unknown or unsupported tag '%.*s'", (int)(tag.n > 60 ? 60 : tag.n),
               tag.text);
    return NULL;
}

static bool ends_here(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (parse_is_name(p, *ends))
            return true;
    return false;
}

static struct node *parse_text(struct parser *p)
{
    struct node *node = parse_node(p, NODE_TEXT, p->token.at);
    struct str *s = arena_alloc(&p->t->arena, sizeof *s);
    struct text_span *span = arena_alloc(&p->t->arena, sizeof *span);
    if (!node || !s || !span) {
        fail_memory(p);
        return NULL;
    }
    *span = (struct text_span){0, p->token.n};
    *s = (struct str){.data = p->token.text, .n = p->token.n, .n_chars = SIZE_MAX,
                      .trusted = span, .n_trusted = 1};
    node->value = value_string(s);
    parse_advance(p);
    return node;
}

static void parse_body(struct parser *p, struct node_list *body, const char *const *ends)
{
    while (!p->failed) {
        uint32_t at = p->token.at;
        if (p->token.kind == TOKEN_TEXT) {
            parse_append(p, body, parse_text(p));
        } else if (parse_skip(p, TOKEN_PRINT_BEGIN)) {
            parse_append(p, body, parse_print(p, at));
            parse_expect(p, TOKEN_PRINT_END);
        } else if (parse_skip(p, TOKEN_BLOCK_BEGIN)) {
            if (ends_here(p, ends))
                return;
            parse_append(p, body, parse_statement(p));
            parse_expect(p, TOKEN_BLOCK_END);
        } else if (p->token.kind == TOKEN_END) {
            if (ends)
                parse_fail(p, at, "the template ends where '%s' was expected", *ends);
            return;
        } else {
            parse_unexpected(p);
        }
    }
}

/* ---- the template's life */

/* \r\n and \r become \n, and one newline at the very end goes, as Jinja reads source. */
static int normalise(struct template *t, const char *source, size_t n)
{
    char *out = arena_alloc(&t->arena, n + 1);
    if (!out)
        return ERR_NOMEM;
    size_t size = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        out[size++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (size > 0 && out[size - 1] == '\n')
        size--;
    t->source = out;
    t->n = size;
    return 0;
}

int template_parse(const char *source, size_t n, struct template **out, struct err *err)
{
    *out = NULL;
    if (n > SOURCE_MAX)
        return err_set(err, ERR_FORMAT, "line 1, column 1: the template is larger than %d bytes",
                       SOURCE_MAX);
    if (!utf8_valid(source, n))
        return err_set(err, ERR_FORMAT, "line 1, column 1: the template is not valid UTF-8");
    struct arena arena;
    arena_init(&arena, TREE_BYTES_MAX);
    struct template *t = arena_alloc(&arena, sizeof *t);
    struct name **names = arena_array(&arena, NAMES_BUCKETS, sizeof *names);
    struct parser p = {.t = t, .names = names, .err = err};
    if (t) {
        t->arena = arena;
        t->names = names;
    }
    if (!t || !names || normalise(t, source, n)) {
        arena_free(t ? &t->arena : &arena);
        return err_set(err, ERR_NOMEM, "out of memory for the template");
    }
    lex_init(&p.lexer, t->source, t->n, &t->arena);
    t->loop_name = parse_intern(&p, "loop", 4);
    t->varargs_name = parse_intern(&p, "varargs", 7);
    t->kwargs_name = parse_intern(&p, "kwargs", 6);
    t->caller_name = parse_intern(&p, "caller", 6);
    parse_advance(&p);
    parse_body(&p, &t->body, NULL);
    if (p.failed) {
        template_free(t);
        return p.failed;
    }
    *out = t;
    return 0;
}

bool template_names(const struct template *t, const char *name)
{
    struct name *found;
    find_name(t->names, name, strlen(name), &found);
    return found != NULL;
}

bool template_holds(const struct template *t, const char *text)
{
    return memmem(t->source, t->n, text, strlen(text)) != NULL;
}

const char *template_source(const struct template *t, size_t *n)
{
    *n = t->n;
    return t->source;
}

void template_free(struct template *t)
{
    if (!t)
        return;
    struct arena arena = t->arena; /* t lies in it */
    arena_free(&arena);
}
