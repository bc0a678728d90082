/* json_parts: the pipeline of a tokenizer.json: normalizer, pre_tokenizer and decoder, each one
 * part or a Sequence of parts, and post_processor. Runs in tokenizer_open. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/tokenizer/load.h"
#include "engine/tokenizer/unicode.h"

enum { PIPELINE_DEPTH_MAX = 4 };

static const char FILE_NAME[] = "tokenizer.json";
static const char SPACE[] = VOCAB_SPACE;

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

/* ---- normalizer */

/* A new step of a kind; NULL when there are too many. */
static struct step *new_step(struct pipeline *p, enum step_kind kind, const char *field)
{
    struct normalizer *m = &p->t->normal;
    if (m->n == STEPS_MAX) {
        err_set(p->err, ERR_FORMAT, "%s: %s has more than %d parts", FILE_NAME, field, STEPS_MAX);
        return NULL;
    }
    m->steps[m->n] = (struct step){.kind = kind};
    return &m->steps[m->n++];
}

/* A text without NUL of at least `least` bytes that fits a step. */
static bool take_text(const json_t *value, size_t least, char out[STEP_TEXT_MAX])
{
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    if (!text || n < least || n >= STEP_TEXT_MAX || strlen(text) != n)
        return false;
    memcpy(out, text, n + 1);
    return true;
}

static int replace_part(struct pipeline *p, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *from = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    struct step *step = new_step(p, STEP_REPLACE, "normalizer");
    if (!step)
        return ERR_FORMAT;
    if (!take_text(json_object_get(part, "content"), 0, step->to))
        return malformed(p->err, "normalizer.content");
    if (from)
        return take_text(from, 1, step->from) ? 0 : malformed(p->err, "normalizer.pattern");
    if (!json_is_string(regex))
        return malformed(p->err, "normalizer.pattern");
    p->t->normal.needs_utf8 = true;
    return regex_open(json_string_value(regex), json_string_length(regex), REGEX_ONIGURUMA,
                      "tokenizer.json: normalizer.pattern", &step->pattern, p->err);
}

static int strip_part(struct pipeline *p, const json_t *part)
{
    struct step *step = new_step(p, STEP_STRIP, "normalizer");
    if (!step)
        return ERR_FORMAT;
    step->left = json_is_true(json_object_get(part, "strip_left"));
    step->right = json_is_true(json_object_get(part, "strip_right"));
    return 0;
}

static int normalizer_part(struct pipeline *p, const json_t *part)
{
    static const struct {
        const char *type;
        enum step_kind kind;
    } forms[] = {{"NFC", STEP_NFC},
                 {"NFD", STEP_NFD},
                 {"NFKC", STEP_NFKC},
                 {"NFKD", STEP_NFKD},
                 {"Lowercase", STEP_LOWERCASE},
                 {"StripAccents", STEP_STRIP_ACCENTS}};
    const char *type = type_of(part);
    if (!strcmp(type, "Prepend")) {
        struct step *step = new_step(p, STEP_PREPEND, "normalizer");
        if (!step)
            return ERR_FORMAT;
        return take_text(json_object_get(part, "prepend"), 0, step->to)
                   ? 0
                   : malformed(p->err, "normalizer.prepend");
    }
    if (!strcmp(type, "Replace"))
        return replace_part(p, part);
    if (!strcmp(type, "Strip"))
        return strip_part(p, part);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(type, forms[i].type) != 0)
            continue;
        if (!unicode_here())
            return err_set(p->err, ERR_FORMAT,
                           "tokenizer.json: normalizer '%s' needs a build with utf8proc", type);
        p->t->normal.needs_utf8 = true;
        return new_step(p, forms[i].kind, "normalizer") ? 0 : ERR_FORMAT;
    }
    return unsupported(p->err, "normalizer", type);
}

/* ---- pre_tokenizer */

/* Where the text was cut at white space already, only the space in front is left to do. */
static int metaspace_stage(struct pipeline *p, bool always)
{
    struct pretok *pretok = &p->t->pretok;
    if (!p->cut_at_spaces || !always || pretok->n == STAGES_MAX)
        return unsupported(p->err, "pre_tokenizer", "Metaspace after another part");
    pretok->stages[pretok->n++] = (struct stage){.prefix = SPACE};
    return 0;
}

/* Spaces become U+2581, and one goes in front: done as normalizer steps, which is the same as long
 * as nothing has cut the text before. */
static int metaspace_part(struct pipeline *p, const json_t *part)
{
    const json_t *replacement = json_object_get(part, "replacement");
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    const json_t *old = json_object_get(part, "add_prefix_space"); /* before there were schemes */
    const char *name = scheme ? json_string_value(scheme) : json_is_false(old) ? "never" : "always";
    if (!name || (strcmp(name, "first") && strcmp(name, "always") && strcmp(name, "never")))
        return malformed(p->err, "pre_tokenizer.prepend_scheme");
    if (!json_is_string(replacement) || strcmp(json_string_value(replacement), SPACE) != 0)
        return err_set(p->err, ERR_FORMAT,
                       "%s: pre_tokenizer.replacement other than U+2581 is not supported",
                       FILE_NAME);
    bool split = !json_is_false(json_object_get(part, "split"));
    if (p->t->pretok.n)
        return metaspace_stage(p, !strcmp(name, "always"));
    struct step *step = new_step(p, STEP_REPLACE, "pre_tokenizer");
    if (!step)
        return ERR_FORMAT;
    memcpy(step->from, " ", 2);
    memcpy(step->to, SPACE, sizeof SPACE);
    if (strcmp(name, "never") != 0) {
        step = new_step(p, STEP_PREPEND_SPACE, "pre_tokenizer");
        if (!step)
            return ERR_FORMAT;
        memcpy(step->to, SPACE, sizeof SPACE);
        step->later = !strcmp(name, "always");
    }
    p->split_spaces = split && !p->unigram; /* bpe.c cuts there by itself */
    return split && p->unigram
               ? pretok_add(&p->t->pretok, SPACE, strlen(SPACE), REGEX_LITERAL, BEHAVIOR_WITH_NEXT,
                            "tokenizer.json: pre_tokenizer", p->err)
               : 0;
}

static int read_behavior(const json_t *part, enum behavior *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(part, "behavior"));
    for (int i = 0; name && i < (int)(sizeof names / sizeof names[0]); i++) {
        if (!strcmp(name, names[i])) {
            *out = (enum behavior)i;
            return 0;
        }
    }
    return ERR_FORMAT;
}

static int add_stage(struct pipeline *p, const char *pattern, size_t n, enum regex_kind kind,
                     enum behavior behavior, bool invert)
{
    struct pretok *pretok = &p->t->pretok;
    int code = pretok_add(pretok, pattern, n, kind, behavior,
                          "tokenizer.json: pre_tokenizer", p->err);
    if (!code)
        pretok->stages[pretok->n - 1].invert = invert;
    return code;
}

static int split_part(struct pipeline *p, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *used = text ? text : regex;
    enum behavior behavior;
    if (!json_is_string(used))
        return malformed(p->err, "pre_tokenizer.pattern");
    if (read_behavior(part, &behavior))
        return malformed(p->err, "pre_tokenizer.behavior");
    return add_stage(p, json_string_value(used), json_string_length(used),
                     text ? REGEX_LITERAL : REGEX_ONIGURUMA, behavior,
                     json_is_true(json_object_get(part, "invert")));
}

static int byte_level_part(struct pipeline *p, const json_t *part)
{
    struct pretok *pretok = &p->t->pretok;
    bool prefix = !json_is_false(json_object_get(part, "add_prefix_space"));
    bool cuts = !json_is_false(json_object_get(part, "use_regex"));
    int code = 0;
    p->byte_level = true;
    if (cuts) {
        code = add_stage(p, PRETOK_GPT2, strlen(PRETOK_GPT2), REGEX_RUST, BEHAVIOR_ISOLATED, false);
    } else if (prefix) {
        if (pretok->n == STAGES_MAX)
            return malformed(p->err, "pretokenizers");
        pretok->stages[pretok->n++] = (struct stage){.pattern = NULL};
    }
    if (!code && prefix)
        pretok->stages[pretok->n - 1].prefix = " ";
    return code;
}

static int delimiter_part(struct pipeline *p, const json_t *part)
{
    const json_t *text = json_object_get(part, "delimiter");
    if (!json_is_string(text))
        return malformed(p->err, "pre_tokenizer.delimiter");
    return add_stage(p, json_string_value(text), json_string_length(text), REGEX_LITERAL,
                     BEHAVIOR_REMOVED, false);
}

static int digits_part(struct pipeline *p, const json_t *part)
{
    const char *pattern =
        json_is_true(json_object_get(part, "individual_digits")) ? "\\p{N}" : "\\p{N}+";
    return add_stage(p, pattern, strlen(pattern), REGEX_RUST, BEHAVIOR_ISOLATED, false);
}

static int punctuation_part(struct pipeline *p, const json_t *part)
{
    static const char pattern[] = "[\\p{P}$+<=>^`|~]";
    enum behavior behavior = BEHAVIOR_ISOLATED;
    if (json_object_get(part, "behavior") && read_behavior(part, &behavior))
        return malformed(p->err, "pre_tokenizer.behavior");
    return add_stage(p, pattern, sizeof pattern - 1, REGEX_RUST, behavior, false);
}

static int whitespace_part(struct pipeline *p, const json_t *part)
{
    static const char words[] = "\\w+|[^\\w\\s]+", spaces[] = "\\s+";
    if (!strcmp(type_of(part), "Whitespace"))
        return add_stage(p, words, sizeof words - 1, REGEX_RUST, BEHAVIOR_REMOVED, true);
    p->cut_at_spaces = true;
    return add_stage(p, spaces, sizeof spaces - 1, REGEX_RUST, BEHAVIOR_REMOVED, false);
}

static int pre_tokenizer_part(struct pipeline *p, const json_t *part)
{
    static const struct {
        const char *type;
        int (*take)(struct pipeline *, const json_t *);
    } kinds[] = {{"Metaspace", metaspace_part},        {"Split", split_part},
                 {"ByteLevel", byte_level_part},       {"Digits", digits_part},
                 {"Punctuation", punctuation_part},    {"Whitespace", whitespace_part},
                 {"WhitespaceSplit", whitespace_part}, {"CharDelimiterSplit", delimiter_part}};
    if (p->byte_level) /* what it writes is no longer the text */
        return unsupported(p->err, "pre_tokenizer", "a part after ByteLevel");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(type_of(part), kinds[i].type))
            return kinds[i].take(p, part);
    return unsupported(p->err, "pre_tokenizer", type_of(part));
}

/* ---- decoder */

static int decoder_strip(struct pipeline *p, const json_t *part)
{
    const char *content = json_string_value(json_object_get(part, "content"));
    json_int_t start = json_integer_value(json_object_get(part, "start"));
    if (!content || strcmp(content, " ") != 0 || start < 0 || start > 1 ||
        json_integer_value(json_object_get(part, "stop")) != 0)
        return unsupported(p->err, "decoder", "Strip of other than at most one leading space");
    p->t->strips_space = p->t->strips_space || start == 1;
    return 0;
}

static int decoder_part(struct pipeline *p, const json_t *part)
{
    const char *type = type_of(part);
    const json_t *from = NULL;
    p->has_decoder = true;
    if (!strcmp(type, "ByteFallback") || !strcmp(type, "Fuse"))
        return 0;
    if (!strcmp(type, "ByteLevel")) {
        p->decodes_bytes = true;
        return 0;
    }
    if (!strcmp(type, "Strip"))
        return decoder_strip(p, part);
    if (!strcmp(type, "Replace")) {
        const char *to = json_string_value(json_object_get(part, "content"));
        from = json_object_get(json_object_get(part, "pattern"), "String");
        if (!from || !to || strcmp(to, " ") != 0)
            return unsupported(p->err, "decoder", "Replace by other than a space");
    } else if (!strcmp(type, "Metaspace")) {
        const char *name = json_string_value(json_object_get(part, "prepend_scheme"));
        from = json_object_get(part, "replacement");
        p->t->strips_space = name ? strcmp(name, "never") != 0
                                  : !json_is_false(json_object_get(part, "add_prefix_space"));
    } else {
        return unsupported(p->err, "decoder", type);
    }
    return !p->space[0] && take_text(from, 1, p->space) ? 0 : malformed(p->err, "decoder");
}

int tokenizer_read_parts(struct pipeline *p, const json_t *root)
{
    int code = each_part(p, json_object_get(root, "normalizer"), "normalizers", normalizer_part, 0);
    if (!code)
        code = each_part(p, json_object_get(root, "pre_tokenizer"), "pretokenizers",
                         pre_tokenizer_part, 0);
    if (!code)
        code = each_part(p, json_object_get(root, "decoder"), "decoders", decoder_part, 0);
    return code;
}

/* ---- post_processor: the added tokens around a text (the sequence A) */

static int add_around(struct tokenizer *t, const json_t *id, bool after)
{
    int *n = after ? &t->n_after : &t->n_before;
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= t->vocab.n || *n == AROUND_MAX)
        return ERR_FORMAT;
    (after ? t->after : t->before)[(*n)++] = (int32_t)value;
    return 0;
}

static int template_token(struct tokenizer *t, const json_t *tokens, const json_t *item, bool after,
                          struct err *err)
{
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
    if (!json_is_array(ids))
        return malformed(err, "post_processor.special_tokens");
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (add_around(t, json_array_get(ids, i), after))
            return err_set(err, ERR_FORMAT,
                           "%s: post_processor.special_tokens: '%.40s' has ids out of range",
                           FILE_NAME, name);
    return 0;
}

static int template_part(struct pipeline *p, const json_t *part)
{
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
    return 0;
}

/* RobertaProcessing and BertProcessing: cls in front, sep behind, each [text, id]. */
static int cls_sep_part(struct pipeline *p, const json_t *part)
{
    if (add_around(p->t, json_array_get(json_object_get(part, "cls"), 1), false))
        return malformed(p->err, "post_processor.cls");
    if (add_around(p->t, json_array_get(json_object_get(part, "sep"), 1), true))
        return malformed(p->err, "post_processor.sep");
    return 0;
}

static int post_part(struct pipeline *p, const json_t *part)
{
    const char *type = type_of(part);
    if (!strcmp(type, "ByteLevel")) /* offsets alone */
        return 0;
    if (!strcmp(type, "TemplateProcessing"))
        return template_part(p, part);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing"))
        return cls_sep_part(p, part);
    return unsupported(p->err, "post_processor", type);
}

int tokenizer_read_post(struct tokenizer *t, const json_t *root, struct err *err)
{
    struct pipeline p = {.t = t, .err = err};
    int code = each_part(&p, json_object_get(root, "post_processor"), "processors", post_part, 0);
    if (code)
        return code;
    if (t->n_before)
        t->bos = t->before[0];
    if (t->n_after)
        t->eos = t->after[0];
    return 0;
}
