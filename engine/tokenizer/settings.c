/* settings: what stands beside a tokenizer file: tokenizer_config.json and special_tokens_map.json
 * (bos, eos, whether they are added), and the reading of tokenizer.model, whose special tokens
 * those files complete. Runs in tokenizer_open. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/load.h"
#include "engine/tokenizer/spm_model.h"

static const char CONFIG[] = "tokenizer_config.json";

/* *out: the parsed file, or NULL when there is none. */
static int open_json(const struct source *source, const char *name, json_t **out, struct err *err)
{
    const struct source_file *file = source_find(source, name);
    *out = file ? tokenizer_parse(file, err) : NULL;
    return file && !*out ? ERR_FORMAT : 0;
}

/* A token as these files write it: "<s>" or {"content": "<s>", ...}; NULL when absent or null. */
static const json_t *token_content(const json_t *root, const char *key)
{
    const json_t *value = json_object_get(root, key);
    return json_is_object(value) ? json_object_get(value, "content") : value;
}

static int read_token(struct tokenizer *t, const json_t *root, const char *file, const char *key,
                      int32_t *id, struct err *err)
{
    const json_t *content = token_content(root, key);
    if (!content || json_is_null(content))
        return 0;
    int32_t found = json_is_string(content) ? vocab_find(&t->vocab, json_string_value(content),
                                                         json_string_length(content))
                                            : -1;
    if (found < 0)
        return err_set(err, ERR_FORMAT, "%s: %s is not a token of the vocabulary", file, key);
    *id = found;
    return 0;
}

/* Put id at the place of bos or eos as the setting says; a setting that is not there keeps what the
 * tokenizer file said. */
static int apply_add(const json_t *root, const char *key, int32_t id, int32_t *list, int *n,
                     struct err *err)
{
    const json_t *add = json_object_get(root, key);
    if (!add || json_is_null(add))
        return 0;
    if (!json_is_boolean(add))
        return err_set(err, ERR_FORMAT, "%s: %s is not true or false", CONFIG, key);
    if (json_is_true(add) && id < 0)
        return err_set(err, ERR_FORMAT, "%s: %s is true, but the model has no such token", CONFIG,
                       key);
    *n = json_is_true(add);
    if (*n)
        list[0] = id;
    return 0;
}

int tokenizer_load_config(struct tokenizer *t, const struct source *source, struct err *err)
{
    static const char *const files[] = {"special_tokens_map.json", CONFIG}; /* the last one wins */
    for (int i = 0; i < 2; i++) {
        json_t *root;
        int code = open_json(source, files[i], &root, err);
        if (!code && root)
            code = read_token(t, root, files[i], "bos_token", &t->bos, err);
        if (!code && root)
            code = read_token(t, root, files[i], "eos_token", &t->eos, err);
        if (!code && root && i == 1)
            code = apply_add(root, "add_bos_token", t->bos, t->before, &t->n_before, err);
        if (!code && root && i == 1)
            code = apply_add(root, "add_eos_token", t->eos, t->after, &t->n_after, err);
        json_decref(root);
        if (code)
            return code;
    }
    return 0;
}

/* ---- tokenizer.model */

struct added { /* one entry of added_tokens_decoder */
    int64_t id;
    const json_t *content, *entry;
};

static int parse_added(const char *key, const json_t *entry, struct added *out, struct err *err)
{
    char *end;
    *out = (struct added){.content = json_object_get(entry, "content"), .entry = entry};
    out->id = strtoll(key, &end, 10);
    if (end == key || *end || !json_is_string(out->content))
        return err_set(err, ERR_FORMAT, "%s: added_tokens_decoder: '%.20s' is malformed", CONFIG,
                       key);
    return 0;
}

static int add_one(struct tokenizer *t, struct spm_model *m, const char *key, const json_t *entry,
                   struct err *err)
{
    struct added added;
    int code = parse_added(key, entry, &added, err);
    if (code)
        return code;
    if (added.id >= t->vocab.size_max && added.id < VOCAB_SIZE_MAX)
        return 0; /* the model has no such token */
    const char *text = json_string_value(added.content);
    size_t n = json_string_length(added.content);
    bool special = json_is_true(json_object_get(entry, "special"));
    int32_t known = vocab_find(&t->vocab, text, n);
    if (known < 0 || known != added.id) {
        code = vocab_put(&t->vocab, added.id, text, n, special ? VOCAB_CONTROL : VOCAB_USER,
                         "tokenizer_config.json: added_tokens_decoder", err);
        if (code)
            return code;
        known = (int32_t)added.id;
    } else if (special && !t->vocab.tokens[known].special) {
        /* else the library would make it of plain text */
        t->vocab.tokens[known].type = m->pieces[known].type = VOCAB_CONTROL;
        t->vocab.tokens[known].special = true;
    }
    t->vocab.tokens[known].left_strip = json_is_true(json_object_get(entry, "lstrip"));
    t->vocab.tokens[known].right_strip = json_is_true(json_object_get(entry, "rstrip"));
    t->vocab.tokens[known].single_word = json_is_true(json_object_get(entry, "single_word"));
    return 0;
}

/* User-defined pieces count as NORMAL in our table, and as `inner`: they are found once the text is
 * normalized, as the library does it. Added tokens are those that the text is cut at before. */
static int fill_vocab(struct tokenizer *t, struct spm_model *m, const char *file,
                      const json_t *config, struct err *err)
{
    char where[64];
    snprintf(where, sizeof where, "%.40s: pieces", file);
    for (size_t i = 0; i < m->n_pieces; i++) {
        const struct spm_piece *piece = &m->pieces[i];
        int type = piece->type == VOCAB_USER ? VOCAB_NORMAL : piece->type;
        int code = vocab_put(&t->vocab, (int64_t)i, (const char *)piece->text.data,
                             piece->text.size, (enum vocab_type)type, where, err);
        if (code)
            return code;
    }
    json_t *added = json_object_get(config, "added_tokens_decoder"), *entry;
    const char *key;
    if (added && !json_is_object(added))
        return err_set(err, ERR_FORMAT, "%s: added_tokens_decoder is not an object", CONFIG);
    json_object_foreach(added, key, entry)
    {
        int code = add_one(t, m, key, entry, err);
        if (code)
            return code;
    }
    for (size_t i = 0; i < m->n_pieces; i++)
        t->vocab.tokens[i].inner = m->pieces[i].type == VOCAB_USER;
    t->bos = vocab_find(&t->vocab, (const char *)m->bos.data, m->bos.size);
    t->eos = vocab_find(&t->vocab, (const char *)m->eos.data, m->eos.size);
    if (t->bos >= 0 && !t->vocab.tokens[t->bos].special)
        t->bos = -1;
    if (t->eos >= 0 && !t->vocab.tokens[t->eos].special)
        t->eos = -1;
    return vocab_seal(&t->vocab, VOCAB_SPACE, false, where, err);
}

static int count_ids(const struct spm_model *m, const json_t *config)
{
    json_t *added = json_object_get(config, "added_tokens_decoder"), *entry;
    const char *key;
    long long n = (long long)m->n_pieces;
    json_object_foreach(added, key, entry)
    {
        long long id = strtoll(key, NULL, 10);
        n = id >= n ? (id < VOCAB_SIZE_MAX ? id + 1 : VOCAB_SIZE_MAX) : n;
    }
    return (int)n;
}

static int open_processor(const struct spm_model *m, bool prefix, const char *file,
                          struct spm **out, struct err *err)
{
    char reason[200];
    struct buf proto;
    buf_init(&proto, 0);
    int code = spm_model_write(m, prefix, &proto);
    if (code) {
        buf_free(&proto);
        return err_set(err, ERR_NOMEM, "%s: out of memory", file);
    }
    *out = spm_open(proto.data, proto.size, reason, sizeof reason);
    buf_free(&proto);
    return *out ? 0 : err_set(err, ERR_FORMAT, "%s: %s", file, reason);
}

/* Whether each segment between special tokens gets the dummy prefix: tokenizer_config.json's
 * `legacy`, true in such a file without it (the rule of Hugging Face's LlamaTokenizer); without the
 * file only a text's beginning does, as Mistral's templates write the spaces they mean. */
static bool is_legacy(const json_t *config)
{
    return config && !json_is_false(json_object_get(config, "legacy"));
}

/* Whether cutting a text in front of a space that follows another character changes nothing: spaces
 * are kept and normalized alone, and no piece has U+2581 after another character. */
static bool can_cut(const struct spm_model *m)
{
    static const char space[] = VOCAB_SPACE;
    if (m->charsmap.size || m->remove_extra_spaces || !m->escape_spaces || m->space_as_suffix)
        return false;
    for (size_t i = 0; i < m->n_pieces; i++) {
        const char *text = (const char *)m->pieces[i].text.data,
                   *end = text + m->pieces[i].text.size;
        for (const char *at = text; (at = memmem(at, (size_t)(end - at), space, 3)); at += 3)
            if (at > text && (at < text + 3 || memcmp(at - 3, space, 3) != 0))
                return false;
    }
    return true;
}

/* Whether our own merging, several times as fast, gives what the library gives: a BPE model that
 * leaves characters as they are, without pieces that the library takes apart again (UNUSED). */
static bool can_merge(const struct tokenizer *t, const struct spm_model *m)
{
    if (m->type != SPM_BPE || m->charsmap.size || m->remove_extra_spaces || !m->escape_spaces ||
        m->space_as_suffix || !m->byte_fallback || !t->vocab.has_bytes)
        return false;
    for (size_t i = 0; i < m->n_pieces; i++)
        if (m->pieces[i].type == VOCAB_UNUSED)
            return false;
    for (int id = 0; id < t->vocab.n; id++)
        if (t->vocab.tokens[id].type == VOCAB_USER)
            return false;
    return true;
}

static int open_merges(struct tokenizer *t, const struct spm_model *m, bool legacy,
                       const char *file, struct err *err)
{
    float *scores = calloc((size_t)t->vocab.n, sizeof *scores);
    for (size_t i = 0; scores && i < m->n_pieces; i++)
        scores[i] = m->pieces[i].score;
    int code = scores ? bpe_open_scores(&t->bpe, &t->vocab, scores) : ERR_NOMEM;
    free(scores);
    if (code)
        return err_set(err, code, "%s: out of memory", file);
    t->normal.steps[t->normal.n++] =
        (struct step){.kind = STEP_REPLACE, .from = " ", .to = VOCAB_SPACE};
    if (m->dummy_prefix)
        t->normal.steps[t->normal.n++] = (struct step){
            .kind = legacy ? STEP_PREPEND : STEP_PREPEND_SPACE, .to = VOCAB_SPACE};
    return 0;
}

static int open_library(struct tokenizer *t, const struct spm_model *m, bool legacy,
                        const char *file, struct err *err)
{
    int code = open_processor(m, m->dummy_prefix, file, &t->spm_prefix, err);
    t->spm_legacy = legacy;
    t->spm_cuts = can_cut(m);
    return code ? code : open_processor(m, false, file, &t->spm_plain, err);
}

int tokenizer_load_spm(struct tokenizer *t, const struct source *source,
                       const struct source_file *file, int vocab_size, struct err *err)
{
    struct spm_model m = {0};
    json_t *config = NULL;
    int code = open_json(source, CONFIG, &config, err);
    if (!code)
        code = spm_model_open(&m, file->data, file->size, file->name, err);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : count_ids(&m, config), err);
    if (!code)
        code = fill_vocab(t, &m, file->name, config, err);
    if (!code)
        code = can_merge(t, &m) ? open_merges(t, &m, is_legacy(config), file->name, err)
                                : open_library(t, &m, is_legacy(config), file->name, err);
    if (!code) {
        t->strips_space = m.dummy_prefix;
        if (t->bos >= 0)
            t->before[t->n_before++] = t->bos;
        snprintf(t->kind, sizeof t->kind, "tokenizer.model (%s)",
                 m.type == SPM_BPE ? "BPE" : "Unigram");
    }
    spm_model_close(&m);
    json_decref(config);
    return code;
}
