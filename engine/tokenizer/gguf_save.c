/* gguf_save: writes a tokenizer as GGUF's metadata, the reverse of gguf_vocab.c: `llama` for BPE
 * over characters, with scores that order merges as the tokenizer does, and `gpt2` for BPE over
 * bytes, with its merges and the name of its pre-tokenizer. Pure but for the writer; any thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_write.h"
#include "engine/tokenizer/alphabet.h"
#include "engine/tokenizer/load.h"

enum { LATE_PART = 64 };

static int refuse(const struct tokenizer *t, const char *what, struct err *err)
{
    return err_set(err, ERR_FORMAT, "the tokenizer, %s, cannot be written as GGUF: %s", t->kind,
                   what);
}

/* What `llama` does to text (spaces become U+2581, one may go in front), or nothing for `gpt2`, of
 * which all models that need one imply form NFC. */
static int check_normalizer(const struct tokenizer *t, struct err *err)
{
    for (int i = 0; i < t->normal.n; i++) {
        const struct step *s = &t->normal.steps[i];
        bool spaces = s->kind == STEP_REPLACE && !s->pattern && !strcmp(s->from, " ");
        bool front = s->kind == STEP_PREPEND || s->kind == STEP_PREPEND_SPACE;
        bool known = t->byte_level ? s->kind == STEP_NFC
                                   : (spaces || front) && !strcmp(s->to, VOCAB_SPACE);
        if (!known)
            return refuse(t, "its normalizer has a step that GGUF has no words for", err);
    }
    return 0;
}

/* ---- texts */

/* The text of a token that is found by it; NULL: there is none. */
static const char *named(const struct tokenizer *t, int32_t id, size_t *n)
{
    const char *own = id < t->vocab.n ? vocab_text(&t->vocab, id, n) : NULL;
    return own && *n && vocab_find(&t->vocab, own, *n) == id ? own : NULL;
}

/* How the file writes token id, in text's bytes: a token that is found by its id alone, and an id
 * without a token, get a name of their own. */
static void add_token(const struct tokenizer *t, int32_t id, struct buf *text)
{
    size_t n = 0;
    const char *own = named(t, id, &n);
    buf_clear(text);
    if (!own)
        buf_format(text, "[PAD%d]", (int)id);
    else if (t->byte_level && !t->vocab.byte_alphabet && t->vocab.tokens[id].type == VOCAB_NORMAL) {
        for (size_t i = 0; i < n; i++) {
            char two[2];
            buf_add(text, two, (size_t)alphabet_encode((unsigned char)own[i], two));
        }
    } else {
        buf_add(text, own, n);
    }
}

static int32_t type_of(const struct tokenizer *t, int32_t id)
{
    size_t n;
    if (!named(t, id, &n) || !t->vocab.tokens[id].type)
        return VOCAB_UNUSED;
    return t->vocab.tokens[id].inner ? VOCAB_USER : t->vocab.tokens[id].type;
}

static void save_tokens(const struct tokenizer *t, int n, struct gguf_write *w, struct buf *work)
{
    struct buf text;
    buf_init(&text, 0);
    gguf_write_strings(w, "tokenizer.ggml.tokens", (uint64_t)n);
    buf_clear(work);
    for (int32_t id = 0; id < n; id++) {
        int32_t type = type_of(t, id);
        add_token(t, id, &text);
        gguf_write_string(w, text.data ? text.data : "", text.size);
        buf_add(work, &type, sizeof type);
    }
    gguf_write_array(w, "tokenizer.ggml.token_type", GGUF_I32, work->data, (uint64_t)n);
    if (text.failed || work->failed)
        w->failed = ERR_NOMEM;
    buf_free(&text);
}

/* ---- llama */

/* Score: minus the number of the token in the order of merging, by its first merge. The other
 * merges of a token should follow at once, for here the token alone has a place in the order;
 * published files made from sentencepiece models have some that do not, of runs of spaces. */
static int find_scores(const struct tokenizer *t, const struct bpe_merge *merges, float *scores,
                       int n, struct err *err)
{
    float next = -1;
    size_t n_late = 0;
    for (int id = 0; id < n; id++)
        scores[id] = -1e9f;
    for (size_t i = 0; i < t->bpe.n_pairs; i++) {
        bool follows = i && merges[i].id == merges[i - 1].id;
        bool equal = i && merges[i].rank == merges[i - 1].rank; /* of equal scores the leftmost */
        bool late = !follows && scores[merges[i].id] > -1e9f;
        n_late += late;
        if (!follows && !equal && !late)
            next -= 1;
        if (!follows && !late)
            scores[merges[i].id] = next;
    }
    return n_late <= t->bpe.n_pairs / LATE_PART
               ? 0
               : refuse(t, "its merges have an order that scores of tokens cannot have", err);
}

static int save_llama(const struct tokenizer *t, int n, const struct bpe_merge *merges,
                      struct gguf_write *w, struct buf *work, struct err *err)
{
    buf_clear(work);
    if (buf_reserve(work, (size_t)n * sizeof(float)))
        return err_set(err, ERR_NOMEM, "out of memory");
    int code = find_scores(t, merges, (float *)(void *)work->data, n, err);
    if (code)
        return code;
    gguf_write_array(w, "tokenizer.ggml.scores", GGUF_F32, work->data, (uint64_t)n);
    gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", t->strips_space);
    return 0;
}

/* ---- gpt2 */

/* Leave out the merges of tokens that have no text of their own; how many stay. */
static size_t keep_named(const struct tokenizer *t, struct bpe_merge *merges)
{
    size_t n = 0, size;
    for (size_t i = 0; i < t->bpe.n_pairs; i++)
        if (named(t, merges[i].left, &size) && named(t, merges[i].right, &size) &&
            named(t, merges[i].id, &size))
            merges[n++] = merges[i];
    return n;
}

static int save_gpt2(const struct tokenizer *t, struct bpe_merge *merges,
                     struct gguf_write *w, struct buf *work, struct err *err)
{
    struct buf right;
    const char *name = pretok_name(&t->pretok, t->bpe.ignore_merges);
    if (!name)
        return refuse(t, "its pre-tokenizer has no name there", err);
    gguf_write_text(w, "tokenizer.ggml.pre", name, strlen(name));
    buf_init(&right, 0);
    size_t n = keep_named(t, merges);
    gguf_write_strings(w, "tokenizer.ggml.merges", n);
    for (size_t i = 0; i < n; i++) {
        add_token(t, merges[i].left, work);
        add_token(t, merges[i].right, &right);
        buf_byte(work, ' ');
        buf_add(work, right.data, right.size);
        gguf_write_string(w, work->data ? work->data : "", work->size);
    }
    if (right.failed || work->failed)
        w->failed = ERR_NOMEM;
    buf_free(&right);
    return 0;
}

/* ---- both */

static void save_id(struct gguf_write *w, const char *key, int32_t id)
{
    if (id >= 0)
        gguf_write_int(w, key, GGUF_U32, id);
}

static bool has_id(const int32_t *ids, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void save_settings(const struct tokenizer *t, struct gguf_write *w)
{
    save_id(w, "tokenizer.ggml.bos_token_id", t->bos);
    save_id(w, "tokenizer.ggml.unknown_token_id", t->vocab.unk);
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token",
                    t->bos >= 0 && has_id(t->before, t->n_before, t->bos));
    gguf_write_bool(w, "tokenizer.ggml.add_eos_token",
                    t->eos >= 0 && has_id(t->after, t->n_after, t->eos));
    gguf_write_int(w, "sirocco.mistral_version", GGUF_U32, t->mistral_version);
}

int tokenizer_save_gguf(const struct tokenizer *t, int vocab_size, struct gguf_write *w,
                        struct err *err)
{
    const char *model = t->byte_level ? "gpt2" : "llama";
    struct bpe_merge *merges = NULL;
    struct buf work, list;
    if (!t->bpe.vocab)
        return refuse(t, "it is no BPE model that merges by rank", err);
    int code = check_normalizer(t, err);
    if (code)
        return code;
    buf_init(&work, 0);
    buf_init(&list, 0);
    if (buf_reserve(&list, (t->bpe.n_pairs + 1) * sizeof *merges)) {
        buf_free(&list);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    merges = (struct bpe_merge *)(void *)list.data;
    bpe_list(&t->bpe, merges);
    gguf_write_text(w, "tokenizer.ggml.model", model, strlen(model));
    save_tokens(t, vocab_size, w, &work);
    code = t->byte_level ? save_gpt2(t, merges, w, &work, err)
                         : save_llama(t, vocab_size, merges, w, &work, err);
    save_settings(t, w);
    buf_free(&work);
    buf_free(&list);
    return code;
}
