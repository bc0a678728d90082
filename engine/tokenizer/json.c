/* json: reads tokenizer.json (the file of Hugging Face's `tokenizers` library) of the
 * SentencePiece-style BPE kind: BPE over characters with byte fallback, spaces written as U+2581.
 * Runs in tokenizer_open.
 *
 * What a file asks for and this reader does not do is refused by name, never ignored. Two choices
 * differ from the library, both towards sentencepiece, which such a file restates: (1) Metaspace
 * puts its space in front of a text even when the text begins with one, so that the space survives
 * decoding and tokenizer.model gives the same ids; (2) added tokens are looked for in the text as
 * it is, whatever their `normalized` says, and no merge makes a special one. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/tokenizer/load.h"

enum { FILE_BYTES_MAX = 256 << 20, PIPELINE_DEPTH_MAX = 4 };

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
    if (!root)
        err_set(err, ERR_FORMAT, "%s: line %d column %d: %s", file->name, where.line, where.column,
                where.text);
    else if (!json_is_object(root)) {
        err_set(err, ERR_FORMAT, "%s: is not a JSON object", file->name);
        json_decref(root);
        root = NULL;
    }
    return root;
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(no type)";
}

static int unsupported(struct err *err, const char *part, const char *name)
{
    return err_set(err, ERR_FORMAT, "%s: %s '%.60s' is not supported", FILE_NAME, part, name);
}

static int malformed(struct err *err, const char *field)
{
    return err_set(err, ERR_FORMAT, "%s: %s is missing or malformed", FILE_NAME, field);
}

/* ---- model */

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
    json_int_t most = 0;
    json_object_foreach(vocab, text, value)
    {
        most = json_integer_value(value) > most ? json_integer_value(value) : most;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t id = json_integer_value(json_object_get(json_array_get(list, i), "id"));
        most = id > most ? id : most;
    }
    return most < VOCAB_SIZE_MAX ? (int)most + 1 : VOCAB_SIZE_MAX;
}

static int read_added(struct tokenizer *t, json_t *root, struct err *err)
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
        if (json_is_true(json_object_get(item, "single_word")))
            return err_set(err, ERR_FORMAT, "%s: single_word is not supported", where);
        const char *text = json_string_value(content);
        size_t n = json_string_length(content);
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
    const char *text = json_string_value(merge), *end = text + json_string_length(merge);
    const char *space = text ? memchr(text, ' ', (size_t)(end - text)) : NULL;
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
    if (bpe_open(&t->bpe, &t->vocab, json_array_size(merges)))
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

static int check_model(const json_t *model, struct err *err)
{
    if (!json_is_object(model))
        return malformed(err, "model");
    const json_t *value = json_object_get(model, "type");
    const char *type = json_string_value(value);
    if (value && !type)
        return malformed(err, "model.type");
    if (type ? strcmp(type, "BPE") != 0 : !json_object_get(model, "merges"))
        return unsupported(err, "model.type", type_of(model));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return err_set(err, ERR_FORMAT, "%s: model.%s is not supported", FILE_NAME, affixes[i]);
    if (json_number_value(json_object_get(model, "dropout")) != 0)
        return err_set(err, ERR_FORMAT, "%s: model.dropout is not supported", FILE_NAME);
    return 0;
}

/* ---- pipeline: normalizer, pre_tokenizer, decoder, each one part or a Sequence of parts */

struct pipeline {
    struct tokenizer *t;
    struct err *err;
    bool has_decoder;
    char space[STEP_TEXT_MAX]; /* what the decoder turns into ' ' */
};

static int add_step(struct pipeline *p, enum step_kind kind, const json_t *from, const json_t *to,
                    bool later, const char *field)
{
    struct tokenizer *t = p->t;
    if (t->n_steps == STEPS_MAX)
        return err_set(p->err, ERR_FORMAT, "%s: %s has more than %d parts", FILE_NAME, field,
                       STEPS_MAX);
    size_t n_from = json_string_length(from), n_to = json_string_length(to);
    bool needs_from = kind == STEP_REPLACE;
    if (!json_is_string(to) || n_to >= STEP_TEXT_MAX || n_from >= STEP_TEXT_MAX ||
        (needs_from && n_from == 0) || strlen(json_string_value(to)) != n_to ||
        (needs_from && strlen(json_string_value(from)) != n_from))
        return malformed(p->err, field);
    struct step *step = &t->steps[t->n_steps++];
    *step = (struct step){.kind = kind, .later = later};
    if (needs_from)
        memcpy(step->from, json_string_value(from), n_from);
    memcpy(step->to, json_string_value(to), n_to);
    return 0;
}

static int normalizer_part(struct pipeline *p, const json_t *part)
{
    const char *type = type_of(part);
    if (!strcmp(type, "Prepend"))
        return add_step(p, STEP_PREPEND, NULL, json_object_get(part, "prepend"), true,
                        "normalizer.prepend");
    if (!strcmp(type, "Replace")) {
        const json_t *from = json_object_get(json_object_get(part, "pattern"), "String");
        return from ? add_step(p, STEP_REPLACE, from, json_object_get(part, "content"), true,
                               "normalizer.content")
                    : unsupported(p->err, "normalizer", "Replace with a Regex");
    }
    return unsupported(p->err, "normalizer", type);
}

static int pre_tokenizer_part(struct pipeline *p, const json_t *part)
{
    const char *type = type_of(part);
    if (strcmp(type, "Metaspace") != 0)
        return unsupported(p->err, "pre_tokenizer", type);
    const json_t *replacement = json_object_get(part, "replacement");
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    const json_t *old = json_object_get(part, "add_prefix_space"); /* before there were schemes */
    const char *name = scheme ? json_string_value(scheme) : json_is_false(old) ? "never" : "always";
    if (!name || (strcmp(name, "first") && strcmp(name, "always") && strcmp(name, "never")))
        return malformed(p->err, "pre_tokenizer.prepend_scheme");
    if (!json_is_string(replacement) || strcmp(json_string_value(replacement), "\xE2\x96\x81") != 0)
        return err_set(p->err, ERR_FORMAT,
                       "%s: pre_tokenizer.replacement other than U+2581 is not supported",
                       FILE_NAME);
    json_t *space = json_string(" ");
    int code =
        space ? add_step(p, STEP_REPLACE, space, replacement, true, "pre_tokenizer") : ERR_NOMEM;
    json_decref(space);
    if (!code && strcmp(name, "never") != 0)
        code = add_step(p, STEP_PREPEND_SPACE, NULL, replacement, !strcmp(name, "always"),
                        "pre_tokenizer");
    p->t->bpe.split_spaces = !json_is_false(json_object_get(part, "split"));
    return code;
}

static int decoder_part(struct pipeline *p, const json_t *part)
{
    const char *type = type_of(part);
    const json_t *from = NULL;
    p->has_decoder = true;
    if (!strcmp(type, "ByteFallback") || !strcmp(type, "Fuse"))
        return 0;
    if (!strcmp(type, "Strip")) {
        const char *content = json_string_value(json_object_get(part, "content"));
        json_int_t start = json_integer_value(json_object_get(part, "start"));
        if (!content || strcmp(content, " ") != 0 || start < 0 || start > 1 ||
            json_integer_value(json_object_get(part, "stop")) != 0)
            return unsupported(p->err, "decoder", "Strip of other than at most one leading space");
        p->t->strips_space = p->t->strips_space || start == 1;
        return 0;
    }
    if (!strcmp(type, "Replace")) {
        const char *to = json_string_value(json_object_get(part, "content"));
        from = json_object_get(json_object_get(part, "pattern"), "String");
        if (!from || !to || strcmp(to, " ") != 0)
            return unsupported(p->err, "decoder", "Replace by other than a space");
    } else if (!strcmp(type, "Metaspace")) {
        const json_t *scheme = json_object_get(part, "prepend_scheme");
        from = json_object_get(part, "replacement");
        const char *name = json_string_value(scheme);
        p->t->strips_space = name ? strcmp(name, "never") != 0
                                  : !json_is_false(json_object_get(part, "add_prefix_space"));
    } else {
        return unsupported(p->err, "decoder", type);
    }
    size_t n = json_string_length(from);
    if (!json_is_string(from) || n == 0 || n >= STEP_TEXT_MAX || p->space[0])
        return malformed(p->err, "decoder");
    memcpy(p->space, json_string_value(from), n);
    return 0;
}

static int each_part(struct pipeline *p, const json_t *part, const char *list,
                     int (*take)(struct pipeline *, const json_t *), int depth)
{
    if (!part || json_is_null(part))
        return 0;
    if (!json_is_object(part) || depth > PIPELINE_DEPTH_MAX)
        return malformed(p->err, list);
    if (strcmp(type_of(part), "Sequence") != 0)
        return take(p, part);
    const json_t *parts = json_object_get(part, list);
    if (!json_is_array(parts))
        return malformed(p->err, list);
    for (size_t i = 0; i < json_array_size(parts); i++) {
        int code = each_part(p, json_array_get(parts, i), list, take, depth + 1);
        if (code)
            return code;
    }
    return 0;
}

/* ---- post_processor: TemplateProcessing's `single` is the added tokens around the sequence A */

static int template_token(struct tokenizer *t, const json_t *tokens, const json_t *item, bool after,
                          struct err *err)
{
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
    if (!json_is_array(ids))
        return malformed(err, "post_processor.special_tokens");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *value = json_array_get(ids, i);
        json_int_t id = json_integer_value(value);
        int *n = after ? &t->n_after : &t->n_before;
        if (!json_is_integer(value) || id < 0 || id >= t->vocab.n || *n == AROUND_MAX)
            return err_set(err, ERR_FORMAT,
                           "%s: post_processor.special_tokens: '%.40s' has ids out of range",
                           FILE_NAME, name);
        (after ? t->after : t->before)[(*n)++] = (int32_t)id;
    }
    return 0;
}

static int post_part(struct pipeline *p, const json_t *part)
{
    if (strcmp(type_of(part), "TemplateProcessing") != 0)
        return unsupported(p->err, "post_processor", type_of(part));
    const json_t *single = json_object_get(part, "single");
    bool after = false;
    if (!json_is_array(single))
        return malformed(p->err, "post_processor.single");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence") && !after) {
            after = true;
            continue;
        }
        int code = token ? template_token(p->t, json_object_get(part, "special_tokens"), token,
                                          after, p->err)
                         : malformed(p->err, "post_processor.single");
        if (code)
            return code;
    }
    if (p->t->n_before)
        p->t->bos = p->t->before[0];
    if (p->t->n_after)
        p->t->eos = p->t->after[0];
    return 0;
}

/* ---- the file */

static int load(struct tokenizer *t, json_t *root, int vocab_size, struct err *err)
{
    json_t *model = json_object_get(root, "model");
    struct pipeline p = {.t = t, .err = err};
    int code = check_model(model, err);
    if (!code) /* kinds first: "WordPiece is not supported" says more than a vocabulary's error */
        code =
            each_part(&p, json_object_get(root, "normalizer"), "normalizers", normalizer_part, 0);
    if (!code)
        code = each_part(&p, json_object_get(root, "pre_tokenizer"), "pretokenizers",
                         pre_tokenizer_part, 0);
    bool split_spaces = t->bpe.split_spaces;
    if (!code)
        code = each_part(&p, json_object_get(root, "decoder"), "decoders", decoder_part, 0);
    if (!code)
        code = vocab_init(&t->vocab, vocab_size ? vocab_size : count_ids(root, model), err);
    if (!code)
        code = read_vocab(t, model, err);
    if (!code)
        code = read_added(t, root, err);
    if (!code)
        code = vocab_seal(&t->vocab, p.has_decoder ? p.space : "\xE2\x96\x81",
                          json_is_true(json_object_get(model, "byte_fallback")), FILE_NAME, err);
    if (!code)
        code = read_merges(t, model, err);
    if (!code)
        code = each_part(&p, json_object_get(root, "post_processor"), "processors", post_part, 0);
    if (code)
        return code;
    t->bpe.split_spaces = split_spaces;
    t->bpe.fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->bpe.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    snprintf(t->kind, sizeof t->kind, "tokenizer.json (BPE)");
    return 0;
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
