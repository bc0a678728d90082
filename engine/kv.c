/* kv: the block pool: reference counts, an intrusive LRU list of free blocks, and a map from the
 * chained hash of a full block to the block. Engine thread only.
 *
 *                 kv_grant                  kv_seal
 *     free ----------------------> owned --------------> sealed (owned or shared)
 *      ^  ^                          |                     |        ^
 *      |  +------ kv_release --------+                     |        | kv_share
 *      +--------- kv_release, kv_release_window -----------+        |
 *      +--- free and findable --------------------------------------+
 *
 * A block's identity is a keyed 128-bit hash over (hash of the block before it, its token ids); the
 * first block's parent is the cache salt. The key is random per process and never leaves it, so a
 * client can not search for collisions, and by accident 2^40 blocks collide with a chance below
 * 2^-48: far below that of a memory error. A hit therefore does not compare tokens again. */
#include "engine/kv.h"

#include <stdlib.h>
#include <string.h>

/* ---- SipHash-2-4-128 */

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int n)
{
    while (n-- > 0) {
        v[0] += v[1];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[0] = rotate(v[0], 32);
        v[2] += v[3];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static uint64_t little_endian(const unsigned char *p, size_t n)
{
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++)
        word |= (uint64_t)p[i] << (8 * i);
    return word;
}

struct kv_hash kv_siphash(struct kv_key key, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    uint64_t v[4] = {
        key.a ^ 0x736f6d6570736575u,
        key.b ^ 0x646f72616e646f6du ^ 0xee,
        key.a ^ 0x6c7967656e657261u,
        key.b ^ 0x7465646279746573u,
    };
    size_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t word = little_endian(p, 8);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)(n & 255) << 56 | little_endian(p, left);
    v[3] ^= last;
    sip_rounds(v, 2);
    v[0] ^= last;
    struct kv_hash hash;
    v[2] ^= 0xee;
    sip_rounds(v, 4);
    hash.a = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    sip_rounds(v, 4);
    hash.b = v[0] ^ v[1] ^ v[2] ^ v[3];
    return hash;
}

static struct kv_hash block_hash(const struct kv *kv, struct kv_hash parent, const int32_t *tokens)
{
    unsigned char message[sizeof parent + KV_BLOCK_SIZE_MAX * sizeof *tokens];
    size_t n = (size_t)kv->block_size * sizeof *tokens;
    memcpy(message, &parent, sizeof parent);
    memcpy(message + sizeof parent, tokens, n);
    return kv_siphash(kv->key, message, sizeof parent + n);
}

/* Hash the first n blocks of tokens, as far as that was not done before. */
static void hash_blocks(const struct kv *kv, struct kv_table *t, const int32_t *tokens, int n)
{
    CHECK(n <= t->capacity);
    for (; t->n_hashed < n; t->n_hashed++) {
        int i = t->n_hashed;
        struct kv_hash salted = {t->salt, ~(uint64_t)0};
        struct kv_hash parent = i ? t->hashes[i - 1] : salted;
        t->hashes[i] = block_hash(kv, parent, tokens + (size_t)i * (size_t)kv->block_size);
    }
}

/* ---- the map */

static bool same_hash(struct kv_hash x, struct kv_hash y)
{
    return x.a == y.a && x.b == y.b;
}

static int32_t *bucket_of(const struct kv *kv, struct kv_hash hash)
{
    return &kv->buckets[hash.a & (kv->n_buckets - 1)];
}

static int32_t map_find(const struct kv *kv, struct kv_hash hash)
{
    int32_t block = *bucket_of(kv, hash);
    while (block != KV_NONE && !same_hash(kv->blocks[block].hash, hash))
        block = kv->blocks[block].map_next;
    return block;
}

static void map_add(struct kv *kv, int32_t block, struct kv_hash hash)
{
    struct kv_block *b = &kv->blocks[block];
    int32_t *bucket = bucket_of(kv, hash);
    b->hash = hash;
    b->findable = true;
    b->map_next = *bucket;
    *bucket = block;
}

static void map_remove(struct kv *kv, int32_t block)
{
    struct kv_block *b = &kv->blocks[block];
    int32_t *link = bucket_of(kv, b->hash);
    while (*link != block) {
        CHECK(*link != KV_NONE);
        link = &kv->blocks[*link].map_next;
    }
    *link = b->map_next;
    b->map_next = KV_NONE;
    b->findable = false;
}

/* ---- the free list */

/* Findable blocks go to the end, to live as long as possible; others hold nothing anyone could use
 * and are granted next. */
static void lru_add(struct kv *kv, int32_t block)
{
    struct kv_block *b = &kv->blocks[block];
    if (b->findable) {
        b->lru_prev = kv->lru_last;
        b->lru_next = KV_NONE;
        kv->n_cached++;
    } else {
        b->lru_prev = KV_NONE;
        b->lru_next = kv->lru_first;
    }
    *(b->lru_prev == KV_NONE ? &kv->lru_first : &kv->blocks[b->lru_prev].lru_next) = block;
    *(b->lru_next == KV_NONE ? &kv->lru_last : &kv->blocks[b->lru_next].lru_prev) = block;
    kv->n_free++;
}

static void lru_remove(struct kv *kv, int32_t block)
{
    struct kv_block *b = &kv->blocks[block];
    *(b->lru_prev == KV_NONE ? &kv->lru_first : &kv->blocks[b->lru_prev].lru_next) = b->lru_next;
    *(b->lru_next == KV_NONE ? &kv->lru_last : &kv->blocks[b->lru_next].lru_prev) = b->lru_prev;
    b->lru_prev = b->lru_next = KV_NONE;
    kv->n_free--;
    kv->n_cached -= b->findable;
}

static void unref(struct kv *kv, int32_t block, bool findable)
{
    struct kv_block *b = &kv->blocks[block];
    CHECK(b->n_refs > 0);
    if (--b->n_refs)
        return;
    if (!findable && b->findable)
        map_remove(kv, block);
    lru_add(kv, block);
}

/* ---- public */

int kv_init(struct kv *kv, int n_blocks, int block_size, struct kv_key key)
{
    CHECK(n_blocks >= 1 && block_size >= 1 && block_size <= KV_BLOCK_SIZE_MAX);
    *kv = (struct kv){.n_blocks = n_blocks, .block_size = block_size, .key = key,
                      .n_buckets = 1, .lru_first = KV_NONE, .lru_last = KV_NONE};
    while (kv->n_buckets < (uint32_t)n_blocks)
        kv->n_buckets *= 2;
    kv->blocks = calloc((size_t)n_blocks, sizeof *kv->blocks);
    kv->buckets = calloc(kv->n_buckets, sizeof *kv->buckets);
    if (!kv->blocks || !kv->buckets) {
        kv_free(kv);
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        kv->buckets[i] = KV_NONE;
    for (int32_t i = n_blocks; i-- > 0;) { /* so that block 0 is granted first */
        kv->blocks[i].map_next = KV_NONE;
        lru_add(kv, i);
    }
    return 0;
}

void kv_free(struct kv *kv)
{
    if (!kv)
        return;
    free(kv->blocks);
    free(kv->buckets);
    *kv = (struct kv){0};
}

void kv_table_init(struct kv_table *t, int32_t *blocks, struct kv_hash *hashes, int capacity,
                   uint64_t salt)
{
    *t = (struct kv_table){.blocks = blocks, .hashes = hashes, .capacity = capacity, .salt = salt};
}

int kv_held(const struct kv_table *t)
{
    return t->n - t->n_gone;
}

/* The first block that a query at position pos sees. */
static int window_first(const struct kv *kv, int pos, int window)
{
    return window > 0 && pos >= window ? (pos - window + 1) / kv->block_size : 0;
}

struct kv_match kv_match(struct kv *kv, struct kv_table *t, const int32_t *tokens, int n_tokens,
                         int window)
{
    struct kv_match match = {0, 0, 0};
    int n_full = n_tokens > 0 ? (n_tokens - 1) / kv->block_size : 0;
    int run = 0; /* cached blocks in a row that end at i */
    CHECK(t->n == 0);
    hash_blocks(kv, t, tokens, n_full);
    for (int i = 0; i < n_full; i++) {
        t->blocks[i] = map_find(kv, t->hashes[i]);
        run = t->blocks[i] == KV_NONE ? 0 : run + 1;
        if (!run && window <= 0)
            break;
        int first = window_first(kv, (i + 1) * kv->block_size, window);
        if (run >= i + 1 - first) {
            match.n_blocks = i + 1;
            match.n_gone = first;
        }
    }
    for (int i = match.n_gone; i < match.n_blocks; i++)
        match.n_free += kv->blocks[t->blocks[i]].n_refs == 0;
    return match;
}

void kv_share(struct kv *kv, struct kv_table *t, const struct kv_match *match)
{
    CHECK(t->n == 0 && match->n_blocks <= t->n_hashed);
    for (int i = 0; i < match->n_gone; i++)
        t->blocks[i] = KV_NONE;
    for (int i = match->n_gone; i < match->n_blocks; i++) {
        struct kv_block *b = &kv->blocks[t->blocks[i]];
        CHECK(b->findable && same_hash(b->hash, t->hashes[i]));
        if (b->n_refs == 0)
            lru_remove(kv, t->blocks[i]);
        b->n_refs++;
    }
    t->n = t->n_sealed = match->n_blocks;
    t->n_gone = match->n_gone;
}

bool kv_grant(struct kv *kv, struct kv_table *t, int n)
{
    CHECK(n <= t->capacity);
    if (n - t->n > kv->n_free)
        return false;
    while (t->n < n) {
        int32_t block = kv->lru_first;
        lru_remove(kv, block);
        if (kv->blocks[block].findable) {
            map_remove(kv, block);
            kv->n_evicted++;
        }
        kv->blocks[block].n_refs = 1;
        t->blocks[t->n++] = block;
    }
    return true;
}

void kv_seal(struct kv *kv, struct kv_table *t, const int32_t *tokens, int n_computed)
{
    int n_full = n_computed / kv->block_size;
    CHECK(n_full <= t->n);
    hash_blocks(kv, t, tokens, n_full);
    for (; t->n_sealed < n_full; t->n_sealed++) {
        int i = t->n_sealed;
        if (i >= t->n_gone && map_find(kv, t->hashes[i]) == KV_NONE)
            map_add(kv, t->blocks[i], t->hashes[i]);
    }
}

void kv_release_window(struct kv *kv, struct kv_table *t, int first_pos)
{
    int first = first_pos / kv->block_size;
    for (; t->n_gone < first && t->n_gone < t->n; t->n_gone++) {
        unref(kv, t->blocks[t->n_gone], true);
        t->blocks[t->n_gone] = KV_NONE;
    }
}

void kv_release(struct kv *kv, struct kv_table *t, bool findable)
{
    for (int i = t->n; i-- > t->n_gone;)
        unref(kv, t->blocks[i], findable);
    t->n = t->n_gone = t->n_sealed = 0;
}

/* ---- the check */

static int check_tables(const struct kv *kv, const struct kv_table *const *tables, int n_tables,
                        int32_t *refs, struct err *err)
{
    for (int j = 0; j < n_tables; j++) {
        const struct kv_table *t = tables[j];
        if (t->n_gone > t->n || t->n > t->capacity || t->n_sealed > t->n)
            return err_set(err, ERR_INTERNAL, "table %d has %d gone, %d sealed of %d entries", j,
                           t->n_gone, t->n_sealed, t->n);
        for (int i = t->n_gone; i < t->n; i++) {
            int32_t block = t->blocks[i];
            if (block < 0 || block >= kv->n_blocks)
                return err_set(err, ERR_INTERNAL, "table %d entry %d is block %d", j, i, block);
            refs[block]++;
            if (i >= t->n_sealed && (kv->blocks[block].n_refs != 1 || kv->blocks[block].findable))
                return err_set(err, ERR_INTERNAL, "table %d writes block %d: %d references%s", j,
                               block, kv->blocks[block].n_refs,
                               kv->blocks[block].findable ? ", findable" : "");
        }
    }
    for (int i = 0; i < kv->n_blocks; i++)
        if (refs[i] != kv->blocks[i].n_refs)
            return err_set(err, ERR_INTERNAL, "block %d has %d references, tables hold %d", i,
                           kv->blocks[i].n_refs, refs[i]);
    return 0;
}

static int check_free_list(const struct kv *kv, struct err *err)
{
    int n = 0, n_cached = 0, n_unreferenced = 0;
    int32_t prev = KV_NONE;
    for (int32_t i = kv->lru_first; i != KV_NONE; prev = i, i = kv->blocks[i].lru_next) {
        if (kv->blocks[i].lru_prev != prev || kv->blocks[i].n_refs || n++ == kv->n_blocks)
            return err_set(err, ERR_INTERNAL, "the free list is broken at block %d", i);
        n_cached += kv->blocks[i].findable;
    }
    for (int i = 0; i < kv->n_blocks; i++)
        n_unreferenced += kv->blocks[i].n_refs == 0;
    if (kv->lru_last != prev || n != kv->n_free || n != n_unreferenced || n_cached != kv->n_cached)
        return err_set(err, ERR_INTERNAL, "the free list has %d blocks, %d cached; counted %d, %d",
                       n, n_cached, kv->n_free, kv->n_cached);
    return 0;
}

static int check_map(const struct kv *kv, struct err *err)
{
    int n = 0, n_findable = 0;
    for (uint32_t j = 0; j < kv->n_buckets; j++)
        for (int32_t i = kv->buckets[j]; i != KV_NONE; i = kv->blocks[i].map_next)
            if (!kv->blocks[i].findable || n++ == kv->n_blocks ||
                map_find(kv, kv->blocks[i].hash) != i)
                return err_set(err, ERR_INTERNAL, "the map is broken at block %d", i);
    for (int i = 0; i < kv->n_blocks; i++)
        n_findable += kv->blocks[i].findable;
    return n == n_findable ? 0 : err_set(err, ERR_INTERNAL, "the map holds %d of %d blocks", n,
                                         n_findable);
}

int kv_check(const struct kv *kv, const struct kv_table *const *tables, int n_tables,
             int32_t *refs, struct err *err)
{
    memset(refs, 0, (size_t)kv->n_blocks * sizeof *refs);
    int result = check_tables(kv, tables, n_tables, refs, err);
    if (!result)
        result = check_free_list(kv, err);
    return result ? result : check_map(kv, err);
}
