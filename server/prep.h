/* prep: preparation of requests (parse, render, tokenize) on libuv's worker pool. One work item
 * owns its exchange from prep_run until exchange_prepared is called back on the loop. */
#ifndef SIROCCO_PREP_H
#define SIROCCO_PREP_H

#include <stddef.h>

#include "engine/base/err.h"

struct exchange;
struct prep;
struct uv_loop_s;

enum { PREP_BYTES_MAX = 64 << 20 }; /* bodies in preparation at once; one always may */

struct prep *prep_open(struct uv_loop_s *loop); /* NULL: out of memory */
void prep_close(struct prep *p);                /* nothing may be running; NULL allowed */

/* Run x->prepare on a worker. ERR_FULL when too many bytes are in preparation, ERR_NOMEM. */
int prep_run(struct prep *p, struct exchange *x, struct err *err);
size_t prep_bytes(const struct prep *p); /* bytes in preparation now */

#endif
