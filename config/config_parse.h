/* config_parse: what config.c and config_parse.c share: a row in words, a value into its field. */
#ifndef SIROCCO_CONFIG_PARSE_H
#define SIROCCO_CONFIG_PARSE_H

#include "config/config.h"

/* "0 to 65535", "one of auto cpu cuda"; "" when anything goes. */
void config_bounds(const struct config_option *o, char *out, size_t out_bytes);
void config_flag(const struct config_option *o, char *out, size_t out_bytes); /* "--max-seqs" */

/* A number of o's kind: 0, or -1 when text is no such number, or 1 when it is one out of range.
 * Nothing depends on the locale. */
int config_number(const struct config_option *o, const char *text, double *value, int64_t *whole);

#endif
