/* tokenizer: encoding and decoding: cuts texts at added tokens, adds BOS and EOS, joins pieces.
 *
 * A tokenizer is built by tokenizer_open (open.c) on one thread and immutable after it; encoding
 * and decoding keep their work in the call, so any thread may run them.
 *
 * Encoding: text -> [added token | segment]... -> per segment: normal.c, pretok.c and bpe.c or
 * unigram.c; or the sentencepiece library -> ids. Special tokens are recognised only inside a
 * trusted span; everywhere else their texts are plain text, and no kind makes a special token of
 * plain text. */
#include "engine/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/utf8.h"
#include "engine/tokenizer/load.h"

/* ---- token lists */

void token_list_free(struct token_list *list)
{
    if (!list)
        return;
    free(list->ids);
    *list = (struct token_list){0};
}

int token_list_add(struct token_list *list, int32_t id)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        if (capacity > SIZE_MAX / 2 / sizeof *list->ids)
            return ERR_NOMEM;
        int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return ERR_NOMEM;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_close(&t->bpe);
    unigram_close(&t->unigram);
    normal_free(&t->normal);
    pretok_free(&t->pretok);
    spm_close(t->spm_prefix);
    spm_close(t->spm_plain);
    vocab_free(&t->vocab);
    free(t);
}

/* ---- one segment */

/* The work of one tokenizer_encode. */
struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct bpe_work bpe;
    struct pretok_work words;
    struct buf paths;   /* unigram.c's */
    struct buf text[2]; /* the normalizer's */
    struct regex_work *regex;
};

static int encoder_init(struct encoder *e, const struct tokenizer *t, struct token_list *out)
{
    *e = (struct encoder){.t = t, .out = out};
    bpe_work_init(&e->bpe, &t->bpe, out);
    pretok_work_init(&e->words);
    buf_init(&e->paths, 0);
    buf_init(&e->text[0], 0);
    buf_init(&e->text[1], 0);
    e->regex = t->spm_plain ? NULL : regex_work_open();
    return e->regex || t->spm_plain ? 0 : ERR_NOMEM;
}

static void encoder_free(struct encoder *e)
{
    bpe_work_free(&e->bpe);
    pretok_work_free(&e->words);
    buf_free(&e->paths);
    buf_free(&e->text[0]);
    buf_free(&e->text[1]);
    regex_work_close(e->regex);
}

static bool may_start(const struct vocab_matches *matches, char byte)
{
    return matches->from[(uint8_t)byte] < matches->from[(uint8_t)byte + 1];
}

/* Merge between the tokens that are taken as they are. */
static int encode_around(struct encoder *e, const char *text, size_t n)
{
    const struct vocab *v = &e->t->vocab;
    size_t from = 0;
    for (size_t at = 0; at < n;) {
        int32_t id =
            may_start(&v->inner, text[at]) ? vocab_match(v, &v->inner, text, n, at, n) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        int code = bpe_encode(&e->bpe, text + from, at - from);
        if (!code)
            code = token_list_add(e->out, id);
        if (code)
            return code;
        from = at += v->tokens[id].text_size;
    }
    return bpe_encode(&e->bpe, text + from, n - from);
}

static int encode_word(void *encoder, const char *text, size_t n)
{
    struct encoder *e = encoder;
    if (e->t->unigram.scores)
        return unigram_encode(&e->t->unigram, &e->paths, text, n, e->out);
    if (e->t->byte_level)
        return bpe_encode_bytes(&e->bpe, text, n);
    return e->t->vocab.inner.n ? encode_around(e, text, n) : bpe_encode(&e->bpe, text, n);
}

/* The end of the well-formed UTF-8 that starts at text[from]; from itself when none does. */
static size_t well_formed_until(const char *text, size_t from, size_t n)
{
    size_t to = from;
    while (to < n) {
        uint32_t character;
        int used = (uint8_t)text[to] < 0x80 ? 1 : utf8_decode(text + to, n - to, &character);
        if (used <= 0)
            break;
        to += (size_t)used;
    }
    return to;
}

static int encode_well_formed(struct encoder *e, const char *text, size_t n, bool first)
{
    const struct tokenizer *t = e->t;
    if (t->normal.n) {
        const struct buf *result;
        int code = normal_run(&t->normal, text, n, first, e->regex, e->text, &result);
        if (code)
            return code;
        text = result->data;
        n = result->size;
    }
    return t->pretok.n ? pretok_run(&t->pretok, &e->words, e->regex, text, n, encode_word, e)
                       : encode_word(e, text, n);
}

/* Patterns and Unicode's forms are about characters: ill-formed bytes between them are words of
 * their own, merged as they are. */
static int encode_bpe(struct encoder *e, const char *text, size_t n, bool first)
{
    if (!e->t->pretok.n && !e->t->normal.needs_utf8)
        return encode_well_formed(e, text, n, first);
    for (size_t from = 0; from < n; first = false) {
        size_t to = well_formed_until(text, from, n);
        int code = to > from ? encode_well_formed(e, text + from, to - from, first) : 0;
        for (from = to; to < n && well_formed_until(text, to, n) == to;)
            to++;
        if (!code && to > from)
            code = encode_word(e, text + from, to - from);
        if (code)
            return code;
        from = to;
    }
    return 0;
}

static int take_id(void *list, int32_t id)
{
    return token_list_add(list, id);
}

static int add_byte(const struct tokenizer *t, uint8_t byte, struct token_list *out)
{
    int32_t id = t->vocab.byte_ids[byte] >= 0 ? t->vocab.byte_ids[byte] : t->vocab.unk;
    return id >= 0 ? token_list_add(out, id) : 0;
}

/* The library slows down as its queue outgrows the caches: long texts are handed over in parts, cut
 * in front of a space that stands after another character, where the model has no piece across. */
static int encode_cuts(const struct tokenizer *t, const char *text, size_t n, bool prefix,
                       struct token_list *out)
{
    enum { PART = 256 };
    static const char space[] = VOCAB_SPACE; /* is a space to the library, too */
    int code = 0;
    for (size_t from = 0; from < n && !code; prefix = false) {
        size_t to = n;
        for (size_t at = from + PART; t->spm_cuts && at < n; at++) {
            if (text[at] == ' ' && text[at - 1] != ' ' && memcmp(text + at - 3, space, 3) != 0) {
                to = at;
                break;
            }
        }
        code =
            spm_encode(prefix ? t->spm_prefix : t->spm_plain, text + from, to - from, take_id, out);
        from = to;
    }
    return code;
}

/* The library wants UTF-8: ill-formed bytes become byte tokens here, what is between them goes to
 * it. The prefix that a text begins with is put before an ill-formed beginning, too. */
static int encode_spm(const struct tokenizer *t, const char *text, size_t n, bool first,
                      struct token_list *out)
{
    bool prefix = first || t->spm_legacy;
    for (size_t from = 0; from < n;) {
        size_t to = well_formed_until(text, from, n);
        int code = 0;
        if (to > from)
            code = encode_cuts(t, text + from, to - from, prefix, out);
        else if (prefix && t->strips_space)
            code = spm_encode(t->spm_plain, " ", 1, take_id, out);
        if (!code && to < n)
            code = add_byte(t, (uint8_t)text[to], out);
        if (code)
            return code == -1 ? ERR_INTERNAL : ERR_NOMEM;
        prefix = false;
        from = to + (to < n);
    }
    return 0;
}

static int encode_segment(struct encoder *e, const char *text, size_t from, size_t to)
{
    if (from >= to)
        return 0;
    return e->t->spm_plain ? encode_spm(e->t, text + from, to - from, from == 0, e->out)
                           : encode_bpe(e, text + from, to - from, from == 0);
}

/* ---- encode */

static size_t skip_spaces(const char *text, size_t at, size_t n)
{
    for (size_t used; (used = normal_space_at(text + at, n - at)) > 0;)
        at += used;
    return at;
}

/* The start of the run of white space that ends at `end`, not before `from`. */
static size_t spaces_before(const char *text, size_t from, size_t end)
{
    for (size_t size = 1; size <= 3 && size <= end - from;) {
        if (normal_space_at(text + end - size, size) == size) {
            end -= size;
            size = 1;
        } else {
            size++;
        }
    }
    return end;
}

/* Whether an added token that wants to be a whole word is one at text[at..end). */
static bool stands_alone(const char *text, size_t n, size_t at, size_t end)
{
    return !normal_word_before(text, at) && !normal_word_at(text + end, n - end);
}

static int encode_text(struct encoder *e, const char *text, size_t n, const struct text_span *spans,
                       size_t n_spans)
{
    const struct vocab *v = &e->t->vocab;
    size_t segment = 0, span = 0;
    for (size_t at = 0; at < n;) {
        if (!may_start(&v->added, text[at])) {
            at++;
            continue;
        }
        while (span < n_spans && spans[span].end <= at)
            span++;
        bool trusted = span < n_spans && spans[span].start <= at;
        int32_t id = vocab_match(v, &v->added, text, n, at, trusted ? spans[span].end : 0);
        if (id < 0) {
            at++;
            continue;
        }
        const struct vocab_token *token = &v->tokens[id];
        if (token->single_word && !stands_alone(text, n, at, at + token->text_size)) {
            at += token->text_size;
            continue;
        }
        size_t end = token->left_strip ? spaces_before(text, segment, at) : at;
        int code = encode_segment(e, text, segment, end);
        if (!code)
            code = token_list_add(e->out, id);
        if (code)
            return code;
        at += token->text_size;
        if (token->right_strip)
            at = skip_spaces(text, at, n);
        segment = at;
    }
    return encode_segment(e, text, segment, n);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                     const struct text_span *spans, size_t n_spans, struct token_list *out,
                     struct err *err)
{
    struct encoder e;
    int code = encoder_init(&e, t, out);
    for (int i = 0; add_special && i < t->n_before && !code; i++)
        code = token_list_add(out, t->before[i]);
    if (!code)
        code = encode_text(&e, text, n, spans, n_spans);
    for (int i = 0; add_special && i < t->n_after && !code; i++)
        code = token_list_add(out, t->after[i]);
    encoder_free(&e);
    return code ? err_set(err, code, "a text of %zu bytes could not be tokenized: %s", n,
                          err_text(code))
                : 0;
}

/* ---- pieces */

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, bool with_special, size_t *size)
{
    const struct vocab_token *token = &t->vocab.tokens[id];
    bool shown = id < t->vocab.n && (with_special || !token->special);
    *size = shown ? token->piece_size : 0;
    return shown ? t->vocab.texts.data + token->piece : "";
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool with_special,
                     bool strip_first, struct buf *out)
{
    bool strip = strip_first && t->strips_space;
    for (size_t i = 0; i < n; i++) {
        size_t size;
        if (ids[i] < 0 || ids[i] >= t->vocab.size_max)
            continue;
        const char *piece = tokenizer_piece(t, ids[i], with_special, &size);
        bool skip = strip && size > 0 && *piece == ' ';
        buf_add(out, piece + skip, size - skip);
        if (size > 0)
            strip = false;
    }
    return out->failed;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.tokens[id].special;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n)
{
    return vocab_find(&t->vocab, text, n);
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    for (int i = 0; i < t->n_before; i++)
        if (t->before[i] == t->bos)
            return true;
    return false;
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->vocab.size_max;
}

int tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->vocab.n;
}

size_t tokenizer_piece_max(const struct tokenizer *t)
{
    return t->vocab.piece_max;
}

const char *tokenizer_kind(const struct tokenizer *t)
{
    return t->kind;
}

const char *tokenizer_token_text(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n ? t->vocab.texts.data + t->vocab.tokens[id].text : "";
}

int tokenizer_mistral_version(const struct tokenizer *t)
{
    return t->mistral_version;
}

const struct tokenizer_efforts *tokenizer_efforts(const struct tokenizer *t)
{
    return &t->efforts;
}

bool tokenizer_is_byte_level(const struct tokenizer *t)
{
    return t->byte_level;
}
