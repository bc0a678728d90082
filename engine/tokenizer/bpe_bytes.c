/* bpe_bytes: merging over bytes: the byte-level kinds (tokenizer.json with ByteLevel, GGUF's gpt2,
 * and rank files such as tekken.json). Tables are built in tokenizer_open and immutable after it;
 * any thread may encode.
 *
 * Most words of a text are one token, so a word is first looked up whole. That is right only for
 * tokens that merging their own bytes gives (every token, where a rank file or ignore_merges says
 * so): bpe_seal_bytes tries each once, at open. */
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/bpe.h"

struct bpe_word {
    const char *bytes; /* in the vocabulary's texts; NULL: empty */
    uint32_t size;
    int32_t id; /* a token; below 0: ~id, a token that its own bytes do not merge to */
};

static uint64_t load(const char *p, size_t n)
{
    uint64_t value = 0;
    memcpy(&value, p, n);
    return value;
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = n * 0x9e3779b97f4a7c15u;
    for (; n >= 8; p += 8, n -= 8)
        h = (h ^ load(p, 8)) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    h = (h ^ load(p, n)) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static struct bpe_word *word_slot(const struct bpe *b, const char *bytes, size_t n)
{
    size_t slot = hash_bytes(bytes, n) & b->word_mask;
    while (b->words[slot].bytes &&
           (b->words[slot].size != n || memcmp(b->words[slot].bytes, bytes, n) != 0))
        slot = (slot + 1) & b->word_mask;
    return &b->words[slot];
}

static const char *piece_of(const struct vocab *v, int32_t id, size_t *n)
{
    *n = v->tokens[id].piece_size;
    return v->texts.data + v->tokens[id].piece;
}

int bpe_open_bytes(struct bpe *b, const struct vocab *v, size_t max_merges)
{
    *b = (struct bpe){.vocab = v, .n_symbols = v->n};
    size_t n_slots = vocab_n_slots((size_t)v->n);
    b->word_mask = n_slots - 1;
    b->words = calloc(n_slots, sizeof *b->words);
    if (!b->words || bpe_make_pairs(b, max_merges)) {
        bpe_close(b);
        return ERR_NOMEM;
    }
    memset(b->byte_symbols, 0xff, sizeof b->byte_symbols);
    for (int32_t id = 0; id < v->n; id++) {
        size_t n;
        const char *piece = piece_of(v, id, &n);
        if (v->tokens[id].type != VOCAB_NORMAL || n == 0)
            continue;
        struct bpe_word *word = word_slot(b, piece, n);
        if (!word->bytes)
            *word = (struct bpe_word){piece, (uint32_t)n, id};
        if (n == 1 && b->byte_symbols[(uint8_t)*piece] < 0)
            b->byte_symbols[(uint8_t)*piece] = id;
    }
    return 0;
}

/* ---- rank files */

static int32_t find_word(const struct bpe *b, const char *bytes, size_t n)
{
    const struct bpe_word *word = word_slot(b, bytes, n);
    return word->bytes ? word->id : -1;
}

/* Every way to make token id of two tokens; counted, and added when `add`. */
static size_t split_token(struct bpe *b, int32_t id, bool add)
{
    size_t n, ways = 0;
    const char *piece = piece_of(b->vocab, id, &n);
    for (size_t i = 1; b->vocab->tokens[id].type == VOCAB_NORMAL && i < n; i++) {
        int32_t left = find_word(b, piece, i);
        int32_t right = left < 0 ? -1 : find_word(b, piece + i, n - i);
        if (right < 0)
            continue;
        ways++;
        if (add)
            bpe_add_merge(b, left, right, (uint32_t)id, id);
    }
    return ways;
}

int bpe_open_ranks(struct bpe *b, const struct vocab *v)
{
    if (bpe_open_bytes(b, v, 0))
        return ERR_NOMEM;
    size_t ways = 0;
    for (int32_t id = 0; id < v->n; id++)
        ways += split_token(b, id, false);
    if (bpe_make_pairs(b, ways)) {
        bpe_close(b);
        return ERR_NOMEM;
    }
    for (int32_t id = 0; id < v->n; id++)
        split_token(b, id, true);
    b->ignore_merges = true;
    return 0;
}

/* ---- encoding */

static void merge_bytes(struct bpe_work *w, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = w->bpe->byte_symbols[(uint8_t)text[i]];
        if (id < 0)
            id = w->bpe->vocab->unk; /* a vocabulary without this byte */
        if (id >= 0)
            bpe_add_symbol(w, id);
    }
    bpe_merge(w);
}

int bpe_encode_bytes(struct bpe_work *w, const char *text, size_t n)
{
    int32_t id = n ? find_word(w->bpe, text, n) : -1;
    if (id >= 0) {
        if (token_list_add(w->out, id))
            w->failed = ERR_NOMEM;
        return w->failed;
    }
    if (n >= UINT32_MAX / sizeof(uint64_t)) /* positions are 32 bits wide */
        return w->failed = ERR_NOMEM;
    merge_bytes(w, text, n);
    return w->failed;
}

int bpe_seal_bytes(struct bpe *b)
{
    struct token_list out = {0};
    struct bpe_work w;
    if (b->ignore_merges)
        return 0;
    bpe_work_init(&w, b, &out);
    for (size_t i = 0; i <= b->word_mask && !w.failed; i++) {
        struct bpe_word *word = &b->words[i];
        if (!word->bytes)
            continue;
        out.n = 0;
        merge_bytes(&w, word->bytes, word->size);
        if (out.n != 1 || out.ids[0] != word->id)
            word->id = ~word->id;
    }
    bpe_work_free(&w);
    token_list_free(&out);
    return w.failed;
}
