/* gguf_vocab: reads GGUF's `llama` vocabulary (tokenizer.ggml.*: a sentencepiece BPE model's
 * pieces, scores and types). Runs in tokenizer_open. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/load.h"

static const char TOKENS[] = "tokenizer.ggml.tokens";
static const char SCORES[] = "tokenizer.ggml.scores";
static const char TYPES[] = "tokenizer.ggml.token_type";
static const char SPACE[] = "\xE2\x96\x81";

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
    return vocab_seal(&t->vocab, SPACE, !types, TOKENS, err);
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

static int read_ids(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id"};
    int64_t id[3] = {1, 2, t->vocab.unk}; /* the format's defaults for this kind */
    int64_t add[2] = {1, 0};
    static const char *const adds[] = {"tokenizer.ggml.add_bos_token",
                                       "tokenizer.ggml.add_eos_token"};
    int found;
    for (int i = 0; i < 3; i++) {
        int code = gguf_int(g, keys[i], 0, t->vocab.n - 1, &id[i], &found, err);
        if (code)
            return code;
        if (!found && i < 2 && (id[i] >= t->vocab.n || !t->vocab.tokens[id[i]].special))
            id[i] = -1;
    }
    for (int i = 0; i < 2; i++) {
        int code = gguf_int(g, adds[i], 0, 1, &add[i], &found, err);
        if (code)
            return code;
    }
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
    t->normal.steps[0] = (struct step){.kind = STEP_REPLACE, .from = " ", .to = "\xE2\x96\x81"};
    t->normal.steps[1] =
        (struct step){.kind = STEP_PREPEND_SPACE, .later = true, .to = "\xE2\x96\x81"};
    t->normal.n = prefix ? 2 : 1;
    t->strips_space = prefix != 0;
    return 0;
}

static int count_of(const struct gguf_value *tokens)
{
    return tokens->count < VOCAB_SIZE_MAX ? (int)tokens->count : VOCAB_SIZE_MAX;
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
    if (size != 5 || memcmp(model, "llama", 5) != 0)
        return err_set(err, ERR_FORMAT, "tokenizer.ggml.model '%.*s' is not supported",
                       size < 40 ? (int)size : 40, model);
    const struct gguf_value *tokens = gguf_find(gguf, TOKENS), *scores, *types;
    if (!tokens || !tokens->is_array || tokens->type != GGUF_STRING || !tokens->count)
        return err_set(err, ERR_FORMAT, "%s is missing, empty or not an array of strings", TOKENS);
    code = find_array(gguf, SCORES, GGUF_F32, tokens->count, &scores, err);
    if (!code && !scores)
        code = err_set(err, ERR_FORMAT, "%s is missing", SCORES);
    if (!code)
        code = find_array(gguf, TYPES, GGUF_I32, tokens->count, &types, err);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : count_of(tokens), err);
    if (!code)
        code = read_tokens(t, tokens, types, err);
    if (!code)
        code = read_scores(t, scores, err);
    if (!code)
        code = read_ids(t, gguf, err);
    if (!code)
        code = read_prefix(t, gguf, err);
    snprintf(t->kind, sizeof t->kind, "GGUF llama (BPE)");
    return code;
}

int tokenizer_load_gguf(struct tokenizer *t, const struct gguf *gguf, int vocab_size,
                        struct err *err)
{
    int code = load(t, gguf, vocab_size, err);
    if (code)
        err_prefix(err, "GGUF");
    return code;
}
