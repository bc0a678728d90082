/* call_object: from the bytes of a tool call to its name and arguments. Loop thread; state diagram
 * in toolcall.c, the order of an object's members is free:
 *
 *   KEY_OR_END --"--> KEY --"--> COLON --:--> VALUE --..--> AFTER_VALUE --,--> WANT_KEY --"--> KEY
 *   KEY_OR_END, AFTER_VALUE --}--> the call is complete
 *
 * A call comes out when its arguments begin (when its name is known, if that stands behind them):
 * until then all of it is in `raw` and can still become text. */
#include "server/call_object.h"

#include <string.h>

/* ---- what comes out */

void call_flush(struct toolcall *t)
{
    if (t->run.size && !t->run.failed)
        t->sink(t->user, t, t->run_kind, t->run.data, t->run.size);
    if (!t->run.failed)
        buf_clear(&t->run);
}

void call_emit(struct toolcall *t, enum toolcall_kind kind, const char *bytes, size_t n)
{
    if (!n)
        return;
    if (t->run.size && t->run_kind != kind)
        call_flush(t);
    t->run_kind = kind;
    buf_add(&t->run, bytes, n);
}

/* n of the first n_letters digits and letters. 62^8 < 2^48: eight of each random number leave no
 * bias to speak of. */
static void random_letters(struct toolcall *t, char *out, int n, unsigned n_letters)
{
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint64_t bits = 0;
    for (int i = 0; i < n; i++) {
        if (i % 8 == 0)
            bits = t->options.random();
        out[i] = letters[bits % n_letters];
        bits /= n_letters;
    }
    out[n] = 0;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Mistral's templates and models take nine letters and digits; digits alone are what a very small
 * model still copies. The model's own id where it wrote one before the arguments, it is of the
 * right kind, and it is not that of the call before; else a new one. */
static void choose_id(struct toolcall *t)
{
    const struct toolcall_dialect *d = t->options.format->dialect;
    bool own = t->has_id && strlen(t->given_id) == 9 && d->short_ids && strcmp(t->given_id, t->id);
    if (own)
        memcpy(t->id, t->given_id, 10);
    else if (d->short_ids)
        random_letters(t, t->id, 9, 10);
    else {
        memcpy(t->id, "call_", 5);
        random_letters(t, t->id + 5, 24, 62);
    }
}

static void add_args(struct toolcall *t, const char *bytes, size_t n)
{
    t->n_args += n;
    if (!t->begun)
        buf_add(&t->early, bytes, n);
    else if (!t->muted)
        call_emit(t, TOOLCALL_ARGUMENTS, bytes, n);
}

/* The call is certain: from here on it can not become text any more. */
static void begin_call(struct toolcall *t)
{
    t->begun = true;
    t->n_begun++;
    t->muted = t->options.n_calls_max && t->n_calls >= t->options.n_calls_max;
    buf_clear(&t->raw);
    buf_clear(&t->blank);
    if (!t->muted) {
        choose_id(t);
        call_flush(t);
        t->n_calls++;
        t->sink(t->user, t, TOOLCALL_NAME, t->name.data, t->name.size);
        call_emit(t, TOOLCALL_ARGUMENTS, t->early.data, t->early.size);
    }
    buf_clear(&t->early);
}

void call_reset(struct toolcall *t)
{
    t->begun = t->named = t->has_id = false;
    t->args = ARGS_NONE;
    t->n_args = 0;
    buf_clear(&t->name);
    buf_clear(&t->key);
    buf_clear(&t->early);
}

static void end_call(struct toolcall *t)
{
    buf_clear(&t->raw);
    call_reset(t);
    t->state = t->in_array ? STATE_ARRAY_AFTER : STATE_TEXT;
    t->where = WHERE_AFTER_CALL;
}

/* ---- around objects */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_name_byte(char c)
{
    return is_letter(c) || c == '_' || c == '-' || c == '.';
}

static void add_around(struct toolcall *t, char c)
{
    if (is_space(c))
        return;
    if (c == '{' && t->state != STATE_ARRAY_AFTER) {
        call_reset(t);
        t->state = STATE_KEY_OR_END;
    } else if (t->state == STATE_OPENED && c == '[') {
        t->in_array = true;
        t->n_begun = 0;
        t->state = STATE_ARRAY_NEXT;
    } else if (t->state == STATE_OPENED && t->options.format->dialect->args && is_name_byte(c)) {
        buf_byte(&t->name, c);
        t->state = STATE_NAME;
    } else if (t->state == STATE_ARRAY_AFTER && c == ',') {
        t->state = STATE_ARRAY_NEXT;
    } else if (c == ']' &&
               (t->state == STATE_ARRAY_AFTER || (t->state == STATE_ARRAY_NEXT && t->n_begun))) {
        t->in_array = false;
        end_call(t);
    } else {
        toolcall_malformed(t);
    }
}

/* ---- a bare name */

static void begin_args(struct toolcall *t, char c)
{
    begin_call(t);
    t->args = ARGS_OPEN;
    t->extent = (struct json_extent){0};
    t->state = STATE_ARGS;
    call_json_extent(&t->extent, c);
    add_args(t, &c, 1);
}

static void add_name(struct toolcall *t, char c)
{
    size_t n = strlen(t->given_id);
    if (t->state == STATE_NAME && is_name_byte(c) && t->name.size < TOOLCALL_NAME_BYTES_MAX) {
        buf_byte(&t->name, c);
    } else if (t->state == STATE_ID && is_letter(c) && n + 1 < sizeof t->given_id) {
        t->given_id[n] = c;
        t->given_id[n + 1] = 0;
    } else if (c == '{' && t->state != STATE_ID) {
        begin_args(t, c);
    } else if (!(t->state == STATE_BEFORE_ARGS && is_space(c))) {
        toolcall_malformed(t);
    }
}

/* ---- inside of an object */

static bool is_text(const struct buf *b, const char *text)
{
    return b->size == strlen(text) && !memcmp(b->data, text, b->size);
}

static void end_key(struct toolcall *t)
{
    bool args = is_text(&t->key, "arguments") || is_text(&t->key, "parameters");
    t->key_kind = args && t->args == ARGS_NONE            ? KEY_ARGS
                  : is_text(&t->key, "name") && !t->named ? KEY_NAME
                                                          : KEY_OTHER;
    t->state = STATE_COLON;
    if (t->bare && t->key_kind == KEY_OTHER && !is_text(&t->key, "type") && !is_text(&t->key, "id"))
        toolcall_malformed(t); /* an object that is no call */
}

static bool is_offered(const struct toolcall *t)
{
    for (int i = 0; i < t->options.n_names; i++)
        if (is_text(&t->name, t->options.names[i]))
            return true;
    return false;
}

static void end_name(struct toolcall *t)
{
    if (!t->name.size || t->name.failed || (t->bare && !is_offered(t))) {
        toolcall_malformed(t);
        return;
    }
    t->named = true;
    t->state = STATE_AFTER_VALUE;
    if (t->args != ARGS_NONE)
        begin_call(t);
}

static void end_args(struct toolcall *t)
{
    t->args = ARGS_DONE;
    t->state = STATE_AFTER_VALUE;
}

static void begin_value(struct toolcall *t, char c)
{
    bool args = t->key_kind == KEY_ARGS, nested = c == '{' || c == '[';
    if (is_space(c))
        return;
    if (t->key_kind == KEY_NAME && c != '"') {
        toolcall_malformed(t);
        return;
    }
    if (c == ',' || c == '}' || c == ']' || c == ':') {
        toolcall_malformed(t);
        return;
    }
    t->extent = (struct json_extent){0};
    t->string = (struct json_string){0};
    if (nested)
        call_json_extent(&t->extent, c);
    if (args) {
        t->args = ARGS_OPEN;
        if (t->named)
            begin_call(t);
    }
    if (t->key_kind == KEY_NAME)
        t->state = STATE_NAME_STRING;
    else if (nested)
        t->state = args ? STATE_VALUE_ARGS : STATE_SKIP;
    else if (c == '"')
        t->state = args ? STATE_VALUE_STRING : STATE_SKIP_STRING;
    else
        t->state = args ? STATE_VALUE_SCALAR : STATE_SKIP_SCALAR;
    buf_clear(&t->key);
    if (t->state == STATE_VALUE_ARGS)
        add_args(t, &c, 1);
    else if (t->state == STATE_VALUE_SCALAR)
        buf_byte(&t->key, c); /* kept until it is known not to be null */
}

/* The arguments are no object: null stands for none, the rest is passed on as it is. */
static void end_scalar_args(struct toolcall *t)
{
    if (is_text(&t->key, "null"))
        add_args(t, "{}", 2);
    else
        add_args(t, t->key.data, t->key.size);
    end_args(t);
}

static void end_object(struct toolcall *t)
{
    if (!t->named || (t->bare && t->args == ARGS_NONE)) {
        toolcall_malformed(t);
        return;
    }
    if (!t->begun)
        begin_call(t);
    if (t->args == ARGS_NONE)
        add_args(t, "{}", 2);
    end_call(t);
}

static void add_between_members(struct toolcall *t, char c)
{
    if (is_space(c))
        return;
    if (c == '}' && t->state != STATE_WANT_KEY) {
        end_object(t);
    } else if (c == ',' && t->state == STATE_AFTER_VALUE) {
        t->state = STATE_WANT_KEY;
    } else if (c == '"' && t->state != STATE_AFTER_VALUE) {
        t->string = (struct json_string){0};
        buf_clear(&t->key);
        t->state = STATE_KEY;
    } else {
        toolcall_malformed(t);
    }
}

/* A key, a name, or another member's string. */
static void add_string(struct toolcall *t, char c)
{
    struct buf *out = t->state == STATE_NAME_STRING ? &t->name : &t->key;
    int end = call_json_string(&t->string, c, out);
    if (t->state == STATE_SKIP_STRING)
        buf_clear(out);
    if (end < 0)
        toolcall_malformed(t);
    else if (end && t->state == STATE_KEY)
        end_key(t);
    else if (end && t->state == STATE_NAME_STRING)
        end_name(t);
    else if (end)
        t->state = STATE_AFTER_VALUE;
}

static void add_args_string(struct toolcall *t, char c)
{
    int end = call_json_string(&t->string, c, &t->key);
    if (t->key.size)
        add_args(t, t->key.data, t->key.size);
    buf_clear(&t->key);
    if (end < 0) {
        toolcall_malformed(t);
    } else if (end) {
        if (!t->n_args)
            add_args(t, "{}", 2);
        end_args(t);
    }
}

static void add_nested(struct toolcall *t, char c)
{
    bool args = t->state != STATE_SKIP;
    int end = call_json_extent(&t->extent, c);
    if (end < 0) {
        toolcall_malformed(t);
        return;
    }
    if (args)
        add_args(t, &c, 1);
    if (!end)
        return;
    if (t->state == STATE_ARGS)
        end_call(t);
    else if (args)
        end_args(t);
    else
        t->state = STATE_AFTER_VALUE;
}

static void add_scalar(struct toolcall *t, char c)
{
    bool ends = c == ',' || c == '}' || is_space(c);
    bool fits = is_letter(c) || c == '-' || c == '+' || c == '.';
    if (!ends && (!fits || t->key.size == TOOLCALL_NAME_BYTES_MAX)) {
        toolcall_malformed(t);
        return;
    }
    if (!ends) {
        if (t->state == STATE_VALUE_SCALAR)
            buf_byte(&t->key, c);
        return;
    }
    if (t->state == STATE_VALUE_SCALAR)
        end_scalar_args(t);
    t->state = STATE_AFTER_VALUE;
    add_between_members(t, c);
}

/* ---- every byte */

static bool streams_args(const struct toolcall *t)
{
    return t->begun && (t->state == STATE_ARGS || t->state == STATE_VALUE_ARGS ||
                        t->state == STATE_VALUE_STRING);
}

void call_byte(struct toolcall *t, char c)
{
    bool streams = streams_args(t);
    buf_byte(&t->raw, c);
    switch (t->state) {
    case STATE_OPENED:
    case STATE_ARRAY_NEXT:
    case STATE_ARRAY_AFTER:
    case STATE_BETWEEN:
        add_around(t, c);
        break;
    case STATE_NAME:
    case STATE_ID:
    case STATE_BEFORE_ARGS:
        add_name(t, c);
        break;
    case STATE_ARGS:
    case STATE_VALUE_ARGS:
    case STATE_SKIP:
        add_nested(t, c);
        break;
    case STATE_KEY:
    case STATE_NAME_STRING:
    case STATE_SKIP_STRING:
        add_string(t, c);
        break;
    case STATE_VALUE_STRING:
        add_args_string(t, c);
        break;
    case STATE_VALUE_SCALAR:
    case STATE_SKIP_SCALAR:
        add_scalar(t, c);
        break;
    case STATE_COLON:
        if (c == ':')
            t->state = STATE_VALUE;
        else if (!is_space(c))
            toolcall_malformed(t);
        break;
    case STATE_VALUE:
        begin_value(t, c);
        break;
    default:
        add_between_members(t, c);
    }
    if (streams && t->state != STATE_TEXT)
        buf_clear(&t->raw); /* the arguments are out */
}

void call_cut(struct toolcall *t)
{
    if (t->state == STATE_VALUE_SCALAR && t->begun)
        add_args(t, t->key.data, t->key.size);
    bool between = (t->state == STATE_ARRAY_NEXT || t->state == STATE_ARRAY_AFTER) && t->n_begun;
    if (t->begun) /* only structure is missing, or the arguments stay cut off */
        t->cut = t->cut || t->args == ARGS_OPEN;
    else if (!between)
        toolcall_malformed(t);
    buf_clear(&t->raw);
}
