/* arena: chained blocks of one lifetime (arena.h). One owner at a time. */
#include "engine/base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

enum { BLOCK_BYTES = 4096, ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used, capacity;
    _Alignas(ALIGN) char bytes[];
};

void arena_init(struct arena *a, size_t bytes_max)
{
    *a = (struct arena){.bytes_max = bytes_max};
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    while (a->blocks) {
        struct arena_block *block = a->blocks;
        a->blocks = block->next;
        free(block);
    }
    a->bytes = 0;
}

static struct arena_block *block_new(struct arena *a, size_t need)
{
    size_t capacity = need > BLOCK_BYTES ? need : BLOCK_BYTES, total;
    /* grow with the arena, so that many small allocations make few blocks */
    if (capacity < a->bytes / 4 && a->bytes / 4 <= ((size_t)1 << 20))
        capacity = a->bytes / 4;
    if (a->bytes_max && a->bytes_max - a->bytes < capacity)
        capacity = need;
    if (!size_add(capacity, sizeof(struct arena_block), &total))
        return NULL;
    if (a->bytes_max && total > a->bytes_max - a->bytes)
        return NULL;
    struct arena_block *block = malloc(total);
    if (!block)
        return NULL;
    block->next = a->blocks;
    block->used = 0;
    block->capacity = capacity;
    a->blocks = block;
    a->bytes += total;
    return block;
}

void *arena_alloc(struct arena *a, size_t n)
{
    size_t need;
    if (!size_add(n ? n : 1, ALIGN - 1, &need))
        return NULL;
    need &= ~(size_t)(ALIGN - 1);
    struct arena_block *block = a->blocks;
    if (!block || block->capacity - block->used < need)
        block = block_new(a, need);
    if (!block)
        return NULL;
    void *memory = block->bytes + block->used;
    block->used += need;
    memset(memory, 0, need);
    return memory;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t total;
    return size_mul(count, size, &total) ? arena_alloc(a, total) : NULL;
}

char *arena_copy(struct arena *a, const char *text, size_t n)
{
    size_t total;
    char *copy = size_add(n, 1, &total) ? arena_alloc(a, total) : NULL;
    if (copy && n)
        memcpy(copy, text, n);
    return copy;
}
