/* unigram: Viterbi over a trie of the vocabulary. Tables are built in tokenizer_open and immutable
 * after it; any thread may encode. */
#include "engine/tokenizer/unigram.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"

/* What a character without a token costs more than the least likely token (sentencepiece's). */
static const double UNKNOWN_PENALTY = 10.0;

struct unigram_edge {
    uint64_t key; /* node << 8 | byte, plus one: 0 is empty */
    uint32_t node;
    int32_t id; /* of the token that ends here, or -1 */
};

struct path { /* the best way to cover the text up to a position */
    double score;
    size_t start; /* of its last token */
    int32_t id;   /* -1: no way leads here; unknown: the vocabulary's unk, or -2 without one */
};
enum { NO_PATH = -1, UNKNOWN = -2 };

static struct unigram_edge *edge_slot(const struct unigram *u, uint32_t node, uint8_t byte)
{
    uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t slot = (h ^ h >> 32) & u->edge_mask;
    while (u->edges[slot].key && u->edges[slot].key != key)
        slot = (slot + 1) & u->edge_mask;
    return &u->edges[slot];
}

static bool segments(const struct vocab_token *token)
{
    return !token->special && token->type == VOCAB_NORMAL;
}

static void add_token(struct unigram *u, int32_t id)
{
    size_t n;
    const char *text = vocab_text(u->vocab, id, &n);
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        struct unigram_edge *edge = edge_slot(u, node, (uint8_t)text[i]);
        if (!edge->key)
            *edge = (struct unigram_edge){((uint64_t)node << 8 | (uint8_t)text[i]) + 1,
                                          ++u->n_nodes, -1};
        if (i + 1 == n)
            edge->id = id;
        node = edge->node;
    }
}

int unigram_open(struct unigram *u, const struct vocab *v, double *scores)
{
    *u = (struct unigram){.vocab = v, .scores = scores};
    size_t total = 0;
    double least = 0;
    for (int32_t id = 0; id < v->n; id++) {
        total += segments(&v->tokens[id]) ? v->tokens[id].text_size : 0;
        least = scores[id] < least ? scores[id] : least;
    }
    size_t n_slots = vocab_n_slots(total);
    u->unk_score = least - UNKNOWN_PENALTY;
    u->edge_mask = n_slots - 1;
    u->edges = total < UINT32_MAX ? calloc(n_slots, sizeof *u->edges) : NULL;
    if (!u->edges) {
        unigram_close(u);
        return ERR_NOMEM;
    }
    for (int32_t id = 0; id < v->n; id++)
        if (segments(&v->tokens[id]))
            add_token(u, id);
    return 0;
}

void unigram_close(struct unigram *u)
{
    free(u->scores);
    free(u->edges);
    *u = (struct unigram){0};
}

/* ---- encoding */

static void offer(struct path *end, double score, size_t start, int32_t id)
{
    if (end->id == NO_PATH || score > end->score)
        *end = (struct path){score, start, id};
}

/* All tokens that start at `at`; the unknown one only where no token is this one character. */
static void extend(const struct unigram *u, struct path *paths, const char *text, size_t n,
                   size_t at, size_t size)
{
    uint32_t node = 0;
    bool single = false;
    for (size_t i = at; i < n; i++) {
        const struct unigram_edge *edge = edge_slot(u, node, (uint8_t)text[i]);
        if (!edge->key)
            break;
        if (edge->id >= 0) {
            offer(&paths[i + 1], paths[at].score + u->scores[edge->id], at, edge->id);
            single = single || i + 1 - at == size;
        }
        node = edge->node;
    }
    if (!single)
        offer(&paths[at + size], paths[at].score + u->unk_score, at, UNKNOWN);
}

static int emit_unknown(const struct unigram *u, const char *text, size_t n, bool again,
                        struct token_list *out)
{
    const struct vocab *v = u->vocab;
    bool bytes = u->byte_fallback;
    for (size_t i = 0; i < n; i++)
        bytes = bytes && v->byte_ids[(uint8_t)text[i]] >= 0;
    for (size_t i = 0; bytes && i < n; i++)
        if (token_list_add(out, v->byte_ids[(uint8_t)text[i]]))
            return ERR_NOMEM;
    return !bytes && !again && v->unk >= 0 ? token_list_add(out, v->unk) : 0;
}

int unigram_encode(const struct unigram *u, struct buf *paths, const char *text, size_t n,
                   struct token_list *out)
{
    buf_clear(paths);
    if (n == 0)
        return 0;
    if (n > SIZE_MAX / sizeof(struct path) - 1 || buf_reserve(paths, (n + 1) * sizeof(struct path)))
        return ERR_NOMEM;
    struct path *path = (struct path *)(void *)paths->data;
    for (size_t i = 0; i <= n; i++)
        path[i] = (struct path){0, 0, NO_PATH};
    for (size_t at = 0; at < n;) {
        uint32_t code;
        int used = utf8_decode(text + at, n - at, &code);
        size_t size = used > 0 ? (size_t)used : 1;
        extend(u, path, text, n, at, size);
        at += size;
    }
    /* walk back, and turn the links round: start becomes the next end */
    size_t next = n;
    for (size_t at = n; at > 0;) {
        size_t start = path[at].start;
        path[at].start = next;
        next = at;
        at = start;
    }
    bool unknown = false;
    for (size_t from = 0, to = next; from < n; from = to, to = path[to].start) {
        int32_t id = path[to].id;
        int code = id >= 0 ? token_list_add(out, id)
                           : emit_unknown(u, text + from, to - from, unknown, out);
        if (code)
            return code;
        unknown = id < 0;
    }
    return 0;
}
