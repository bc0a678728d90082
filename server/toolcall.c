/* toolcall: THE TABLES of output dialects, and the parser's walk over text, reasoning and markers;
 * the inside of a call's JSON object is call_object.c's. Loop thread; one parser per choice, memory
 * taken in toolcall_open and by its buffers.
 *
 *   TEXT --think marker--> THINK --unthink marker--> TEXT
 *   TEXT --open marker--> OPENED --{--> object.. --}--> TEXT, or ARRAY_AFTER
 *                         OPENED --[--> ARRAY_NEXT <--,-- ARRAY_AFTER --]--> TEXT
 *                         OPENED --a name--> NAME [--id marker--> ID] --args marker--> BEFORE_ARGS
 *                                            NAME --{--> ARGS <--{-- BEFORE_ARGS
 *   TEXT --bare {--> object..;  TEXT --; behind a bare call--> BETWEEN --{--> object..
 *   any of a call --what can not stand there--> TEXT, and `raw` becomes text
 *
 * Invariant: `raw` holds every byte since the last thing that came out or was complete (markers
 * spelled out), so that it can be given back. */
#include "server/toolcall.h"

#include <stdlib.h>
#include <string.h>

#include "server/call_object.h"

enum { BLANK_BYTES_MAX = 64 };

const struct toolcall_dialect toolcall_dialects[] = {
    /* [TOOL_CALLS] [{"name":..,"arguments":..}] (v2 to v7) and [TOOL_CALLS]name[ARGS]{..} (v11) */
    {"mistral", "[TOOL_CALLS]", NULL, "[ARGS]", "[CALL_ID]", false, true, {"[TOOL_CALLS]"}, {0}},
    /* Others write XML or key-value pairs inside of <tool_call>, or a list in <tool_calls>. */
    {"hermes",
     "<tool_call>",
     "</tool_call>",
     NULL,
     NULL,
     false,
     false,
     {"<tool_call>"},
     {"<function=", "<arg_key>", "<tool_calls>"}},
    {"apriel", "<tool_calls>", "</tool_calls>", NULL, NULL, false, false, {"<tool_calls>["}, {0}},
    {"llama3",
     "<|python_tag|>",
     NULL,
     NULL,
     NULL,
     true,
     false,
     {"<|python_tag|>", "\"parameters\": dictionary of argument name"},
     {"<function="}},
};
const int toolcall_n_dialects = sizeof toolcall_dialects / sizeof toolcall_dialects[0];

const struct toolcall_thinking toolcall_thinkings[] = {
    {"mistral", "[THINK]", "[/THINK]"},
    {"think", "<think>", "</think>"},
};
const int toolcall_n_thinkings = sizeof toolcall_thinkings / sizeof toolcall_thinkings[0];

/* ---- a model's dialect */

static const char *mark_text(const struct toolcall_format *f, enum toolcall_mark mark)
{
    const struct toolcall_dialect *d = f->dialect;
    switch (mark) {
    case MARK_THINK:
        return f->thinking ? f->thinking->open : NULL;
    case MARK_UNTHINK:
        return f->thinking ? f->thinking->close : NULL;
    case MARK_OPEN:
        return d ? d->open : NULL;
    case MARK_CLOSE:
        return d ? d->close : NULL;
    case MARK_ARGS:
        return d ? d->args : NULL;
    case MARK_ID:
        return d ? d->call_id : NULL;
    default:
        return NULL;
    }
}

static int32_t special_id(const struct tokenizer *tok, const char *text)
{
    int32_t id = tok ? tokenizer_find(tok, text, strlen(text)) : -1;
    return id >= 0 && tokenizer_is_special(tok, id) ? id : -1;
}

static bool shows(const struct chat *chat, const struct tokenizer *tok, const char *clue)
{
    return clue && ((chat && chat_holds(chat, clue)) || special_id(tok, clue) >= 0);
}

/* The row that a word names; n_rows for none, -1 for auto, -2 for an unknown word. */
static int row_of(const char *word, const char *const *names, int n)
{
    if (!word || !strcmp(word, "auto"))
        return -1;
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], word))
            return i;
    return strcmp(word, "none") ? -2 : n;
}

/* Do the clues tell this dialect, and nothing another? */
static bool is_told(const struct toolcall_dialect *d, const struct chat *chat,
                    const struct tokenizer *tok)
{
    bool told = false;
    for (int k = 0; k < 3; k++) {
        told = told || shows(chat, tok, d->clues[k]);
        if (shows(chat, tok, d->others[k]))
            return false;
    }
    return told;
}

static int find_dialect(const struct chat *chat, const struct tokenizer *tok, const char *word)
{
    const char *names[8];
    for (int i = 0; i < toolcall_n_dialects; i++)
        names[i] = toolcall_dialects[i].name;
    int row = row_of(word, names, toolcall_n_dialects);
    for (int i = 0; i < toolcall_n_dialects && row == -1; i++)
        if (is_told(&toolcall_dialects[i], chat, tok))
            row = i;
    return row == -1 ? toolcall_n_dialects : row;
}

static int find_thinking(const struct chat *chat, const struct tokenizer *tok, const char *word)
{
    const char *names[8];
    for (int i = 0; i < toolcall_n_thinkings; i++)
        names[i] = toolcall_thinkings[i].name;
    int row = row_of(word, names, toolcall_n_thinkings);
    for (int i = 0; i < toolcall_n_thinkings && row == -1; i++)
        if (shows(chat, tok, toolcall_thinkings[i].open) ||
            shows(chat, tok, toolcall_thinkings[i].close))
            row = i;
    return row == -1 ? toolcall_n_thinkings : row;
}

int toolcall_detect(struct toolcall_format *f, const struct chat *chat, const struct tokenizer *tok,
                    const char *dialect, const char *thinking, struct err *err)
{
    int d = find_dialect(chat, tok, dialect), r = find_thinking(chat, tok, thinking);
    if (d < 0 || r < 0)
        return err_set(err, ERR_USAGE, "no dialect of tool calls or reasoning is called '%s'",
                       d < 0 ? dialect : thinking);
    f->dialect = d < toolcall_n_dialects ? &toolcall_dialects[d] : NULL;
    f->thinking = r < toolcall_n_thinkings ? &toolcall_thinkings[r] : NULL;
    for (int m = 0; m < N_MARKS; m++) {
        const char *text = mark_text(f, (enum toolcall_mark)m);
        f->ids[m] = text ? special_id(tok, text) : -1;
    }
    return 0;
}

bool toolcall_prompt_thinks(const struct toolcall_format *f, const struct template_text *prompt)
{
    size_t n = prompt->text.size, mark = f->thinking ? strlen(f->thinking->open) : 0;
    while (n && strchr(" \t\r\n", prompt->text.data[n - 1]))
        n--;
    if (!mark || n < mark || memcmp(prompt->text.data + n - mark, f->thinking->open, mark))
        return false;
    for (size_t i = prompt->n_trusted; i-- > 0;) /* the template's, not a user's */
        if (prompt->trusted[i].start <= n - mark && prompt->trusted[i].end >= n)
            return true;
    return false;
}

/* ---- life */

struct toolcall *toolcall_open(const struct toolcall_options *options, size_t bytes_max,
                               toolcall_sink *sink, void *user)
{
    struct toolcall *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->options = *options;
    t->sink = sink;
    t->user = user;
    t->state = options->thinking && options->thinks ? STATE_THINK : STATE_TEXT;
    t->thought = t->state == STATE_THINK;
    t->where = t->state == STATE_THINK ? WHERE_AFTER_MARK : WHERE_START;
    buf_init(&t->blank, bytes_max);
    buf_init(&t->raw, bytes_max);
    buf_init(&t->run, bytes_max);
    buf_init(&t->key, TOOLCALL_NAME_BYTES_MAX);
    buf_init(&t->name, TOOLCALL_NAME_BYTES_MAX);
    buf_init(&t->early, bytes_max);
    return t;
}

void toolcall_close(struct toolcall *t)
{
    if (!t)
        return;
    buf_free(&t->blank);
    buf_free(&t->raw);
    buf_free(&t->run);
    buf_free(&t->key);
    buf_free(&t->name);
    buf_free(&t->early);
    free(t);
}

/* key and name have no part: they are bounded, and what is longer is no call. */
int toolcall_failed(const struct toolcall *t)
{
    const struct buf *bufs[] = {&t->blank, &t->raw, &t->run, &t->early};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++)
        if (bufs[i]->failed)
            return bufs[i]->failed;
    return t->key.failed == ERR_NOMEM || t->name.failed == ERR_NOMEM ? ERR_NOMEM : 0;
}

/* ---- text and reasoning */

static void emit_blank(struct toolcall *t, enum toolcall_kind kind)
{
    size_t from = 0;
    while (t->where == WHERE_AFTER_MARK && from < t->blank.size && t->blank.data[from] == '\n')
        from++;
    if (t->blank.size)
        call_emit(t, kind, t->blank.data + from, t->blank.size - from);
    buf_clear(&t->blank);
}

void toolcall_malformed(struct toolcall *t)
{
    t->n_malformed++;
    t->cut = t->cut || (t->begun && t->args != ARGS_DONE);
    emit_blank(t, TOOLCALL_TEXT);
    if (t->raw.size)
        call_emit(t, TOOLCALL_TEXT, t->raw.data, t->raw.size);
    buf_clear(&t->raw);
    t->begun = t->in_array = false;
    t->state = STATE_TEXT;
    t->where = WHERE_INSIDE;
}

/* A candidate begins; the text of its marker, if it has one, is already in raw. */
static void begin_candidate(struct toolcall *t, bool bare)
{
    t->bare = bare;
    t->in_array = false;
    t->state = STATE_OPENED;
    call_reset(t);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* A byte of text that is no part of a marker. */
static void add_text(struct toolcall *t, char c)
{
    bool bare = t->options.calls && t->options.format->dialect->bare;
    if (t->where != WHERE_INSIDE && is_space(c) && t->blank.size < BLANK_BYTES_MAX) {
        buf_byte(&t->blank, c);
        return;
    }
    if (bare && c == '{' && (t->where == WHERE_START || t->where == WHERE_AFTER_MARK)) {
        begin_candidate(t, true);
        call_byte(t, c);
        return;
    }
    if (bare && c == ';' && t->where == WHERE_AFTER_CALL) {
        buf_add(&t->raw, t->blank.data, t->blank.size);
        buf_clear(&t->blank);
        buf_byte(&t->raw, c);
        t->state = STATE_BETWEEN;
        return;
    }
    emit_blank(t, TOOLCALL_TEXT);
    t->where = WHERE_INSIDE;
    call_emit(t, TOOLCALL_TEXT, &c, 1);
}

static void add_reasoning(struct toolcall *t, char c)
{
    if (c == '\n') {
        buf_byte(&t->blank, c);
        return;
    }
    emit_blank(t, TOOLCALL_REASONING);
    t->where = WHERE_INSIDE;
    call_emit(t, TOOLCALL_REASONING, &c, 1);
}

/* ---- markers */

static void add_plain(struct toolcall *t, char c)
{
    if (t->state == STATE_TEXT)
        add_text(t, c);
    else if (t->state == STATE_THINK)
        add_reasoning(t, c);
    else
        call_byte(t, c);
}

/* May the marker stand here? */
static bool expects(const struct toolcall *t, enum toolcall_mark mark)
{
    const struct toolcall_options *o = &t->options;
    switch (t->state) {
    case STATE_TEXT:
        return (mark == MARK_THINK && o->thinking) || (mark == MARK_OPEN && o->calls) ||
               (mark == MARK_CLOSE && o->calls && t->where == WHERE_AFTER_CALL);
    case STATE_THINK:
        return mark == MARK_UNTHINK;
    case STATE_NAME:
        return (mark == MARK_ARGS || mark == MARK_ID) && t->name.size;
    case STATE_ID:
        return mark == MARK_ARGS;
    default:
        return false;
    }
}

/* A marker that expects() allows. */
static void take_mark(struct toolcall *t, enum toolcall_mark mark)
{
    if (mark == MARK_THINK || mark == MARK_UNTHINK) {
        buf_clear(&t->blank);
        t->state = mark == MARK_THINK ? STATE_THINK : STATE_TEXT;
        t->where = WHERE_AFTER_MARK;
        return;
    }
    if (mark == MARK_CLOSE) {
        buf_clear(&t->blank);
        return;
    }
    buf_text(&t->raw, mark_text(t->options.format, mark));
    if (mark == MARK_OPEN)
        begin_candidate(t, false);
    else if (mark == MARK_ARGS)
        t->state = STATE_BEFORE_ARGS;
    else {
        t->state = STATE_ID;
        t->has_id = true;
        t->given_id[0] = 0;
    }
}

/* Is the marker looked for in the text, here? Reasoning that is spelled as text only begins an
 * answer: further on, "<think>" is what the model talks about. */
static bool looks_for(const struct toolcall *t, enum toolcall_mark mark)
{
    if (t->options.format->ids[mark] >= 0 && !t->options.by_text)
        return false;
    if (mark == MARK_THINK && t->where != WHERE_START)
        return false;
    return mark_text(t->options.format, mark) && expects(t, mark);
}

/* What the held bytes are: 1 a marker, taken; 0 the beginning of one; -1 neither. */
static int judge_held(struct toolcall *t)
{
    for (int m = 0; m < N_MARKS; m++) {
        if (!looks_for(t, (enum toolcall_mark)m))
            continue;
        const char *text = mark_text(t->options.format, (enum toolcall_mark)m);
        size_t n = strlen(text);
        if (n < t->n_hold || memcmp(text, t->hold, t->n_hold))
            continue;
        if (n > t->n_hold)
            return 0;
        t->n_hold = 0;
        take_mark(t, (enum toolcall_mark)m);
        return 1;
    }
    return -1;
}

/* Holds bytes back as long as they may become a marker. A byte is looked at again at most as often
 * as a marker is long. */
static void add_byte(struct toolcall *t, char c)
{
    t->hold[t->n_hold++] = c;
    while (t->n_hold && judge_held(t) < 0) {
        char first = t->hold[0];
        memmove(t->hold, t->hold + 1, --t->n_hold);
        add_plain(t, first);
    }
}

static void release_held(struct toolcall *t)
{
    for (size_t i = 0; i < t->n_hold; i++)
        add_plain(t, t->hold[i]);
    t->n_hold = 0;
}

/* ---- input */

void toolcall_text(struct toolcall *t, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add_byte(t, bytes[i]);
    call_flush(t);
}

/* A special token. One that is no marker here ends whatever stands open, as it would end a word:
 * but an answer may hold others (an end of a message), so it has no text. */
static void add_special(struct toolcall *t, enum toolcall_mark mark)
{
    release_held(t);
    if (t->state == STATE_THINK && mark == MARK_OPEN && t->options.calls)
        take_mark(t, MARK_UNTHINK);
    if (!expects(t, mark) && t->state != STATE_TEXT && t->state != STATE_THINK)
        toolcall_malformed(t);
    if (!expects(t, mark))
        return;
    if (mark == MARK_THINK)
        emit_blank(t, TOOLCALL_TEXT);
    take_mark(t, mark);
}

void toolcall_token(struct toolcall *t, int32_t token)
{
    bool thought = t->thought || t->state == STATE_THINK;
    for (int m = 0; m < N_MARKS && !t->options.by_text; m++)
        if (t->options.format->ids[m] == token && token >= 0)
            add_special(t, (enum toolcall_mark)m);
    if (thought || t->state == STATE_THINK)
        t->n_reasoning++;
    t->thought = t->state == STATE_THINK;
    call_flush(t);
}

void toolcall_end(struct toolcall *t)
{
    if (t->state != STATE_TEXT && t->state != STATE_THINK)
        for (size_t i = 0; i < t->n_hold; i++)
            buf_byte(&t->raw, t->hold[i]);
    else
        release_held(t);
    if (t->state != STATE_TEXT && t->state != STATE_THINK) {
        t->n_hold = 0;
        call_cut(t);
    } else if (t->state == STATE_TEXT && t->where != WHERE_AFTER_CALL) {
        emit_blank(t, TOOLCALL_TEXT);
    }
    buf_clear(&t->blank);
    call_flush(t);
}

/* ---- what came out */

int toolcall_n_calls(const struct toolcall *t)
{
    return t->n_calls;
}

bool toolcall_complete(const struct toolcall *t)
{
    return t->n_calls && !t->cut;
}

const char *toolcall_id(const struct toolcall *t)
{
    return t->id;
}

int toolcall_n_reasoning(const struct toolcall *t)
{
    return t->n_reasoning;
}

int toolcall_n_malformed(const struct toolcall *t)
{
    return t->n_malformed;
}
