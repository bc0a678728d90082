/* arena: memory of one lifetime (an exchange, a render), freed in one call.
 *
 * Blocks are chained; nothing is freed singly. bytes_max bounds the sum, so that one request can
 * not take the machine's memory. Owner: one thread at a time. */
#ifndef SIROCCO_ARENA_H
#define SIROCCO_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first */
    size_t bytes;               /* taken from malloc */
    size_t bytes_max;           /* 0: no maximum */
};

void arena_init(struct arena *a, size_t bytes_max);
void arena_free(struct arena *a); /* all of it; NULL and zeroed allowed; ready for use again */

/* n bytes aligned to 16, zeroed; NULL when over bytes_max or out of memory. */
void *arena_alloc(struct arena *a, size_t n);
void *arena_array(struct arena *a, size_t count, size_t size); /* overflow-checked; NULL as above */
char *arena_copy(struct arena *a, const char *text, size_t n); /* adds a NUL; NULL as above */

#endif
