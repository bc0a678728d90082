/* choice: what one sequence of an answer has produced and not yet been written: text, log
 * probabilities, token ids, then its end. Streaming takes it frame by frame, a whole answer at the
 * end. Loop thread; one per channel, owned by its answer.
 *
 * Log probabilities are kept as the JSON they become, in one of two shapes: chat's list of
 * {token, logprob, bytes, top_logprobs}, or the legacy parallel lists of completions. */
#ifndef SIROCCO_CHOICE_H
#define SIROCCO_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/engine.h"
#include "server/toolcall.h"

enum choice_shape { CHOICE_CHAT, CHOICE_LEGACY };

struct choice {
    int index;
    bool want_logprobs, want_ids;
    bool show_special;   /* special tokens are part of the text */
    struct buf text;                  /* UTF-8 */
    struct toolcall *parser;          /* chat: takes the text apart; NULL: it is text alone */
    struct buf reasoning;             /* what the parser found, for a whole answer: */
    struct buf calls, arguments;      /* the calls' JSON, the last one open; its arguments so far */
    struct buf entries;               /* chat: list items; legacy: `tokens` */
    struct buf values, tops, offsets; /* legacy: token_logprobs, top_logprobs, text_offset */
    struct buf ids;                   /* token ids, comma-separated */
    int64_t offset;                   /* legacy: characters of text before the next token */
    int n_tokens;                     /* generated so far */
    /* the end */
    bool done;
    enum finish_reason finish;
    const char *finish_word; /* instead of finish's own; or NULL */
    int stop_index;
    int32_t stop_token; /* -1: none, or one of the model's own EOS ids */
    struct engine_usage usage;
};

/* bytes_max bounds each buffer. */
void choice_init(struct choice *c, int index, bool want_logprobs, bool want_ids, size_t bytes_max);
void choice_free(struct choice *c);
int choice_failed(const struct choice *c); /* 0, or the failure of one of its buffers */

/* Note a token of event (EVENT_PROMPT or EVENT_TOKEN) in the shape; shown: bytes of its piece that
 * are part of the text, for text_offset. Its text is not added. */
void choice_add_token(struct choice *c, enum choice_shape shape, const struct tokenizer *tok,
                      const struct event *event, const char *shown, size_t n_shown);
void choice_add_end(struct choice *c, const struct event *event); /* EVENT_DONE, without its text */

/* Write the pending log probabilities ("null" when none were asked for, or none are pending and
 * whole is false) or ids, and forget them. */
void choice_write_logprobs(struct choice *c, enum choice_shape shape, bool whole, struct buf *out);
void choice_write_ids(struct choice *c, struct buf *out);
void choice_write_end(const struct choice *c, const struct stream_stops *stops,
                      struct buf *out); /* "finish_reason":..,"stop_reason":.. */

int64_t choice_characters(const char *text, size_t n); /* code points of UTF-8 */

#endif
