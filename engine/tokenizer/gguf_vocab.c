/* gguf_vocab: reads GGUF's vocabularies (tokenizer.ggml.*): `llama`, a sentencepiece BPE model's
 * pieces, scores and types; and `gpt2`, byte-level BPE: tokens in GPT-2's byte alphabet, merges and
 * the name of a pre-tokenizer. Runs in tokenizer_open. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/load.h"

static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char SCORES[] = "tokenizer.ggml.scores";
static const char MERGES[] = "tokenizer.ggml.merges";
static const char TYPES[] = "tokenizer.ggml.token_type";

/* An array of `count` elements of a 32-bit type; absent allowed when optional (then *out is NULL).
 */
static int find_array(const struct gguf *g, const char *key, enum gguf_type type, uint64_t count,
                      const struct gguf_value **out, struct err *err)
{
    const struct gguf_value *value = *out = gguf_find(g, key);
    if (!value)
        return 0;
    bool integers = type == GGUF_I32 && value->type == GGUF_U32;
    if (!value->is_array || (value->type != type && !integers))
        return err_set(err, ERR_FORMAT, "%s is not an array of the right type", key);
    if (value->count != count)
        return err_set(err, ERR_FORMAT, "%s has %llu elements, %s has %llu", key,
                       (unsigned long long)value->count, TOKENS, (unsigned long long)count);
    return 0;
}

static int read_tokens(struct tokenizer *t, const struct gguf_value *tokens,
                       const struct gguf_value *types, struct err *err)
{
    for (uint64_t i = 0; i < tokens->count; i++) {
        int32_t type = VOCAB_NORMAL;
        if (types)
            memcpy(&type, types->data + 4 * i, sizeof type);
        if (type <= VOCAB_NONE || type >= VOCAB_TYPE_COUNT)
            return err_set(err, ERR_FORMAT, "%s[%llu] is %d (1..%d allowed)", TYPES,
                           (unsigned long long)i, type, VOCAB_TYPE_COUNT - 1);
        const struct gguf_string *text = &tokens->strings[i];
        int code = vocab_put(&t->vocab, (int64_t)i, text->text, text->size, (enum vocab_type)type,
                             TOKENS, err);
        if (code)
            return code;
    }
    return t->byte_level ? vocab_seal(&t->vocab, "", false, TOKENS, err)
                         : vocab_seal(&t->vocab, VOCAB_SPACE, !types, TOKENS, err);
}

static int read_scores(struct tokenizer *t, const struct gguf_value *scores, struct err *err)
{
    float *values = calloc((size_t)t->vocab.n, sizeof *values);
    if (!values)
        return err_set(err, ERR_NOMEM, "%s: out of memory", SCORES);
    int code = 0;
    for (int i = 0; i < t->vocab.n && !code; i++) {
        memcpy(&values[i], scores->data + 4 * (size_t)i, sizeof *values);
        if (!isfinite(values[i]))
            code = err_set(err, ERR_FORMAT, "%s[%d] is not finite", SCORES, i);
    }
    if (!code && bpe_open_scores(&t->bpe, &t->vocab, values))
        code = err_set(err, ERR_NOMEM, "%s: out of memory", SCORES);
    free(values);
    return code;
}

/* "left right", both tokens, as their joined text is. */
static int read_merge(struct tokenizer *t, const struct gguf_string *merge, uint32_t rank,
                      struct err *err)
{
    char joined[2 * VOCAB_TEXT_MAX];
    const char *text = merge->text, *end = text + merge->size;
    const char *space = merge->size > 1 ? memchr(text + 1, ' ', merge->size - 1) : NULL;
    size_t n_left = space ? (size_t)(space - text) : 0;
    size_t n_right = space ? (size_t)(end - space - 1) : 0;
    int32_t left = space ? vocab_find(&t->vocab, text, n_left) : -1;
    int32_t right = left < 0 ? -1 : vocab_find(&t->vocab, space + 1, n_right);
    int32_t id = -1;
    if (right >= 0) { /* both found: at most VOCAB_TEXT_MAX each */
        memcpy(joined, text, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        id = vocab_find(&t->vocab, joined, n_left + n_right);
    }
    if (id < 0)
        return err_set(err, ERR_FORMAT, "%s[%u]: '%.*s' does not make a token of two tokens",
                       MERGES, rank, merge->size < 60 ? (int)merge->size : 60, text);
    if (!t->vocab.tokens[id].special)
        bpe_add_merge(&t->bpe, left, right, rank, id);
    return 0;
}

static int read_merges(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct gguf_value *merges = gguf_find(g, MERGES);
    if (!merges || !merges->is_array || merges->type != GGUF_STRING ||
        merges->count > UINT32_MAX / 2)
        return err_set(err, ERR_FORMAT, "%s is missing or not an array of strings", MERGES);
    if (bpe_open_bytes(&t->bpe, &t->vocab, merges->count))
        return err_set(err, ERR_NOMEM, "%s: out of memory", MERGES);
    for (uint64_t i = 0; i < merges->count; i++) {
        int code = read_merge(t, &merges->strings[i], (uint32_t)i, err);
        if (code)
            return code;
    }
    return 0;
}

static int read_pre(struct tokenizer *t, const struct gguf *g, bool *ignore_merges, struct err *err)
{
    const char *name = "default";
    size_t size = strlen(name);
    int found, code = gguf_text(g, "tokenizer.ggml.pre", &name, &size, &found, err);
    return code
               ? code
               : pretok_add_named(&t->pretok, name, size, ignore_merges, "tokenizer.ggml.pre", err);
}

static int read_ids(struct tokenizer *t, const struct gguf *g, bool add_bos, struct err *err)
{
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id"};
    /* `llama` has defaults for absent keys; `gpt2` has none that every model shares */
    int64_t id[3] = {t->byte_level ? -1 : 1, t->byte_level ? -1 : 2, t->vocab.unk};
    int64_t add[2] = {add_bos, 0};
    static const char *const adds[] = {"tokenizer.ggml.add_bos_token",
                                       "tokenizer.ggml.add_eos_token"};
    int found;
    for (int i = 0; i < 3; i++) {
        int code = gguf_int(g, keys[i], 0, t->vocab.n - 1, &id[i], &found, err);
        if (code)
            return code;
        if (!found && i < 2 &&
            (id[i] < 0 || id[i] >= t->vocab.n || !t->vocab.tokens[id[i]].special))
            id[i] = -1;
    }
    for (int i = 0; i < 2; i++) {
        int code = gguf_int(g, adds[i], 0, 1, &add[i], &found, err);
        if (code)
            return code;
    }
    int64_t version = 0; /* of Mistral's encoding, in files that tokenizer_save_gguf wrote */
    int code = gguf_int(g, "sirocco.mistral_version", 0, 99, &version, &found, err);
    if (code)
        return code;
    t->mistral_version = (int)version;
    t->bos = (int32_t)id[0];
    t->eos = (int32_t)id[1];
    t->vocab.unk = (int32_t)id[2];
    if (add[0] && t->bos >= 0)
        t->before[t->n_before++] = t->bos;
    if (add[1] && t->eos >= 0)
        t->after[t->n_after++] = t->eos;
    return 0;
}

/* Spaces become U+2581, and one goes in front: of the text, and of each segment after a special
 * token that does not begin with a space (a template that writes "[INST] text" has put it there).
 */
static int read_prefix(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    int64_t prefix = 1;
    int found, code = gguf_int(g, "tokenizer.ggml.add_space_prefix", 0, 1, &prefix, &found, err);
    if (code)
        return code;
    t->normal.steps[0] = (struct step){.kind = STEP_REPLACE, .from = " ", .to = VOCAB_SPACE};
    t->normal.steps[1] =
        (struct step){.kind = STEP_PREPEND_SPACE, .later = true, .to = VOCAB_SPACE};
    t->normal.n = prefix ? 2 : 1;
    t->strips_space = prefix != 0;
    return 0;
}

static int count_of(const struct gguf_value *tokens)
{
    return tokens->count < VOCAB_SIZE_MAX ? (int)tokens->count : VOCAB_SIZE_MAX;
}

static int load_llama(struct tokenizer *t, const struct gguf *gguf, const struct gguf_value *tokens,
                      const struct gguf_value *types, struct err *err)
{
    const struct gguf_value *scores;
    int code = find_array(gguf, SCORES, GGUF_F32, tokens->count, &scores, err);
    if (!code && !scores)
        code = err_set(err, ERR_FORMAT, "%s is missing", SCORES);
    if (!code)
        code = read_tokens(t, tokens, types, err);
    if (!code)
        code = read_scores(t, scores, err);
    if (!code)
        code = read_ids(t, gguf, true, err);
    return code ? code : read_prefix(t, gguf, err);
}

static int load_gpt2(struct tokenizer *t, const struct gguf *gguf, const struct gguf_value *tokens,
                     const struct gguf_value *types, struct err *err)
{
    bool ignore_merges = false;
    t->byte_level = t->vocab.byte_alphabet = true;
    int code = read_pre(t, gguf, &ignore_merges, err);
    if (!code)
        code = read_tokens(t, tokens, types, err);
    if (!code)
        code = read_merges(t, gguf, err);
    if (code)
        return code;
    t->bpe.ignore_merges = ignore_merges;
    if (bpe_seal_bytes(&t->bpe))
        return err_set(err, ERR_NOMEM, "%s: out of memory", MERGES);
    return read_ids(t, gguf, ignore_merges, err); /* the same models begin with BOS */
}

static int load(struct tokenizer *t, const struct gguf *gguf, int vocab_size, struct err *err)
{
    const char *model = "";
    size_t size = 0;
    int found, code = gguf_text(gguf, "tokenizer.ggml.model", &model, &size, &found, err);
    if (code)
        return code;
    if (!found)
        return err_set(err, ERR_FORMAT, "tokenizer.ggml.model is missing");
    bool llama = size == 5 && !memcmp(model, "llama", 5);
    if (!llama && (size != 4 || memcmp(model, "gpt2", 4) != 0))
        return err_set(err, ERR_FORMAT, "tokenizer.ggml.model '%.*s' is not supported",
                       size < 40 ? (int)size : 40, model);
    const struct gguf_value *tokens = gguf_find(gguf, TOKENS), *types;
    if (!tokens || !tokens->is_array || tokens->type != GGUF_STRING || !tokens->count)
        return err_set(err, ERR_FORMAT, "%s is missing, empty or not an array of strings", TOKENS);
    code = find_array(gguf, TYPES, GGUF_I32, tokens->count, &types, err);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : count_of(tokens), err);
    if (code)
        return code;
    snprintf(t->kind, sizeof t->kind, "GGUF %s (%sBPE)", llama ? "llama" : "gpt2",
             llama ? "" : "byte-level ");
    return llama ? load_llama(t, gguf, tokens, types, err) : load_gpt2(t, gguf, tokens, types, err);
}

int tokenizer_load_gguf(struct tokenizer *t, const struct gguf *gguf, int vocab_size,
                        struct err *err)
{
    int code = load(t, gguf, vocab_size, err);
    if (code)
        err_prefix(err, "GGUF");
    return code;
}
