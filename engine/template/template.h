/* template: chat templates in Jinja, as real checkpoints use it (Jinja 3 template designer
 * documentation; transformers' chat template conventions: trim_blocks, lstrip_blocks, loop
 * controls, raise_exception, strftime_now, tojson without HTML escaping).
 *
 * Stages: lex.c (source -> tokens), parse.c, expr.c (tokens -> tree), render.c, eval.c (tree +
 * context -> text), with tables of filters, tests, methods and globals. A template is immutable
 * after parse; renders run on any thread with their own arena. Bounds: source 256 KiB, 4,000,000
 * steps (about half a second), 16 MiB of output, 96 MiB of values, 64 calls deep, ranges 10^5.
 * Every error names line and column, save raise_exception's, which is the template's own text.
 * There is no attribute walk, import or I/O.
 *
 * Trust: text that stands in the template (and bos_token, eos_token...) is trusted, text that comes
 * from the conversation is not; render reports the trusted spans of its output so that special
 * tokens are recognised in those alone. */
#ifndef SIROCCO_TEMPLATE_H
#define SIROCCO_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/tokenizer/tokenizer.h"

struct template; /* opaque */

struct template_text { /* caller-owned; template_text_free */
    struct buf text;
    struct text_span *trusted; /* ascending, disjoint, merged */
    size_t n_trusted;
};
void template_text_free(struct template_text *t);

/* source is copied. ERR_FORMAT "line 3, column 7: ...". */
int template_parse(const char *source, size_t n, struct template **out, struct err *err);
void template_free(struct template *t); /* NULL allowed */

/* Does an expression or statement of the template use this name? Does its source hold this text? */
bool template_names(const struct template *t, const char *name);
bool template_holds(const struct template *t, const char *text);
/* The source, newlines normalised, *n bytes. */
const char *template_source(const struct template *t, size_t *n);

/* context: a JSON object of the template's variables; trusted_names (NULL-terminated, or NULL)
 * lists its top-level strings that count as template text. now: what strftime_now formats (local
 * time). Errors: ERR_VALUE with exactly what raise_exception said, or with line, column and what
 * went wrong; err's param stays empty. */
int template_render(const struct template *t, const json_t *context,
                    const char *const *trusted_names, time_t now, struct template_text *out,
                    struct err *err);

#endif
