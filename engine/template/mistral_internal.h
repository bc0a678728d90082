/* mistral_internal: what the stages of mistral.h hand each other. Text is borrowed from the request
 * or lives in the arena. */
#ifndef SIROCCO_MISTRAL_INTERNAL_H
#define SIROCCO_MISTRAL_INTERNAL_H

#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/template/mistral.h"

enum mistral_role { MISTRAL_SYSTEM, MISTRAL_USER, MISTRAL_ASSISTANT, MISTRAL_TOOL };

enum mistral_chunk_type { /* in the order of their names, as messages list them */
                          MISTRAL_AUDIO,
                          MISTRAL_AUDIO_URL,
                          MISTRAL_IMAGE,
                          MISTRAL_IMAGE_URL,
                          MISTRAL_TEXT,
                          MISTRAL_THINK,
                          MISTRAL_CHUNK_TYPES
};

struct mistral_text {
    const char *data;
    size_t n;
};

struct mistral_chunk {
    enum mistral_chunk_type type;
    struct mistral_text text;
    bool closed; /* MISTRAL_THINK: its end was written */
};

struct mistral_call {
    struct mistral_text id;              /* "null" when the request has none */
    struct mistral_text name, arguments; /* arguments: JSON text */
};

struct mistral_message { /* one of the request, or a merged turn */
    enum mistral_role role;
    struct mistral_chunk *chunks;
    size_t n_chunks;
    bool is_list;   /* content came as parts */
    bool has_calls; /* tool_calls is there, be it empty */
    bool prefix;    /* left open for the model to go on */
    struct mistral_call *calls;
    size_t n_calls;
    struct mistral_text call_id, name; /* data NULL: not given */
};

struct mistral {
    const struct tokenizer *tok;
    int version;
    enum mistral_mode mode;
    struct arena arena;
    const json_t *request, *tools;
    struct mistral_message *messages; /* as the request has them */
    size_t n_messages;
    bool continues;                /* continue_final_message */
    struct mistral_message *turns; /* merged */
    size_t n_turns;
    struct mistral_text system_prompt; /* of versions that put it into a user's turn; or NULL */
    const char *effort;                /* model setting of v15, or NULL */
    struct token_list *out;
    const char *kind;
    struct err *err;
};

/* Record an error; returns ERR_VALUE. */
int mistral_fail(struct mistral *m, const char *kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int mistral_no_memory(struct mistral *m); /* returns ERR_NOMEM */
/* What buf holds, moved into the arena; data NULL: out of memory. */
struct mistral_text mistral_keep(struct mistral *m, const struct buf *buf);

int mistral_read(struct mistral *m);   /* request -> messages, tools */
int mistral_check(struct mistral *m);  /* validation */
int mistral_normal(struct mistral *m); /* messages -> turns, system_prompt, effort */

/* A JSON Schema against draft 7's own schema; the error is in *words, appended. Returns whether it
 * holds. arena: for the time of the call. */
bool mistral_schema_holds(const json_t *schema, struct arena *arena, struct buf *words);

/* ---- ids of calls, for looking them up (mistral_ids.c); rows live in the arena */

struct mistral_id {
    struct mistral_text id;
    size_t place; /* of the call in its row of calls */
};

struct mistral_ids {
    struct mistral_id *rows; /* by id, then by place */
    size_t n;
};

/* Of turns or messages [0, n): all their calls, numbered from 0. Returns 0 or ERR_NOMEM. */
int mistral_ids_init(struct mistral *m, const struct mistral_message *messages, size_t n,
                     struct mistral_ids *out);
/* The place of the last call with this id, or SIZE_MAX. */
size_t mistral_ids_place(const struct mistral_ids *ids, struct mistral_text id);
/* The first call whose id an earlier one has, or SIZE_MAX. */
size_t mistral_ids_repeated(const struct mistral_ids *ids);

#endif
