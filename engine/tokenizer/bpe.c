/* bpe: byte-pair merging. Tables are built by one thread in tokenizer_open and immutable after it;
 * bpe_encode keeps its work in buffers of its own call, so any thread may run it.
 *
 * A text is cut into chunks wherever no token of the vocabulary could hold both neighbours: no
 * merge can ever cross such a place, so that merging chunk by chunk gives exactly what merging the
 * whole text would, from memory of the size of a word. A chunk that stays long (a million of one
 * letter) is merged with a heap: each merge removes a symbol and adds at most two heap entries, so
 * the whole is O(n log n). */
#include "engine/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"

enum { SMALL_CHUNK = 24 }; /* symbols; up to here a scan is faster than the heap (measured) */

static const uint32_t SPACE = 0x2581;
static const uint32_t NO_RANK = UINT32_MAX;

struct bpe_pair {
    uint64_t key; /* left << 32 | right, plus one: 0 is empty */
    uint32_t rank;
    int32_t id;
};

struct bpe_char {
    uint32_t code; /* plus one: 0 is empty */
    int32_t symbol;
};

static uint64_t mix(uint64_t h)
{
    h ^= h >> 31;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static struct bpe_pair *pair_slot(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    size_t slot = mix(key) & b->pair_mask;
    while (b->pairs[slot].key && b->pairs[slot].key != key)
        slot = (slot + 1) & b->pair_mask;
    return &b->pairs[slot];
}

static uint32_t pair_rank(const struct bpe *b, int32_t left, int32_t right)
{
    const struct bpe_pair *pair = pair_slot(b, left, right);
    return pair->key ? pair->rank : NO_RANK;
}

static struct bpe_char *char_slot(const struct bpe *b, uint32_t code)
{
    size_t slot = mix(code + 1) & b->char_mask;
    while (b->chars[slot].code && b->chars[slot].code != code + 1)
        slot = (slot + 1) & b->char_mask;
    return &b->chars[slot];
}

static int class_of(uint32_t code)
{
    return code < 128 ? (int)code : code == SPACE ? BPE_CLASS_SPACE : BPE_CLASS_OTHER;
}

static void learn_joins(struct bpe *b, int32_t id)
{
    size_t n;
    const char *text = vocab_text(b->vocab, id, &n);
    int last = -1;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        int used = utf8_decode(text + i, n - i, &code);
        int class = used > 0 ? class_of(code) : BPE_CLASS_OTHER;
        if (last >= 0)
            b->joins[last][class] = true;
        last = class;
        i += used > 0 ? (size_t)used : 1;
    }
}

static bool mergeable(const struct vocab *v, int32_t id)
{
    int type = v->tokens[id].type;
    return type == VOCAB_NORMAL || type == VOCAB_USER || type == VOCAB_UNUSED;
}

int bpe_make_pairs(struct bpe *b, size_t max_merges)
{
    if (max_merges > SIZE_MAX / 64)
        return ERR_NOMEM;
    size_t n = vocab_n_slots(max_merges);
    free(b->pairs);
    b->pair_mask = n - 1;
    b->n_pairs = 0;
    b->pairs = calloc(n, sizeof *b->pairs);
    return b->pairs ? 0 : ERR_NOMEM;
}

int bpe_open(struct bpe *b, const struct vocab *v, size_t max_merges)
{
    *b = (struct bpe){.vocab = v, .n_symbols = v->n};
    size_t n_slots = vocab_n_slots((size_t)v->n);
    b->char_mask = n_slots - 1;
    b->chars = calloc(n_slots, sizeof *b->chars);
    if (!b->chars || bpe_make_pairs(b, max_merges)) {
        bpe_close(b);
        return ERR_NOMEM;
    }
    for (int id = 0; id < v->n; id++) {
        size_t n;
        const char *text = vocab_text(v, id, &n);
        uint32_t code;
        if (mergeable(v, id) && utf8_decode(text, n, &code) == (int)n)
            *char_slot(b, code) = (struct bpe_char){code + 1, id};
    }
    return 0;
}

void bpe_close(struct bpe *b)
{
    free(b->pairs);
    free(b->chars);
    free(b->extra);
    free(b->words);
    *b = (struct bpe){0};
}

void bpe_add_merge(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    struct bpe_pair *pair = pair_slot(b, left, right);
    if (pair->key)
        return;
    *pair = (struct bpe_pair){((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1, rank, id};
    b->n_pairs++;
    if (!b->chars) /* byte mode knows no characters */
        return;
    learn_joins(b, id);
    int types[2] = {b->vocab->tokens[left < b->vocab->n ? left : id].type,
                    b->vocab->tokens[right < b->vocab->n ? right : id].type};
    if (types[0] == VOCAB_BYTE || types[1] == VOCAB_BYTE) /* then any character may join any */
        memset(b->joins, true, sizeof b->joins);
}

/* ---- merges from scores */

struct ranked {
    float score;
    int32_t id;
};

static int by_score(const void *left, const void *right)
{
    float a = ((const struct ranked *)left)->score, b = ((const struct ranked *)right)->score;
    return (a < b) - (a > b);
}

/* Give symbols to the characters that occur in tokens without being tokens: sentencepiece merges
 * them, too. Only characters get a slot, at most one per token text byte, so chars is rebuilt. */
static int add_extra_chars(struct bpe *b)
{
    const struct vocab *v = b->vocab;
    size_t total = 0;
    for (int id = 0; id < v->n; id++)
        total += v->tokens[id].text_size;
    size_t n_extra = 0, n_slots = vocab_n_slots(total + (size_t)v->n);
    struct bpe_char *old = b->chars;
    size_t old_mask = b->char_mask;
    b->chars = calloc(n_slots, sizeof *b->chars);
    b->extra = calloc(total + 1, sizeof *b->extra);
    b->char_mask = n_slots - 1;
    for (size_t i = 0; b->chars && i <= old_mask; i++)
        if (old[i].code)
            *char_slot(b, old[i].code - 1) = old[i];
    free(old);
    if (!b->chars || !b->extra)
        return ERR_NOMEM;
    for (int id = 0; id < v->n; id++) {
        size_t n;
        const char *text = vocab_text(v, id, &n);
        for (size_t i = 0; mergeable(v, id) && i < n;) {
            uint32_t code;
            int used = utf8_decode(text + i, n - i, &code);
            if (used <= 0)
                break;
            struct bpe_char *slot = char_slot(b, code);
            if (!slot->code) {
                *slot = (struct bpe_char){code + 1, b->n_symbols++};
                b->extra[n_extra++] = code;
            }
            i += (size_t)used;
        }
    }
    return 0;
}

/* The symbol whose text is this: a token merging can make, or a single character. */
static int32_t symbol_of(const struct bpe *b, const char *text, size_t n)
{
    uint32_t code;
    if (utf8_decode(text, n, &code) == (int)n) {
        const struct bpe_char *slot = char_slot(b, code);
        return slot->code ? slot->symbol : -1;
    }
    int32_t id = vocab_find(b->vocab, text, n);
    return id >= 0 && mergeable(b->vocab, id) ? id : -1;
}

/* Every way to make token id of two symbols; counts them when rank is NO_RANK, else adds them. */
static size_t split_token(struct bpe *b, int32_t id, uint32_t rank)
{
    size_t n, ways = 0;
    const char *text = vocab_text(b->vocab, id, &n);
    for (size_t i = 1; mergeable(b->vocab, id) && i < n; i++) {
        if (((uint8_t)text[i] & 0xC0) == 0x80)
            continue;
        int32_t left = symbol_of(b, text, i);
        int32_t right = left < 0 ? -1 : symbol_of(b, text + i, n - i);
        if (right < 0)
            continue;
        ways++;
        if (rank != NO_RANK)
            bpe_add_merge(b, left, right, rank, id);
    }
    return ways;
}

int bpe_open_scores(struct bpe *b, const struct vocab *v, const float *scores)
{
    if (bpe_open(b, v, 0))
        return ERR_NOMEM;
    struct ranked *order = calloc((size_t)v->n, sizeof *order);
    if (!order || add_extra_chars(b))
        goto fail;
    size_t ways = 0;
    for (int id = 0; id < v->n; id++) {
        order[id] = (struct ranked){scores[id], id};
        ways += split_token(b, id, NO_RANK);
    }
    qsort(order, (size_t)v->n, sizeof *order, by_score);
    if (bpe_make_pairs(b, ways))
        goto fail;
    uint32_t rank = 0; /* equal scores share a rank: of those the leftmost pair goes first */
    for (int i = 0; i < v->n; i++) {
        if (i > 0 && order[i].score < order[i - 1].score)
            rank++;
        split_token(b, order[i].id, rank);
    }
    free(order);
    return 0;
fail:
    free(order);
    bpe_close(b);
    return ERR_NOMEM;
}

static int by_rank(const void *a, const void *b)
{
    const struct bpe_merge *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->left < y->left ? -1 : x->left > y->left; /* of one token the left sides differ */
}

void bpe_list(const struct bpe *b, struct bpe_merge *merges)
{
    size_t n = 0;
    for (size_t i = 0; b->pairs && i <= b->pair_mask; i++) {
        uint64_t key = b->pairs[i].key - 1;
        if (b->pairs[i].key)
            merges[n++] = (struct bpe_merge){(int32_t)(key >> 32), (int32_t)(uint32_t)key,
                                             b->pairs[i].id, b->pairs[i].rank};
    }
    if (n)
        qsort(merges, n, sizeof *merges, by_rank);
}

/* ---- encoding */

struct symbol {
    int32_t id;
    uint32_t next, prev; /* indices into the chunk; the end is n, the front UINT32_MAX */
};

static void emit(struct bpe_work *w, int32_t id)
{
    const struct vocab *v = w->bpe->vocab;
    if (id >= v->n) { /* a character of some token, but no token itself */
        char bytes[4];
        int n = utf8_encode(w->bpe->extra[id - v->n], bytes);
        bool fallback = v->has_bytes && !w->bpe->no_bytes;
        for (int i = 0; fallback && i < n; i++)
            emit(w, v->byte_ids[(uint8_t)bytes[i]]);
        if (!fallback && v->unk >= 0)
            emit(w, v->unk);
        return;
    }
    bool unk = id == v->unk;
    if (!(unk && w->after_unk && w->bpe->fuse_unk) && token_list_add(w->out, id))
        w->failed = ERR_NOMEM;
    w->after_unk = unk;
}

static void merge_small(struct bpe_work *w, int32_t *ids, size_t n)
{
    uint32_t ranks[SMALL_CHUNK]; /* ranks[i]: of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = pair_rank(w->bpe, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == NO_RANK)
            break;
        ids[best] = pair_slot(w->bpe, ids[best], ids[best + 1])->id;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        if (best + 2 < n)
            memmove(ranks + best, ranks + best + 1, (n - best - 2) * sizeof *ranks);
        n--;
        if (best > 0)
            ranks[best - 1] = pair_rank(w->bpe, ids[best - 1], ids[best]);
        if (best + 1 < n)
            ranks[best] = pair_rank(w->bpe, ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        emit(w, ids[i]);
}

static void sift_down(uint64_t *heap, size_t n, size_t at)
{
    uint64_t key = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= key)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

static void heap_push(struct bpe_work *w, uint64_t key)
{
    if (buf_add(&w->heap, &key, sizeof key)) {
        w->failed = ERR_NOMEM;
        return;
    }
    uint64_t *heap = (uint64_t *)(void *)w->heap.data;
    size_t at = w->heap.size / sizeof key - 1;
    while (at > 0 && heap[(at - 1) / 2] > key) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = key;
}

static uint64_t heap_pop(struct bpe_work *w)
{
    uint64_t *heap = (uint64_t *)(void *)w->heap.data, key = heap[0];
    w->heap.size -= sizeof key;
    size_t n = w->heap.size / sizeof key;
    heap[0] = heap[n];
    if (n > 1)
        sift_down(heap, n, 0);
    return key;
}

static void push_pair(struct bpe_work *w, const struct symbol *symbols, size_t n, uint32_t left)
{
    if (left == UINT32_MAX || symbols[left].next >= n)
        return;
    uint32_t rank = pair_rank(w->bpe, symbols[left].id, symbols[symbols[left].next].id);
    if (rank != NO_RANK)
        heap_push(w, (uint64_t)rank << 32 | left);
}

/* An entry is stale when its symbol is gone or its pair has another rank by now; a pair that came
 * to have the same rank is merged in its right turn. */
static void merge_heap(struct bpe_work *w, const int32_t *ids, size_t n)
{
    buf_clear(&w->symbols);
    buf_clear(&w->heap);
    if (buf_reserve(&w->symbols, n * sizeof(struct symbol)) ||
        buf_reserve(&w->heap, n * sizeof(uint64_t))) {
        w->failed = ERR_NOMEM;
        return;
    }
    struct symbol *symbols = (struct symbol *)(void *)w->symbols.data;
    for (size_t i = 0; i < n; i++)
        symbols[i] = (struct symbol){ids[i], (uint32_t)i + 1, i ? (uint32_t)i - 1 : UINT32_MAX};
    for (size_t i = 0; i + 1 < n; i++)
        push_pair(w, symbols, n, (uint32_t)i);
    while (w->heap.size && !w->failed) {
        uint64_t key = heap_pop(w);
        uint32_t left = (uint32_t)key, right = symbols[left].next;
        if (symbols[left].id < 0 || right >= n)
            continue;
        const struct bpe_pair *pair = pair_slot(w->bpe, symbols[left].id, symbols[right].id);
        if (!pair->key || pair->rank != key >> 32)
            continue;
        symbols[left].id = pair->id;
        symbols[left].next = symbols[right].next;
        if (symbols[right].next < n)
            symbols[symbols[right].next].prev = left;
        symbols[right].id = -1;
        push_pair(w, symbols, n, symbols[left].prev);
        push_pair(w, symbols, n, left);
    }
    for (size_t i = 0; i < n && !w->failed; i = symbols[i].next)
        emit(w, symbols[i].id);
}

void bpe_merge(struct bpe_work *w)
{
    int32_t *ids = (int32_t *)(void *)w->ids.data;
    size_t n = w->ids.size / sizeof *ids;
    if (n == 1)
        emit(w, ids[0]);
    else if (n > 1 && n <= SMALL_CHUNK)
        merge_small(w, ids, n);
    else if (n > 1)
        merge_heap(w, ids, n);
    buf_clear(&w->ids);
}

void bpe_add_symbol(struct bpe_work *w, int32_t id)
{
    if (buf_add(&w->ids, &id, sizeof id))
        w->failed = ERR_NOMEM;
}

static bool falls_to_bytes(const struct bpe *b, const char *text, size_t n)
{
    bool bytes = !b->no_bytes;
    for (size_t i = 0; i < n; i++)
        bytes = bytes && b->vocab->byte_ids[(uint8_t)text[i]] >= 0;
    return bytes;
}

static bool is_dropped(const struct bpe *b, const char *text, size_t n)
{
    return b->vocab->unk < 0 && !falls_to_bytes(b, text, n);
}

/* The symbols of one character, or of n ill-formed bytes: its token; else its bytes' tokens; else
 * the unknown token; else, in a vocabulary that has none of these, nothing. */
static void add_character(struct bpe_work *w, const char *text, size_t n, int32_t symbol)
{
    const struct vocab *v = w->bpe->vocab;
    if (symbol >= 0) {
        bpe_add_symbol(w, symbol);
        return;
    }
    bool bytes = falls_to_bytes(w->bpe, text, n);
    for (size_t i = 0; bytes && i < n; i++)
        bpe_add_symbol(w, v->byte_ids[(uint8_t)text[i]]);
    if (!bytes && v->unk >= 0)
        bpe_add_symbol(w, v->unk);
}

static void encode_word(struct bpe_work *w, const char *text, size_t n)
{
    const struct bpe *b = w->bpe;
    int last = -1;
    w->after_unk = false;
    int32_t whole = b->ignore_merges ? vocab_find(b->vocab, text, n) : -1;
    if (whole >= 0 && mergeable(b->vocab, whole)) {
        emit(w, whole);
        return;
    }
    for (size_t i = 0; i < n && !w->failed;) {
        uint32_t code;
        int used = utf8_decode(text + i, n - i, &code);
        bool valid = used > 0;
        size_t size = valid ? (size_t)used : 1;
        int class = valid ? class_of(code) : BPE_CLASS_OTHER;
        int32_t symbol = -1;
        if (valid) {
            const struct bpe_char *slot = char_slot(b, code);
            symbol = slot->code ? slot->symbol : -1;
        }
        i += size;
        if (symbol < 0 && is_dropped(b, text + i - size, size))
            continue; /* its neighbours become adjacent */
        if (last >= 0 && !b->joins[last][class])
            bpe_merge(w);
        add_character(w, text + i - size, size, symbol);
        last = class;
    }
    bpe_merge(w);
}

int bpe_encode(struct bpe_work *w, const char *text, size_t n)
{
    if (n >= UINT32_MAX / sizeof(uint64_t)) /* positions are 32 bits wide */
        return w->failed = ERR_NOMEM;
    for (size_t from = 0; from < n && !w->failed;) {
        size_t to = n;
        const char *space =
            w->bpe->split_spaces && n - from > 1
                ? memmem(text + from + 1, n - from - 1, VOCAB_SPACE, strlen(VOCAB_SPACE))
                : NULL;
        if (space)
            to = (size_t)(space - text);
        encode_word(w, text + from, to - from);
        from = to;
    }
    return w->failed;
}

void bpe_work_init(struct bpe_work *w, const struct bpe *b, struct token_list *out)
{
    *w = (struct bpe_work){.bpe = b, .out = out};
    buf_init(&w->ids, 0);
    buf_init(&w->symbols, 0);
    buf_init(&w->heap, 0);
}

void bpe_work_free(struct bpe_work *w)
{
    buf_free(&w->ids);
    buf_free(&w->symbols);
    buf_free(&w->heap);
}
