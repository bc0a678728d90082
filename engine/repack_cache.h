/* repack_cache: repacked weights kept in a file, for the next start. Internal to engine/repack.c.
 *
 * A file is named by its key: what the source's files are (name, size, time of change, place on the
 * disk), what is made of them, and the version of the layouts. The layouts are those of quant.h,
 * the same for every instruction set. Files are written under another name and renamed when they
 * are whole; what is read is checked in whole. Best effort: without a file, or with a wrong one,
 * the caller repacks. */
#ifndef SIROCCO_REPACK_CACHE_H
#define SIROCCO_REPACK_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct repack_cache_key {
    uint64_t a, b; /* two hashes of the same */
};

void repack_cache_key_init(struct repack_cache_key *k);
void repack_cache_key_add(struct repack_cache_key *k, const void *data, size_t n);

/* Map the file's bytes over room (page-aligned, anonymous); false: room is as it was, and where
 * there was a wrong file, a line in the log says so. */
bool repack_cache_read(const char *folder, const struct repack_cache_key *k, uint8_t *room,
                       size_t bytes);

/* Write room; a line in the log says what came of it. */
void repack_cache_write(const char *folder, const struct repack_cache_key *k, const uint8_t *room,
                        size_t bytes);

#endif
