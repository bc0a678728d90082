/* tekken: reads tekken.json, Mistral's own tokenizer file: {"config": {pattern, default_vocab_size,
 * default_num_special_tokens, version}, "vocab": [{rank, token_bytes}], "special_tokens": [{rank,
 * token_str}]}. Runs in tokenizer_open.
 *
 * Ids: the special tokens are 0..default_num_special_tokens - 1 (those without a name are called
 * <SPECIAL_n>), the token of rank r is that many higher; of the vocabulary only so many entries
 * count as default_vocab_size leaves room for. Merging is that of rank files (see
 * bpe_open_ranks), words are what the pattern matches (the rules of the mistral-common package). */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/load.h"

static const char FILE_NAME[] = "tekken.json";

/* Files up to v7 may leave their special tokens out; these are meant then. */
static const char *const default_special[] = {"<unk>",
                                              "<s>",
                                              "</s>",
                                              "[INST]",
                                              "[/INST]",
                                              "[AVAILABLE_TOOLS]",
                                              "[/AVAILABLE_TOOLS]",
                                              "[TOOL_RESULTS]",
                                              "[/TOOL_RESULTS]",
                                              "[TOOL_CALLS]",
                                              "[IMG]",
                                              "<pad>",
                                              "[IMG_BREAK]",
                                              "[IMG_END]",
                                              "[PREFIX]",
                                              "[MIDDLE]",
                                              "[SUFFIX]",
                                              "[SYSTEM_PROMPT]",
                                              "[/SYSTEM_PROMPT]",
                                              "[TOOL_CONTENT]"};
enum { N_DEFAULT = sizeof default_special / sizeof default_special[0] };

struct config {
    int version, n_ids, n_special;
    const json_t *pattern;
};

static int read_int(const json_t *config, const char *key, json_int_t min, json_int_t max, int *out,
                    struct err *err)
{
    const json_t *value = json_object_get(config, key);
    json_int_t found = json_integer_value(value);
    if (!json_is_integer(value) || found < min || found > max)
        return err_set(err, ERR_FORMAT, "%s: config.%s is no integer from %lld to %lld", FILE_NAME,
                       key, (long long)min, (long long)max);
    *out = (int)found;
    return 0;
}

static int read_config(const json_t *root, struct config *c, struct err *err)
{
    static const char *const versions[] = {"v1", "v2", "v3", "v7", "v11", "v13", "v15"};
    const json_t *config = json_object_get(root, "config");
    const char *version = json_string_value(json_object_get(config, "version"));
    for (size_t i = 0; version && i < sizeof versions / sizeof versions[0]; i++)
        if (!strcmp(version, versions[i]))
            c->version = (int)strtol(version + 1, NULL, 10);
    if (!c->version)
        return err_set(err, ERR_FORMAT, "%s: config.version '%.20s' is not supported", FILE_NAME,
                       version ? version : "(none)");
    c->pattern = json_object_get(config, "pattern");
    if (!json_is_string(c->pattern))
        return err_set(err, ERR_FORMAT, "%s: config.pattern is missing or malformed", FILE_NAME);
    int code = read_int(config, "default_vocab_size", 1, VOCAB_SIZE_MAX, &c->n_ids, err);
    return code ? code
                : read_int(config, "default_num_special_tokens", 0, c->n_ids - 1, &c->n_special,
                           err);
}

/* ---- special tokens */

/* model_settings_builder.reasoning_effort: {values, default}. */
static int read_efforts(const json_t *root, struct tokenizer_efforts *out, struct err *err)
{
    const json_t *builder = json_object_get(root, "model_settings_builder");
    const json_t *row = json_object_get(builder, "reasoning_effort");
    const json_t *values = json_object_get(row, "values");
    const char *standard = json_string_value(json_object_get(row, "default"));
    size_t i;
    json_t *value;
    out->standard = -1;
    json_array_foreach(values, i, value) {
        if (!json_is_string(value) || json_string_length(value) >= TOKENIZER_EFFORT_BYTES ||
            out->n == TOKENIZER_EFFORTS_MAX)
            return err_set(err, ERR_FORMAT,
                           "%s: model_settings_builder.reasoning_effort.values is malformed",
                           FILE_NAME);
        memcpy(out->values[out->n], json_string_value(value), json_string_length(value) + 1);
        if (standard && !strcmp(standard, out->values[out->n]))
            out->standard = out->n;
        out->n++;
    }
    return 0;
}

static int put_special(struct tokenizer *t, const struct config *c, json_int_t id, const char *text,
                       size_t n, struct err *err)
{
    if (id < 0 || id >= c->n_special)
        return err_set(err, ERR_FORMAT,
                       "%s: special_tokens: rank %lld of '%.40s' is not below "
                       "config.default_num_special_tokens",
                       FILE_NAME, (long long)id, text);
    return vocab_put(&t->vocab, id, text, n, VOCAB_CONTROL, "tekken.json: special_tokens", err);
}

static int read_special(struct tokenizer *t, const struct config *c, const json_t *root,
                        struct err *err)
{
    const json_t *list = json_object_get(root, "special_tokens");
    int code = 0;
    if (!list || json_is_null(list)) {
        if (c->version > 7)
            return err_set(err, ERR_FORMAT, "%s: special_tokens is missing", FILE_NAME);
        for (int i = 0; i < N_DEFAULT && !code; i++)
            code = put_special(t, c, i, default_special[i], strlen(default_special[i]), err);
    } else if (!json_is_array(list)) {
        return err_set(err, ERR_FORMAT, "%s: special_tokens is not an array", FILE_NAME);
    }
    for (size_t i = 0; i < json_array_size(list) && !code; i++) {
        const json_t *item = json_array_get(list, i), *rank = json_object_get(item, "rank");
        const json_t *text = json_object_get(item, "token_str");
        if (!json_is_integer(rank) || !json_is_string(text))
            return err_set(err, ERR_FORMAT,
                           "%s: special_tokens[%zu]: rank or token_str is missing or malformed",
                           FILE_NAME, i);
        code = put_special(t, c, json_integer_value(rank), json_string_value(text),
                           json_string_length(text), err);
    }
    for (int id = 0; id < c->n_special && !code; id++) {
        char name[32];
        int n = snprintf(name, sizeof name, "<SPECIAL_%d>", id);
        if (t->vocab.tokens[id].type == VOCAB_NONE)
            code = put_special(t, c, id, name, (size_t)n, err);
    }
    return code;
}

/* ---- vocabulary */

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* RFC 4648 with padding; returns the size, or -1 when malformed or longer than room. */
static int decode_base64(const char *text, size_t n, char *out, size_t room)
{
    size_t size = 0;
    if (n % 4)
        return -1;
    for (size_t i = 0; i < n; i += 4) {
        int pad = i + 4 < n ? 0 : (text[n - 1] == '=') + (text[n - 1] == '=' && text[n - 2] == '=');
        uint32_t bits = 0;
        for (size_t k = 0; k < 4; k++) {
            int value = (int)k >= 4 - pad ? 0 : base64_value(text[i + k]);
            if (value < 0)
                return -1;
            bits = bits << 6 | (uint32_t)value;
        }
        for (int k = 0; k < 3 - pad; k++) {
            if (size == room)
                return -1;
            out[size++] = (char)(bits >> (16 - 8 * k));
        }
    }
    return (int)size;
}

static int read_token(struct tokenizer *t, const struct config *c, const json_t *item, size_t i,
                      struct err *err)
{
    char bytes[VOCAB_TEXT_MAX];
    const json_t *rank = json_object_get(item, "rank");
    const json_t *text = json_object_get(item, "token_bytes");
    int n = json_is_string(text) ? decode_base64(json_string_value(text), json_string_length(text),
                                                 bytes, sizeof bytes)
                                 : -1;
    if (!json_is_integer(rank) || json_integer_value(rank) != (json_int_t)i || n <= 0)
        return err_set(err, ERR_FORMAT,
                       "%s: vocab[%zu]: rank is not %zu, or token_bytes is missing or malformed",
                       FILE_NAME, i, i);
    if (i < 256 && (n != 1 || (uint8_t)bytes[0] != i))
        return err_set(err, ERR_FORMAT, "%s: vocab[%zu]: token_bytes is not the byte %zu",
                       FILE_NAME, i, i);
    int64_t id = (int64_t)i + c->n_special;
    int32_t same = vocab_find(&t->vocab, bytes, (size_t)n);
    if (same >= 0 && same < c->n_special) /* "<s>" can be both a control token and plain text */
        return vocab_put_hidden(&t->vocab, id, bytes, (size_t)n, "tekken.json: vocab", err);
    return vocab_put(&t->vocab, id, bytes, (size_t)n, VOCAB_NORMAL, "tekken.json: vocab", err);
}

static int read_vocab(struct tokenizer *t, const struct config *c, const json_t *root,
                      struct err *err)
{
    const json_t *list = json_object_get(root, "vocab");
    size_t n = (size_t)(c->n_ids - c->n_special);
    if (!json_is_array(list) || json_array_size(list) < n || n < 256)
        return err_set(err, ERR_FORMAT,
                       "%s: vocab has %zu entries, config.default_vocab_size asks for %zu, at "
                       "least 256",
                       FILE_NAME, json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        int code = read_token(t, c, json_array_get(list, i), i, err);
        if (code)
            return code;
    }
    return vocab_seal(&t->vocab, "", false, FILE_NAME, err);
}

static int load(struct tokenizer *t, const json_t *root, int vocab_size, struct err *err)
{
    struct config c = {0};
    int code = read_config(root, &c, err);
    if (!code)
        code = pretok_add(&t->pretok, json_string_value(c.pattern), json_string_length(c.pattern),
                          REGEX_RUST, BEHAVIOR_ISOLATED, "tekken.json: config.pattern", err);
    if (!code && vocab_size && c.n_ids > vocab_size)
        code = err_set(err, ERR_FORMAT, "%s: config.default_vocab_size %d is above vocab_size %d",
                       FILE_NAME, c.n_ids, vocab_size);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : c.n_ids, err);
    if (!code)
        code = read_special(t, &c, root, err);
    if (!code)
        code = read_vocab(t, &c, root, err);
    if (!code && bpe_open_ranks(&t->bpe, &t->vocab))
        code = err_set(err, ERR_NOMEM, "%s: out of memory", FILE_NAME);
    if (code)
        return code;
    t->byte_level = true;
    t->mistral_version = c.version;
    t->bos = vocab_find(&t->vocab, "<s>", 3);
    t->eos = vocab_find(&t->vocab, "</s>", 4);
    if (t->bos >= 0)
        t->before[t->n_before++] = t->bos;
    snprintf(t->kind, sizeof t->kind, "tekken.json v%d", c.version);
    return read_efforts(root, &t->efforts, err);
}

int tokenizer_load_tekken(struct tokenizer *t, const struct source_file *file, int vocab_size,
                          struct err *err)
{
    json_t *root = tokenizer_parse(file, err);
    if (!root)
        return ERR_FORMAT;
    int code = load(t, root, vocab_size, err);
    json_decref(root);
    return code;
}
