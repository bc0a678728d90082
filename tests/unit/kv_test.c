/* kv_test: the block pool: SipHash, sharing, eviction order, windows, the check itself. */
#include "engine/kv.h"

#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

enum { BS = 4, CAPACITY = 64 };

static const struct kv_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

struct owner { /* a table with its memory */
    struct kv_table t;
    int32_t blocks[CAPACITY];
    struct kv_hash hashes[CAPACITY];
    int32_t tokens[CAPACITY * BS];
};

static void owner_init(struct owner *o, int first_token, uint64_t salt)
{
    kv_table_init(&o->t, o->blocks, o->hashes, CAPACITY, salt);
    for (int i = 0; i < CAPACITY * BS; i++)
        o->tokens[i] = first_token + i;
}

static void compute(struct kv *kv, struct owner *o, int n_tokens)
{
    EXPECT(kv_grant(kv, &o->t, (n_tokens + BS - 1) / BS));
    kv_seal(kv, &o->t, o->tokens, n_tokens);
}

static void expect_sound(const struct kv *kv, const struct owner *x, const struct owner *y)
{
    const struct kv_table *tables[] = {&x->t, y ? &y->t : NULL};
    int32_t refs[CAPACITY];
    struct err err = {0};
    EXPECT_STR(kv_check(kv, tables, y ? 2 : 1, refs, &err) ? err.text : "", "");
}

/* The first vectors of the reference implementation's table for 128-bit output: key 00..0f, message
 * 00, 01, 02, ... of length 0 and 1. */
TEST(siphash_matches_published_vectors)
{
    static const unsigned char empty[16] = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
                                            0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93};
    static const unsigned char one[16] = {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44,
                                          0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45};
    struct kv_hash h = kv_siphash(key, "", 0);
    EXPECT(memcmp(&h, empty, 16) == 0);
    h = kv_siphash(key, "\0", 1);
    EXPECT(memcmp(&h, one, 16) == 0);
}

TEST(hit_never_covers_the_last_token)
{
    struct kv kv;
    static struct owner x, y;
    EXPECT_INT(kv_init(&kv, 16, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 0, 0);
    compute(&kv, &x, 3 * BS);
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 3 * BS, 0).n_blocks, 2);
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 3 * BS + 1, 0).n_blocks, 3);
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 1, 0).n_blocks, 0);
    struct kv_match m = kv_match(&kv, &y.t, y.tokens, 3 * BS + 1, 0);
    EXPECT_INT(m.n_free, 0); /* x still holds them */
    kv_share(&kv, &y.t, &m);
    EXPECT_INT(y.t.blocks[2], x.t.blocks[2]);
    expect_sound(&kv, &x, &y);
    kv_release(&kv, &x.t, true);
    EXPECT_INT(kv.n_free, 13);
    expect_sound(&kv, &y, NULL);
    kv_release(&kv, &y.t, true);
    EXPECT_INT(kv.n_free, 16);
    EXPECT_INT(kv.n_cached, 3);
    EXPECT_INT(kv_match(&kv, &x.t, x.tokens, 3 * BS + 1, 0).n_free, 3);
    kv_free(&kv);
}

TEST(partial_blocks_and_other_salts_are_not_shared)
{
    struct kv kv;
    static struct owner x, y, z;
    EXPECT_INT(kv_init(&kv, 16, BS, key), 0);
    owner_init(&x, 0, 7);
    owner_init(&y, 0, 7);
    owner_init(&z, 0, 8);
    compute(&kv, &x, 2 * BS - 1);
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 4 * BS, 0).n_blocks, 1);
    EXPECT_INT(kv_match(&kv, &z.t, z.tokens, 4 * BS, 0).n_blocks, 0);
    y.tokens[0]++; /* the second block's identity depends on the first one's tokens */
    compute(&kv, &x, 2 * BS);
    owner_init(&z, 0, 7);
    z.tokens[0]++;
    EXPECT_INT(kv_match(&kv, &z.t, z.tokens, 4 * BS, 0).n_blocks, 0);
    kv_free(&kv);
}

TEST(eviction_takes_the_end_of_the_oldest_first)
{
    struct kv kv;
    static struct owner x, y, z;
    EXPECT_INT(kv_init(&kv, 6, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 1000, 0);
    owner_init(&z, 2000, 0);
    compute(&kv, &x, 3 * BS);
    compute(&kv, &y, 3 * BS);
    kv_release(&kv, &x.t, true);
    kv_release(&kv, &y.t, true);
    compute(&kv, &z, 2 * BS);
    EXPECT_INT((int)kv.n_evicted, 2);
    EXPECT_INT(kv_match(&kv, &x.t, x.tokens, 3 * BS + 1, 0).n_blocks, 1);
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 3 * BS + 1, 0).n_blocks, 3);
    expect_sound(&kv, &z, NULL);
    kv_free(&kv);
}

TEST(blocks_that_hold_nothing_are_granted_before_cached_ones)
{
    struct kv kv;
    static struct owner x, y, z;
    EXPECT_INT(kv_init(&kv, 4, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 1000, 0);
    owner_init(&z, 2000, 0);
    compute(&kv, &x, 2 * BS);
    compute(&kv, &y, 2 * BS - 1); /* the second one stays partial */
    kv_release(&kv, &x.t, true);
    kv_release(&kv, &y.t, true);
    compute(&kv, &z, BS);
    EXPECT_INT((int)kv.n_evicted, 0);
    EXPECT_INT(kv.n_cached, 3);
    kv_free(&kv);
}

TEST(grant_changes_nothing_when_it_fails)
{
    struct kv kv;
    static struct owner x, y;
    EXPECT_INT(kv_init(&kv, 4, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 1000, 0);
    EXPECT(kv_grant(&kv, &x.t, 3));
    EXPECT(!kv_grant(&kv, &y.t, 2));
    EXPECT_INT(y.t.n, 0);
    EXPECT_INT(kv.n_free, 1);
    EXPECT(kv_grant(&kv, &y.t, 1));
    kv_free(&kv);
}

TEST(what_is_not_to_be_trusted_is_forgotten)
{
    struct kv kv;
    static struct owner x, y, z;
    EXPECT_INT(kv_init(&kv, 8, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 0, 0);
    owner_init(&z, 0, 0);
    compute(&kv, &x, 1 * BS);
    struct kv_match m = kv_match(&kv, &y.t, y.tokens, 3 * BS, 0);
    kv_share(&kv, &y.t, &m);
    compute(&kv, &y, 2 * BS);
    kv_release(&kv, &y.t, false); /* its own block, not the one x still vouches for */
    EXPECT_INT(kv_match(&kv, &z.t, z.tokens, 3 * BS, 0).n_blocks, 1);
    expect_sound(&kv, &x, NULL);
    kv_free(&kv);
}

TEST(windows_need_only_what_is_seen)
{
    struct kv kv;
    static struct owner x, y;
    enum { WINDOW = 6 }; /* the token after 4 blocks sees positions 11.. of 16: blocks 2 and 3 */
    EXPECT_INT(kv_init(&kv, 8, BS, key), 0);
    owner_init(&x, 0, 0);
    owner_init(&y, 0, 0);
    compute(&kv, &x, 4 * BS);
    kv_release_window(&kv, &x.t, 4 * BS - WINDOW + 1);
    EXPECT_INT(x.t.n_gone, 2);
    EXPECT_INT(x.t.blocks[1], KV_NONE);
    EXPECT_INT(kv_held(&x.t), 2);
    EXPECT_INT(kv.n_free, 6);
    expect_sound(&kv, &x, NULL);
    EXPECT(kv_grant(&kv, &x.t, 10)); /* evicts the two that left the window */
    EXPECT_INT(kv_match(&kv, &y.t, y.tokens, 4 * BS + 1, 0).n_blocks, 0);
    struct kv_match m = kv_match(&kv, &y.t, y.tokens, 4 * BS + 1, WINDOW);
    EXPECT_INT(m.n_blocks, 4);
    EXPECT_INT(m.n_gone, 2);
    kv_share(&kv, &y.t, &m);
    EXPECT_INT(y.t.blocks[0], KV_NONE);
    EXPECT_INT(y.t.blocks[3], x.t.blocks[3]);
    expect_sound(&kv, &x, &y);
    kv_free(&kv);
}

TEST(check_finds_what_is_broken)
{
    struct kv kv;
    static struct owner x;
    const struct kv_table *tables[] = {&x.t};
    int32_t refs[8];
    struct err err;
    EXPECT_INT(kv_init(&kv, 8, BS, key), 0);
    owner_init(&x, 0, 0);
    compute(&kv, &x, 2 * BS);
    EXPECT_INT(kv_check(&kv, tables, 1, refs, &err), 0);
    kv.blocks[x.t.blocks[0]].n_refs++; /* a reference nobody holds */
    EXPECT_INT(kv_check(&kv, tables, 1, refs, &err), ERR_INTERNAL);
    kv.blocks[x.t.blocks[0]].n_refs--;
    x.t.n_sealed = 1; /* a findable block that would be written */
    EXPECT_INT(kv_check(&kv, tables, 1, refs, &err), ERR_INTERNAL);
    x.t.n_sealed = 2;
    kv.n_free--;
    EXPECT_INT(kv_check(&kv, tables, 1, refs, &err), ERR_INTERNAL);
    kv.n_free++;
    EXPECT_INT(kv_check(&kv, tables, 1, refs, &err), 0);
    kv_free(&kv);
    kv_free(NULL);
}
