/* toolcall: THE TABLES of output dialects (how models write tool calls, and where their reasoning
 * stands), and the incremental parser that takes a model's output apart: reasoning, text, calls
 * with their arguments as they are generated. Whole answers and streams use the same parser, so
 * that they can not differ.
 *
 * The tables are constant. A parser belongs to one choice; loop thread.
 *
 * What comes out, in the order of the output: reasoning, text, and per call once its name and id,
 * then its arguments in fragments. Nothing is lost: what turns out to be no well-formed call comes
 * out as text, markers included; arguments that went out before stay what they are. Left out are
 * the markers and structure of well-formed calls, white space around calls, and line breaks around
 * reasoning. Time is linear in the output. */
#ifndef SIROCCO_TOOLCALL_H
#define SIROCCO_TOOLCALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/template/chat.h"
#include "engine/tokenizer/tokenizer.h"

enum { TOOLCALL_NAME_BYTES_MAX = 256, TOOLCALL_ID_BYTES = 40, TOOLCALL_HOLD_BYTES = 32 };

enum toolcall_mark { MARK_THINK, MARK_UNTHINK, MARK_OPEN, MARK_CLOSE, MARK_ARGS, MARK_ID, N_MARKS };

struct toolcall_dialect {  /* a row: how a family of models writes calls */
    const char *name;      /* what the option tool_call_parser says */
    const char *open;      /* the marker a call begins with */
    const char *close;     /* what may stand behind a call, or NULL */
    const char *args;      /* between a bare name and its arguments, or NULL */
    const char *call_id;   /* between a bare name and an id, or NULL */
    bool bare;             /* an object at the very beginning is a call of an offered function */
    bool short_ids;        /* ids are nine digits; otherwise "call_" and 24 letters and digits */
    const char *clues[3];  /* texts in a template (or special tokens) that tell this dialect */
    const char *others[3]; /* texts that tell of another dialect with the same clue */
};
extern const struct toolcall_dialect toolcall_dialects[];
extern const int toolcall_n_dialects;

struct toolcall_thinking { /* a row: where reasoning stands */
    const char *name;      /* what the option reasoning_parser says */
    const char *open, *close;
};
extern const struct toolcall_thinking toolcall_thinkings[];
extern const int toolcall_n_thinkings;

struct toolcall_format {                      /* a model's; constant once set up */
    const struct toolcall_dialect *dialect;   /* NULL: not known */
    const struct toolcall_thinking *thinking; /* NULL: none */
    int32_t ids[N_MARKS];                     /* of markers that are special tokens; -1: text */
};

/* dialect, thinking: a row's name, "none", or "auto" (also NULL): what the template's text and the
 * tokenizer's special tokens tell. ERR_USAGE for another word. chat and tok may be NULL. */
int toolcall_detect(struct toolcall_format *f, const struct chat *chat, const struct tokenizer *tok,
                    const char *dialect, const char *thinking, struct err *err);

enum toolcall_kind {
    TOOLCALL_TEXT,
    TOOLCALL_REASONING,
    TOOLCALL_NAME,     /* a call begins: bytes are its name, parser->id its id */
    TOOLCALL_ARGUMENTS /* of the call that began last */
};

struct toolcall_options { /* borrowed; must outlive the parser */
    const struct toolcall_format *format;
    bool calls;      /* tools are offered: look for calls */
    bool thinking;   /* look for reasoning */
    bool thinks;     /* the prompt ended inside of reasoning */
    bool by_text;    /* special tokens are part of the text: all markers are looked for there */
    int n_calls_max; /* calls beyond are left out; 0: no limit */
    const char *const *names; /* of the offered functions */
    int n_names;
    uint64_t (*random)(void); /* for ids */
};

struct toolcall; /* opaque */
/* What has come out; bytes are valid during the call alone. */
typedef void toolcall_sink(void *user, const struct toolcall *t, enum toolcall_kind kind,
                           const char *bytes, size_t n);

/* bytes_max bounds each of its buffers. NULL: out of memory. */
struct toolcall *toolcall_open(const struct toolcall_options *options, size_t bytes_max,
                               toolcall_sink *sink, void *user);
void toolcall_close(struct toolcall *t); /* NULL allowed */

void toolcall_text(struct toolcall *t, const char *bytes, size_t n);
void toolcall_token(struct toolcall *t, int32_t token); /* after its text */
void toolcall_end(struct toolcall *t);                  /* the output is over */

int toolcall_failed(const struct toolcall *t);  /* 0, or the failure of a buffer */
int toolcall_n_calls(const struct toolcall *t); /* begun and not left out; index of the last + 1 */
bool toolcall_complete(const struct toolcall *t);   /* there are calls, and none is cut off */
const char *toolcall_id(const struct toolcall *t);  /* of the call that began last */
int toolcall_n_reasoning(const struct toolcall *t); /* tokens of reasoning, markers included */
int toolcall_n_malformed(const struct toolcall *t); /* calls that became text */

/* Does a prompt end with the beginning of reasoning? */
bool toolcall_prompt_thinks(const struct toolcall_format *f, const struct template_text *prompt);

#endif
