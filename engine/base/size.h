/* size: checked arithmetic for every number that comes from a file or a client. Pure functions. */
#ifndef SIROCCO_SIZE_H
#define SIROCCO_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool size_mul(size_t a, size_t b, size_t *out) /* false: overflow */
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* offset + n <= total, without overflow */
static inline bool size_fits(size_t offset, size_t n, size_t total)
{
    return offset <= total && n <= total - offset;
}

#endif
