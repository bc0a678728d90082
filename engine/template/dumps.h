/* dumps: JSON in the layout of Python's json.dumps(value, ensure_ascii=False), which models were
 * trained on: ", " and ": ", floats as repr() writes them. Pure functions. */
#ifndef SIROCCO_DUMPS_H
#define SIROCCO_DUMPS_H

#include <jansson.h>

#include "engine/base/buf.h"

void dumps_value(struct buf *out, const json_t *value);
void dumps_string(struct buf *out, const char *text, size_t n);
/* The same value as repr() writes it: 'text', True, None. */
void dumps_repr(struct buf *out, const json_t *value);

#endif
