/* kv: the block pool of the paged KV cache: grant, match, share, seal, release. Integers only: it
 * knows block numbers and token ids, no device memory and no sequences. Engine thread only; all
 * memory is taken by kv_init (R4).
 *
 * A block is free (in the LRU list, still findable if it was sealed), owned (one reference) or
 * shared (several). Only a sealed block, one that is full and hashed, is ever shared; only a block
 * that is neither is written (R7). */
#ifndef SIROCCO_KV_H
#define SIROCCO_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

enum { KV_BLOCK_SIZE_MAX = 256, KV_NONE = -1 };

struct kv_hash {
    uint64_t a, b;
};

struct kv_key { /* secret of this process: nobody outside can construct a collision */
    uint64_t a, b;
};

struct kv_block {
    int32_t n_refs;
    int32_t lru_prev, lru_next; /* while free; KV_NONE at the ends */
    int32_t map_next;           /* next in its bucket, while findable */
    bool findable;              /* in the map under hash */
    struct kv_hash hash;
};

struct kv {
    int n_blocks, block_size;
    struct kv_key key;
    struct kv_block *blocks;
    int32_t *buckets; /* [n_buckets] first block or KV_NONE; n_buckets is a power of two */
    uint32_t n_buckets;
    int32_t lru_first, lru_last; /* first is granted (and evicted) next */
    int n_free, n_cached;        /* n_cached of the free ones are findable */
    uint64_t n_evicted;          /* findable blocks that were granted anew */
};

/* One sequence's blocks: entry i holds positions i * block_size .. + block_size - 1. */
struct kv_table {
    int32_t *blocks;        /* [capacity]; KV_NONE below n_gone */
    struct kv_hash *hashes; /* [capacity] chained hashes of the full blocks, once computed */
    int capacity;
    int n;        /* entries in use */
    int n_gone;   /* leading entries given back (or never taken): they left the window */
    int n_hashed; /* hashes[0..n_hashed) are known; tokens only grow, so they stay true */
    int n_sealed; /* blocks[0..n_sealed) are full and never written again */
    uint64_t salt;
};

struct kv_match {
    int n_blocks; /* leading blocks whose keys and values need not be computed */
    int n_gone;   /* of these, the first ones that lie before the window */
    int n_free;   /* of these, how many are in the free list now: kv_share takes them out */
};

/* ERR_NOMEM. n_blocks >= 1, 1 <= block_size <= KV_BLOCK_SIZE_MAX (CHECKed). */
int kv_init(struct kv *kv, int n_blocks, int block_size, struct kv_key key);
void kv_free(struct kv *kv); /* zeroed and NULL allowed */

/* Make the table empty. blocks and hashes are the caller's, capacity entries each. */
void kv_table_init(struct kv_table *t, int32_t *blocks, struct kv_hash *hashes, int capacity,
                   uint64_t salt);

/* The longest cached prefix of tokens[0..n_tokens) that leaves at least the last token to compute.
 * With a window (tokens a query sees, itself included; 0: all) only the blocks that the first
 * computed token sees must be there. t must be empty; its entries are used as scratch, and kv_share
 * must follow before anything else happens to the pool if the match is to be used. */
struct kv_match kv_match(struct kv *kv, struct kv_table *t, const int32_t *tokens, int n_tokens,
                         int window);
void kv_share(struct kv *kv, struct kv_table *t, const struct kv_match *match);

/* Let the table have n entries. False, and nothing changed, when too few blocks are free. */
bool kv_grant(struct kv *kv, struct kv_table *t, int n);

/* n_computed tokens of the sequence now have their keys and values stored: blocks that became full
 * are hashed and can be found. A block whose hash is already known stays private. */
void kv_seal(struct kv *kv, struct kv_table *t, const int32_t *tokens, int n_computed);

/* Give back the blocks that hold only positions below first_pos. */
void kv_release_window(struct kv *kv, struct kv_table *t, int first_pos);

/* Give back everything, last block first, so that the end of a prompt is evicted before its start.
 * findable false: what this table alone held is forgotten (its contents are not to be trusted). */
void kv_release(struct kv *kv, struct kv_table *t, bool findable);

/* Entries of t that hold a block. */
int kv_held(const struct kv_table *t);

/* Every invariant of the pool against the tables of all live sequences; refs is scratch of n_blocks
 * entries. Returns 0, or ERR_INTERNAL with what is broken. For tests and the simulator. */
int kv_check(const struct kv *kv, const struct kv_table *const *tables, int n_tables,
             int32_t *refs, struct err *err);

/* SipHash-2-4 with 128-bit output (Aumasson and Bernstein 2012), bytes in memory order. */
struct kv_hash kv_siphash(struct kv_key key, const void *bytes, size_t n);

#endif
