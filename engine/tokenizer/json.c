/* json: reads tokenizer.json (the file of Hugging Face's `tokenizers` library) of the BPE kinds:
 * over characters with byte fallback, spaces written as U+2581 (SentencePiece-style), and over
 * bytes (ByteLevel); and of the Unigram kind. The parts of its pipeline are read in json_parts.c.
 * Runs in tokenizer_open.
 *
 * What a file asks for and this reader does not do is refused by name, never ignored. Two choices
 * differ from the library, both towards sentencepiece, which such a file restates: (1) Metaspace
 * puts its space in front of a text even when the text begins with one, so that the space survives
 * decoding and tokenizer.model gives the same ids; (2) added tokens are looked for in the text as
 * it is, whatever their `normalized` says, and no merge makes a special one. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer/load.h"

enum { FILE_BYTES_MAX = 256 << 20 };

static const char FILE_NAME[] = "tokenizer.json";

json_t *tokenizer_parse(const struct source_file *file, struct err *err)
{
    json_error_t where;
    if (file->size > FILE_BYTES_MAX) {
        err_set(err, ERR_FORMAT, "%s: has %zu bytes (%d allowed)", file->name, file->size,
                FILE_BYTES_MAX);
        return NULL;
    }
    json_t *root = json_loadb((const char *)file->data, file->size,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (!root && !where.text[0]) /* jansson 2.14 has no text when an allocation failed */
        err_set(err, ERR_NOMEM, "%s: out of memory", file->name);
    else if (!root)
        err_set(err, ERR_FORMAT, "%s: line %d column %d: %s", file->name, where.line, where.column,
                where.text);
    else if (!json_is_object(root)) {
        err_set(err, ERR_FORMAT, "%s: is not a JSON object", file->name);
        json_decref(root);
        root = NULL;
    }
    return root;
}

static int malformed(struct err *err, const char *field)
{
    return err_set(err, ERR_FORMAT, "%s: %s is missing or malformed", FILE_NAME, field);
}

/* ---- model */

static bool is_unigram(const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    return type && !strcmp(type, "Unigram");
}

static int read_vocab(struct tokenizer *t, json_t *model, struct err *err)
{
    json_t *vocab = json_object_get(model, "vocab"), *value;
    const char *text;
    if (!json_is_object(vocab))
        return malformed(err, "model.vocab");
    json_object_foreach(vocab, text, value)
    {
        if (!json_is_integer(value))
            return err_set(err, ERR_FORMAT, "%s: model.vocab: the id of '%.40s' is not an integer",
                           FILE_NAME, text);
        int code = vocab_put(&t->vocab, json_integer_value(value), text, strlen(text), VOCAB_NORMAL,
                             "tokenizer.json: model.vocab", err);
        if (code)
            return code;
    }
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    int32_t id = unk ? vocab_find(&t->vocab, unk, strlen(unk)) : -1;
    if (unk && id < 0)
        return err_set(err, ERR_FORMAT, "%s: model.unk_token '%.40s' is not in model.vocab",
                       FILE_NAME, unk);
    if (id >= 0) {
        t->vocab.tokens[id].type = VOCAB_UNKNOWN;
        t->vocab.tokens[id].special = true;
    }
    return 0;
}

/* As many ids as the file has; what is malformed in it is found when it is read. */
static int count_ids(const json_t *root, json_t *model)
{
    json_t *vocab = json_object_get(model, "vocab"), *value;
    const json_t *list = json_object_get(root, "added_tokens");
    const char *text;
    json_int_t most = (json_int_t)json_array_size(vocab) - 1; /* a list: Unigram */
    json_object_foreach(vocab, text, value)
    {
        most = json_integer_value(value) > most ? json_integer_value(value) : most;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t id = json_integer_value(json_object_get(json_array_get(list, i), "id"));
        most = id > most ? id : most;
    }
    return most < VOCAB_SIZE_MAX ? (int)(most < 0 ? 0 : most) + 1 : VOCAB_SIZE_MAX;
}

static int read_added(struct tokenizer *t, const json_t *root, struct err *err)
{
    json_t *list = json_object_get(root, "added_tokens"), *item;
    size_t i;
    if (list && !json_is_null(list) && !json_is_array(list))
        return malformed(err, "added_tokens");
    json_array_foreach(list, i, item)
    {
        char where[64];
        snprintf(where, sizeof where, "tokenizer.json: added_tokens[%zu]", i);
        json_t *id = json_object_get(item, "id"), *content = json_object_get(item, "content");
        if (!json_is_integer(id) || !json_is_string(content))
            return err_set(err, ERR_FORMAT, "%s: id or content is missing or malformed", where);
        const char *text = json_string_value(content);
        size_t n = json_string_length(content);
        if (json_integer_value(id) >= t->vocab.size_max && json_integer_value(id) < VOCAB_SIZE_MAX)
            continue; /* the model lacks it: Gemma 3's text models have no image token */
        bool special = json_is_true(json_object_get(item, "special"));
        int32_t known = vocab_find(&t->vocab, text, n);
        if (known < 0 || known != json_integer_value(id)) {
            int code =
                vocab_put(&t->vocab, json_integer_value(id), text, n, VOCAB_USER, where, err);
            if (code)
                return code;
            known = (int32_t)json_integer_value(id);
        }
        struct vocab_token *token = &t->vocab.tokens[known];
        if (token->type != VOCAB_UNKNOWN)
            token->type = special ? VOCAB_CONTROL : VOCAB_USER;
        token->special = special || token->type == VOCAB_UNKNOWN;
        token->left_strip = json_is_true(json_object_get(item, "lstrip"));
        token->right_strip = json_is_true(json_object_get(item, "rstrip"));
        token->single_word = json_is_true(json_object_get(item, "single_word"));
    }
    return 0;
}

/* The two sides of a merge: "a b", or ["a", "b"]. A text of several spaces is cut at the first that
 * leaves a token on both sides, for there are vocabularies whose tokens hold spaces. */
static bool merge_sides(const struct vocab *v, const json_t *merge, const char *side[2],
                        size_t size[2])
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (int i = 0; i < 2; i++) {
            const json_t *text = json_array_get(merge, (size_t)i);
            side[i] = json_string_value(text);
            size[i] = json_string_length(text);
        }
        return side[0] && side[1] && size[0] && size[1];
    }
    if (!json_is_string(merge))
        return false;
    const char *text = json_string_value(merge), *end = text + json_string_length(merge);
    const char *space = memchr(text, ' ', (size_t)(end - text));
    bool several = space && memchr(space + 1, ' ', (size_t)(end - space - 1));
    while (space) {
        side[0] = text;
        size[0] = (size_t)(space - text);
        side[1] = space + 1;
        size[1] = (size_t)(end - side[1]);
        if (!several ||
            (vocab_find(v, side[0], size[0]) >= 0 && vocab_find(v, side[1], size[1]) >= 0))
            return size[0] && size[1];
        space = memchr(side[1], ' ', size[1]);
    }
    return false;
}

static int read_merges(struct tokenizer *t, json_t *model, struct err *err)
{
    json_t *merges = json_object_get(model, "merges"), *merge;
    size_t i;
    if (!json_is_array(merges))
        return malformed(err, "model.merges");
    if (t->byte_level ? bpe_open_bytes(&t->bpe, &t->vocab, json_array_size(merges))
                      : bpe_open(&t->bpe, &t->vocab, json_array_size(merges)))
        return err_set(err, ERR_NOMEM, "%s: model.merges: out of memory", FILE_NAME);
    json_array_foreach(merges, i, merge)
    {
        const char *side[2] = {NULL, NULL};
        size_t size[2] = {0, 0};
        char joined[2 * VOCAB_TEXT_MAX];
        int32_t id[3] = {-1, -1, -1};
        if (!merge_sides(&t->vocab, merge, side, size))
            return err_set(err, ERR_FORMAT, "%s: model.merges[%zu] is not a pair of tokens",
                           FILE_NAME, i);
        for (int k = 0; k < 2; k++) {
            id[k] = vocab_find(&t->vocab, side[k], size[k]);
            if (id[k] < 0)
                return err_set(err, ERR_FORMAT,
                               "%s: model.merges[%zu] names '%.*s', which is not in model.vocab",
                               FILE_NAME, i, size[k] < 40 ? (int)size[k] : 40, side[k]);
        }
        memcpy(joined, side[0], size[0]); /* found in the vocabulary: at most VOCAB_TEXT_MAX each */
        memcpy(joined + size[0], side[1], size[1]);
        id[2] = vocab_find(&t->vocab, joined, size[0] + size[1]);
        if (id[2] < 0)
            return err_set(
                err, ERR_FORMAT, "%s: model.merges[%zu] makes '%.*s', which is not in model.vocab",
                FILE_NAME, i, (int)(size[0] + size[1] < 60 ? size[0] + size[1] : 60), joined);
        if (!t->vocab.tokens[id[2]].special)
            bpe_add_merge(&t->bpe, id[0], id[1], (uint32_t)i, id[2]);
    }
    return 0;
}

/* Unigram: [[text, score], ...], ids in order, and the id of the unknown token. The scores are
 * handed on to read_unigram, which comes after the vocabulary is sealed. */
static int read_scored(struct tokenizer *t, const json_t *model, struct err *err)
{
    const json_t *list = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i), *text = json_array_get(item, 0);
        if (!json_is_string(text) || !json_is_number(json_array_get(item, 1)))
            return err_set(err, ERR_FORMAT, "%s: model.vocab[%zu] is no pair of text and score",
                           FILE_NAME, i);
        int code =
            vocab_put(&t->vocab, (int64_t)i, json_string_value(text), json_string_length(text),
                      VOCAB_NORMAL, "tokenizer.json: model.vocab", err);
        if (code)
            return code;
    }
    json_int_t id = json_integer_value(unk);
    if (!unk || json_is_null(unk))
        return 0;
    if (!json_is_integer(unk) || id < 0 || id >= t->vocab.n)
        return err_set(err, ERR_FORMAT, "%s: model.unk_id is not an id of model.vocab", FILE_NAME);
    t->vocab.tokens[id].type = VOCAB_UNKNOWN;
    t->vocab.tokens[id].special = true;
    return 0;
}

static int read_unigram(struct tokenizer *t, const json_t *model, struct err *err)
{
    const json_t *list = json_object_get(model, "vocab");
    double *scores = calloc((size_t)t->vocab.n, sizeof *scores);
    for (size_t i = 0; scores && i < json_array_size(list); i++) {
        scores[i] = json_number_value(json_array_get(json_array_get(list, i), 1));
        if (!(scores[i] > -1e30 && scores[i] < 1e30)) {
            free(scores);
            return err_set(err, ERR_FORMAT, "%s: model.vocab[%zu]: the score is out of range",
                           FILE_NAME, i);
        }
    }
    if (!scores || unigram_open(&t->unigram, &t->vocab, scores))
        return err_set(err, ERR_NOMEM, "%s: out of memory", FILE_NAME);
    t->unigram.byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    return 0;
}

static int check_model(const json_t *model, struct err *err)
{
    if (!json_is_object(model))
        return malformed(err, "model");
    const json_t *value = json_object_get(model, "type");
    const char *type = json_string_value(value);
    if (value && !type)
        return malformed(err, "model.type");
    if (is_unigram(model))
        return json_is_array(json_object_get(model, "vocab")) ? 0 : malformed(err, "model.vocab");
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
        return err_set(err, ERR_FORMAT, "%s: model.type '%.60s' is not supported", FILE_NAME,
                       type ? type : "(no type)");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return err_set(err, ERR_FORMAT, "%s: model.%s is not supported", FILE_NAME, affixes[i]);
    return 0; /* model.dropout is a matter of training */
}

/* ---- the file */

/* Byte-level files decode bytes; the others write spaces as the decoder says. */
static int check_parts(const struct pipeline *p)
{
    if (p->byte_level && p->unigram)
        return err_set(p->err, ERR_FORMAT,
                       "%s: model.type 'Unigram' with pre_tokenizer 'ByteLevel' is not supported",
                       FILE_NAME);
    if (p->byte_level && p->has_decoder && !p->decodes_bytes)
        return err_set(p->err, ERR_FORMAT,
                       "%s: pre_tokenizer 'ByteLevel' without a decoder of that kind is not "
                       "supported",
                       FILE_NAME);
    if (!p->byte_level && p->decodes_bytes)
        return err_set(p->err, ERR_FORMAT,
                       "%s: decoder 'ByteLevel' without a pre_tokenizer of that kind is not "
                       "supported",
                       FILE_NAME);
    return 0;
}

static int read_model(struct pipeline *p, const json_t *root, json_t *model)
{
    struct tokenizer *t = p->t;
    t->vocab.byte_alphabet = t->byte_level = p->byte_level;
    int code = p->unigram ? read_scored(t, model, p->err) : read_vocab(t, model, p->err);
    if (!code)
        code = read_added(t, root, p->err);
    if (!code)
        code = vocab_seal(&t->vocab,
                          p->byte_level    ? ""
                          : p->has_decoder ? p->space
                                           : VOCAB_SPACE,
                          json_is_true(json_object_get(model, "byte_fallback")), FILE_NAME, p->err);
    if (!code && p->unigram)
        return read_unigram(t, model, p->err);
    if (!code)
        code = read_merges(t, model, p->err);
    if (code)
        return code;
    t->bpe.split_spaces = p->split_spaces;
    t->bpe.fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->bpe.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return t->byte_level && bpe_seal_bytes(&t->bpe)
               ? err_set(p->err, ERR_NOMEM, "%s: out of memory", FILE_NAME)
               : 0;
}

static int load(struct tokenizer *t, json_t *root, int vocab_size, struct err *err)
{
    json_t *model = json_object_get(root, "model");
    struct pipeline p = {.t = t, .err = err, .unigram = is_unigram(model)};
    int code = check_model(model, err);
    if (!code) /* kinds first: "WordPiece is not supported" says more than a vocabulary's error */
        code = tokenizer_read_parts(&p, root);
    if (!code)
        code = check_parts(&p);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : count_ids(root, model), err);
    if (!code)
        code = read_model(&p, root, model);
    if (!code)
        code = tokenizer_read_post(t, root, err);
    snprintf(t->kind, sizeof t->kind, "tokenizer.json (%s)",
             p.unigram      ? "Unigram"
             : p.byte_level ? "byte-level BPE"
                            : "BPE");
    return code;
}

int tokenizer_load_json(struct tokenizer *t, const struct source_file *file, int vocab_size,
                        struct err *err)
{
    json_t *root = tokenizer_parse(file, err);
    if (!root)
        return ERR_FORMAT;
    int code = load(t, root, vocab_size, err);
    json_decref(root);
    return code;
}
