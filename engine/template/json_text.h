/* json_text: JSON text laid out anew, as Python's json.dumps(json.loads(text), ensure_ascii=False)
 * does: ", " and ": ", floats as repr() writes them, integers of any length, NaN and Infinity; of
 * members with the same name the last value in the first one's place. Pure function; time linear
 * in the text, but for repeated names. */
#ifndef SIROCCO_JSON_TEXT_H
#define SIROCCO_JSON_TEXT_H

#include <stdbool.h>

#include "engine/base/buf.h"

/* Append text to out in that layout. false: it is no JSON (or nested deeper than 400, or with a
 * surrogate that has no partner); out is as before then, unless it failed. */
bool json_text_normal(struct buf *out, const char *text, size_t n);

#endif
