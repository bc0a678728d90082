/* call_object: the inside of a tool call, for toolcall.c alone: the parser's state, and its way
 * through a call's JSON object or bare name and arguments. Loop thread. */
#ifndef SIROCCO_CALL_OBJECT_H
#define SIROCCO_CALL_OBJECT_H

#include "server/call_json.h"
#include "server/toolcall.h"

enum call_state {
    STATE_TEXT,
    STATE_THINK,
    STATE_OPENED,      /* behind the open marker */
    STATE_ARRAY_NEXT,  /* an object has to come */
    STATE_ARRAY_AFTER, /* a comma or the array's end */
    STATE_BETWEEN,     /* behind the semicolon between two bare objects */
    STATE_NAME,        /* a bare name */
    STATE_ID,
    STATE_BEFORE_ARGS,
    STATE_ARGS, /* of a bare name */
    /* inside of an object */
    STATE_KEY_OR_END,
    STATE_WANT_KEY,
    STATE_KEY,
    STATE_COLON,
    STATE_VALUE,
    STATE_NAME_STRING,
    STATE_VALUE_ARGS,   /* an object or array: the arguments */
    STATE_VALUE_STRING, /* the arguments, written as a string */
    STATE_VALUE_SCALAR, /* the arguments are null, a number.. */
    STATE_SKIP,         /* an object or array of another member */
    STATE_SKIP_STRING,
    STATE_SKIP_SCALAR,
    STATE_AFTER_VALUE
};

enum call_where { /* of text or reasoning: what stands before, beside white space */
                  WHERE_START,
                  WHERE_AFTER_MARK, /* a marker of reasoning */
                  WHERE_AFTER_CALL,
                  WHERE_INSIDE
};

struct toolcall {
    struct toolcall_options options;
    toolcall_sink *sink;
    void *user;
    enum call_state state;
    enum call_where where;
    char hold[TOOLCALL_HOLD_BYTES]; /* perhaps the beginning of a marker; longer than any */
    size_t n_hold;
    struct buf blank; /* white space that may have to be left out */
    struct buf raw;
    struct buf run; /* came out and not yet handed to the sink, all of one kind */
    enum toolcall_kind run_kind;
    /* the call */
    bool bare, in_array, begun, named, muted, has_id;
    enum { ARGS_NONE, ARGS_OPEN, ARGS_DONE } args;
    enum { KEY_OTHER, KEY_NAME, KEY_ARGS } key_kind;
    struct buf key, name, early; /* early: arguments that came before the name */
    struct json_extent extent;
    struct json_string string;
    size_t n_args; /* bytes of arguments */
    char id[TOOLCALL_ID_BYTES], given_id[TOOLCALL_ID_BYTES];
    /* the turn */
    int n_calls, n_begun, n_malformed, n_reasoning;
    bool cut;     /* a call lacks the end of its arguments */
    bool thought; /* the token before ended in reasoning */
};

/* toolcall.c */
void toolcall_malformed(struct toolcall *t); /* raw becomes text */

/* call_object.c */
void call_emit(struct toolcall *t, enum toolcall_kind kind, const char *bytes, size_t n);
void call_flush(struct toolcall *t);        /* the run to the sink */
void call_reset(struct toolcall *t);        /* before the next call of a turn */
void call_byte(struct toolcall *t, char c); /* in every state but TEXT and THINK */
void call_cut(struct toolcall *t);          /* the output ends inside */

#endif
