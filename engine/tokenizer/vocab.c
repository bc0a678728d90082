/* vocab: the token table. Filled by one thread in tokenizer_open, immutable after vocab_seal.
 *
 * Invariants after seal: ids 0..n-1 all have a text; texts are unique; slots has a free entry, so
 * every probe ends. */
#include "engine/tokenizer/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/alphabet.h"

static uint64_t hash_bytes(const char *text, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, then a finalizer so that low bits are mixed */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)text[i]) * 0x100000001b3u;
    h ^= h >> 29;
    return h * 0xbf58476d1ce4e5b9u ^ h >> 32;
}

/* The slot that holds text, or the empty one where it belongs. */
static size_t slot_of(const struct vocab *v, const char *text, size_t n)
{
    size_t slot = hash_bytes(text, n) & v->slot_mask;
    while (v->slots[slot]) {
        const struct vocab_token *token = &v->tokens[v->slots[slot] - 1];
        if (token->text_size == n && !memcmp(v->texts.data + token->text, text, n))
            break;
        slot = (slot + 1) & v->slot_mask;
    }
    return slot;
}

int vocab_byte_value(const char *text, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

size_t vocab_n_slots(size_t n)
{
    size_t n_slots = 16;
    while (n_slots <= n * 2)
        n_slots *= 2;
    return n_slots;
}

int vocab_init(struct vocab *v, int vocab_size, struct err *err)
{
    *v = (struct vocab){.unk = -1};
    if (vocab_size < 1 || vocab_size > VOCAB_SIZE_MAX)
        return err_set(err, ERR_FORMAT, "vocab_size %d is not within 1..%d", vocab_size,
                       VOCAB_SIZE_MAX);
    size_t n_slots = vocab_n_slots((size_t)vocab_size);
    v->size_max = vocab_size;
    v->slot_mask = n_slots - 1;
    buf_init(&v->texts, 0);
    memset(v->byte_ids, 0xff, sizeof v->byte_ids);
    v->tokens = calloc((size_t)vocab_size, sizeof *v->tokens);
    v->slots = calloc(n_slots, sizeof *v->slots);
    if (!v->tokens || !v->slots) {
        vocab_free(v);
        return err_set(err, ERR_NOMEM, "out of memory for a vocabulary of %d", vocab_size);
    }
    return 0;
}

void vocab_free(struct vocab *v)
{
    free(v->tokens);
    free(v->slots);
    free(v->added.ids);
    free(v->inner.ids);
    buf_free(&v->texts);
    *v = (struct vocab){.unk = -1};
}

static int put(struct vocab *v, int64_t id, const char *text, size_t n, enum vocab_type type,
               bool hidden, const char *where, struct err *err)
{
    int shown = n < 40 ? (int)n : 40;
    if (id < 0 || id >= v->size_max)
        return err_set(err, ERR_FORMAT, "%s: id %lld of '%.*s' is not below vocab_size %d", where,
                       (long long)id, shown, text, v->size_max);
    if (n == 0 || n > VOCAB_TEXT_MAX)
        return err_set(err, ERR_FORMAT, "%s: the text of id %lld has %zu bytes (1..%d allowed)",
                       where, (long long)id, n, VOCAB_TEXT_MAX);
    struct vocab_token *token = &v->tokens[id];
    if (token->type != VOCAB_NONE)
        return err_set(err, ERR_FORMAT, "%s: id %lld is given to '%.*s' and to '%.*s'", where,
                       (long long)id, token->text_size < 40 ? token->text_size : 40,
                       v->texts.data + token->text, shown, text);
    if (type == VOCAB_BYTE && vocab_byte_value(text, n) < 0)
        return err_set(err, ERR_FORMAT, "%s: '%.*s' (id %lld) is not a byte token <0x00>..<0xFF>",
                       where, shown, text, (long long)id);
    size_t slot = slot_of(v, text, n);
    if (v->slots[slot] && !hidden)
        return err_set(err, ERR_FORMAT, "%s: '%.*s' is the text of ids %u and %lld", where, shown,
                       text, v->slots[slot] - 1, (long long)id);
    token->text = v->texts.size;
    token->text_size = (uint16_t)n;
    token->type = (uint8_t)type;
    token->special = type == VOCAB_CONTROL || type == VOCAB_UNKNOWN;
    if (buf_add(&v->texts, text, n) || buf_byte(&v->texts, 0))
        return err_set(err, ERR_NOMEM, "%s: out of memory", where);
    if (!hidden)
        v->slots[slot] = (uint32_t)id + 1;
    if (id >= v->n)
        v->n = (int)id + 1;
    return 0;
}

int vocab_put(struct vocab *v, int64_t id, const char *text, size_t n, enum vocab_type type,
              const char *where, struct err *err)
{
    return put(v, id, text, n, type, false, where, err);
}

int vocab_put_hidden(struct vocab *v, int64_t id, const char *text, size_t n, const char *where,
                     struct err *err)
{
    return put(v, id, text, n, VOCAB_NORMAL, true, where, err);
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t n)
{
    if (n == 0 || n > VOCAB_TEXT_MAX)
        return -1;
    return (int32_t)v->slots[slot_of(v, text, n)] - 1;
}

const char *vocab_text(const struct vocab *v, int32_t id, size_t *n)
{
    *n = v->tokens[id].text_size;
    return v->texts.data + v->tokens[id].text;
}

/* Append the piece of one token; texts may move while it grows, so offsets are used throughout. */
static int add_piece(struct vocab *v, struct vocab_token *token, const char *space)
{
    size_t space_size = strlen(space), end = token->text + token->text_size;
    int value = token->type == VOCAB_BYTE
                    ? vocab_byte_value(v->texts.data + token->text, token->text_size)
                    : -1;
    if (v->byte_alphabet && token->type == VOCAB_NORMAL) {
        char bytes[VOCAB_TEXT_MAX];
        int n = alphabet_decode(v->texts.data + token->text, token->text_size, bytes);
        if (n >= 0) {
            token->piece = v->texts.size;
            token->piece_size = (uint16_t)n;
            return buf_add(&v->texts, bytes, (size_t)n);
        }
        token->type = VOCAB_UNUSED; /* no text leads to it */
    }
    if (value < 0 && (token->special || space_size == 0)) {
        token->piece = token->text;
        token->piece_size = token->text_size;
        return 0;
    }
    /* room first, so that the bytes read below stay where they are */
    if (buf_reserve(&v->texts, token->text_size))
        return ERR_NOMEM;
    token->piece = v->texts.size;
    if (value >= 0) {
        buf_byte(&v->texts, (char)value);
    } else {
        for (size_t i = token->text; i < end;) {
            const char *at = v->texts.data + i;
            bool is_space = end - i >= space_size && !memcmp(at, space, space_size);
            buf_byte(&v->texts, is_space ? ' ' : *at);
            i += is_space ? space_size : 1;
        }
    }
    token->piece_size = (uint16_t)(v->texts.size - token->piece);
    return v->texts.failed;
}

/* Texts in byte order, a prefix before what it is a prefix of. */
static int compare_texts(const void *left, const void *right, void *context)
{
    const struct vocab *v = context;
    size_t a_size, b_size;
    const char *a = vocab_text(v, *(const int32_t *)left, &a_size);
    const char *b = vocab_text(v, *(const int32_t *)right, &b_size);
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

static bool belongs(const struct vocab_token *token, bool inner)
{
    return inner ? token->inner : token->special || token->type == VOCAB_USER;
}

static int index_matches(struct vocab *v, bool inner, struct vocab_matches *m)
{
    int n = 0;
    for (int id = 0; id < v->n; id++)
        n += belongs(&v->tokens[id], inner);
    m->ids = calloc((size_t)n + 1, sizeof *m->ids);
    if (!m->ids)
        return ERR_NOMEM;
    for (int id = 0; id < v->n; id++)
        if (belongs(&v->tokens[id], inner))
            m->ids[m->n++] = id;
    qsort_r(m->ids, (size_t)n, sizeof *m->ids, compare_texts, v);
    for (int byte = 0, i = 0; byte <= 256; byte++) {
        m->from[byte] = i;
        while (i < n && (uint8_t)v->texts.data[v->tokens[m->ids[i]].text] == byte)
            i++;
    }
    return 0;
}

int vocab_seal(struct vocab *v, const char *space, bool find_bytes, const char *where,
               struct err *err)
{
    int n_bytes = 0;
    for (int id = 0; id < v->n; id++) {
        struct vocab_token *token = &v->tokens[id];
        if (token->type == VOCAB_NONE)
            return err_set(err, ERR_FORMAT, "%s: no token has id %d, though there are ids up to %d",
                           where, id, v->n - 1);
        int value = vocab_byte_value(v->texts.data + token->text, token->text_size);
        if (find_bytes && token->type == VOCAB_NORMAL && value >= 0)
            token->type = VOCAB_BYTE;
        if (token->type == VOCAB_BYTE) {
            v->byte_ids[value] = id;
            n_bytes++;
        }
        if (token->type == VOCAB_UNKNOWN && v->unk < 0)
            v->unk = id;
        if (add_piece(v, token, space))
            return err_set(err, ERR_NOMEM, "%s: out of memory", where);
        if (token->piece_size > v->piece_max)
            v->piece_max = token->piece_size;
    }
    if (v->n == 0)
        return err_set(err, ERR_FORMAT, "%s: there are no tokens", where);
    v->has_bytes = n_bytes == 256;
    return index_matches(v, false, &v->added) || index_matches(v, true, &v->inner)
               ? err_set(err, ERR_NOMEM, "%s: out of memory", where)
               : 0;
}

/* The part of ids[low..high), whose texts agree in their first `depth` bytes, that has `byte`
 * next: two binary searches. Texts that end at depth sort first and compare as -1. */
static void narrow(const struct vocab *v, const int32_t *ids, size_t depth, uint8_t byte, int *low,
                   int *high)
{
    int edges[2];
    for (int edge = 0; edge < 2; edge++) {
        int a = *low, b = *high;
        while (a < b) {
            int middle = a + (b - a) / 2;
            const struct vocab_token *token = &v->tokens[ids[middle]];
            int next = depth < token->text_size ? (uint8_t)v->texts.data[token->text + depth] : -1;
            if (next < byte + edge)
                a = middle + 1;
            else
                b = middle;
        }
        edges[edge] = a;
    }
    *low = edges[0];
    *high = edges[1];
}

int32_t vocab_match(const struct vocab *v, const struct vocab_matches *among, const char *text,
                    size_t n, size_t at, size_t special_end)
{
    int low = among->from[(uint8_t)text[at]], high = among->from[(uint8_t)text[at] + 1];
    int32_t best = -1;
    for (size_t depth = 1; low < high; depth++) {
        const struct vocab_token *token = &v->tokens[among->ids[low]]; /* the shortest is first */
        if (token->text_size == depth && (!token->special || at + depth <= special_end))
            best = among->ids[low];
        if (at + depth >= n)
            break;
        narrow(v, among->ids, depth, (uint8_t)text[at + depth], &low, &high);
    }
    return best;
}
