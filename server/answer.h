/* answer: one chat or completions answer, whole or streamed: submits a sequence per choice, turns
 * their events into OpenAI's objects, ends with usage. What the two APIs write differently is a
 * struct answer_form; api_chat.c and api_completions.c have one each.
 *
 * Made on the loop, filled by the prep worker (request, prompts), then the loop's again. Lives in
 * its exchange as x->api.
 *
 *   preparing --answer_start--> running --answer_event, once per choice terminal--> ended
 *   any --exchange_fail, client gone--> ended (its events are drained without it) */
#ifndef SIROCCO_ANSWER_H
#define SIROCCO_ANSWER_H

#include "server/choice.h"
#include "server/exchange.h"
#include "server/prompt.h"
#include "server/request.h"

struct answer;

struct answer_piece { /* borrowed */
    enum toolcall_kind kind;
    const char *bytes;
    size_t size;
};

struct answer_form {
    const char *id_prefix, *object, *chunk_object;
    enum choice_shape shape;
    bool role_first; /* every choice begins with a chunk of its own */
    bool ids_on_top; /* prompt_token_ids stand in the answer, not in its choices */
    bool flat; /* one choice, whose members are the answer's own: no envelope, no [DONE] */
    /* The members of a choice after its index: of a whole answer; of a chunk with what is pending;
     * of the chunk that ends it. */
    void (*write_whole)(struct answer *a, struct choice *c, struct buf *out);
    void (*write_delta)(struct answer *a, struct choice *c, struct buf *out);
    void (*write_end)(struct answer *a, struct choice *c, struct buf *out);
    void (*write_role)(const struct choice *c, struct buf *out); /* NULL unless role_first */
    /* What the choice's parser found: into the choice for a whole answer; the members of a chunk
     * with it. NULL in a form without parsers. */
    void (*take_piece)(struct answer *a, struct choice *c, const struct answer_piece *piece);
    void (*write_piece)(struct answer *a, struct choice *c, const struct answer_piece *piece,
                        struct buf *out);
    void (*write_calls)(struct answer *a, struct choice *c, struct buf *out); /* all taken calls */
};

struct answer {
    const struct answer_form *form;
    const struct tokenizer *tok;
    struct request request;
    struct prompt *prompts; /* [n_prompts], in the arena */
    int n_prompts;
    struct choice *choices; /* [n_prompts * request.n], in the arena: prompt i's j-th choice is
                             * number i * n + j; so is its channel */
    int n_choices, n_done;
    bool parses; /* every choice gets a parser: tools are offered, or the model reasons */
    bool whole_calls; /* in a stream: the calls wait for the choice's end */
    bool thinks; /* the prompt ends inside of reasoning */
    struct answer_reader { /* per choice, in the arena: whose output a parser reads */
        struct exchange *x;
        struct choice *c;
        bool wrote; /* a frame, since the last event */
        bool said;  /* something: text, reasoning, a call */
    } * readers;
    struct toolcall_options parsing;
    struct buf head;     /* {"id":..,"choices":[ */
    bool began;          /* a chunk went out */
    struct answer_echo { /* per prompt, in the arena; completions with echo */
        const char *text;
        size_t size;
    } * echoes;
};

/* Handler: make the answer in the arena, run prepare on a worker, answer from its result. */
void answer_handle(struct exchange *x, const struct answer_form *form,
                   int (*prepare)(struct exchange *x, struct err *err));

/* Worker: n_prompts empty prompts in the arena. */
int answer_prompts(struct exchange *x, int n, struct err *err);
/* Worker: ERR_CONTEXT when a prompt leaves no room for one token; what: "messages", "prompt". */
int answer_check_context(const struct exchange *x, const char *what, struct err *err);
/* Worker: what request parsing must know of this server. */
void answer_limits(const struct exchange *x, struct request_limits *out);

/* Append [1,2,3] for the tokens of the choice's prompt. */
void answer_write_prompt_ids(const struct answer *a, const struct choice *c, struct buf *out);

#endif
