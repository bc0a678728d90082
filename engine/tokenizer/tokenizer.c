/* tokenizer: encoding and decoding: cuts texts at added tokens, adds BOS and EOS, joins pieces.
 *
 * A tokenizer is built by tokenizer_open (open.c) on one thread and immutable after it; encoding
 * and decoding keep their work in the call, so any thread may run them.
 *
 * Encoding: text -> [added token | segment]... -> per segment: steps and bpe.c, or the
 * sentencepiece library -> ids. Special tokens are recognised only inside a trusted span;
 * everywhere else their texts are plain text, and no kind makes a special token of plain text. */
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
    spm_close(t->spm_prefix);
    spm_close(t->spm_plain);
    vocab_free(&t->vocab);
    free(t);
}

/* ---- one segment */

static bool starts_with(const struct buf *text, const char *prefix, size_t n)
{
    return text->size >= n && !memcmp(text->data, prefix, n);
}

static void replace_all(const struct buf *in, const char *from, const char *to, struct buf *out)
{
    size_t n_from = strlen(from), n_to = strlen(to), done = 0;
    while (done < in->size) {
        const char *hit = memmem(in->data + done, in->size - done, from, n_from);
        size_t until = hit ? (size_t)(hit - in->data) : in->size;
        buf_add(out, in->data + done, until - done);
        if (!hit)
            break;
        buf_add(out, to, n_to);
        done = until + n_from;
    }
}

static void run_step(const struct step *step, bool first, const struct buf *in, struct buf *out)
{
    size_t n_to = strlen(step->to);
    bool prepend = step->kind == STEP_PREPEND ||
                   (step->kind == STEP_PREPEND_SPACE &&
                    (first || (step->later && !starts_with(in, step->to, n_to))));
    if (step->kind == STEP_REPLACE) {
        replace_all(in, step->from, step->to, out);
        return;
    }
    if (prepend)
        buf_add(out, step->to, n_to);
    buf_add(out, in->data, in->size);
}

static int encode_bpe(const struct tokenizer *t, const char *text, size_t n, bool first,
                      struct token_list *out)
{
    struct buf work[2];
    buf_init(&work[0], 0);
    buf_init(&work[1], 0);
    buf_add(&work[0], text, n);
    int at = 0;
    for (int i = 0; i < t->n_steps; i++, at = !at) {
        buf_clear(&work[!at]);
        run_step(&t->steps[i], first, &work[at], &work[!at]);
        if (work[at].failed)
            break;
    }
    int code = work[0].failed || work[1].failed
                   ? ERR_NOMEM
                   : bpe_encode(&t->bpe, work[at].data, work[at].size, out);
    buf_free(&work[0]);
    buf_free(&work[1]);
    return code;
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

/* The library wants UTF-8: ill-formed bytes become byte tokens here, what is between them goes to
 * it. The prefix that a text begins with is put before an ill-formed beginning, too. */
static int encode_spm(const struct tokenizer *t, const char *text, size_t n, bool first,
                      struct token_list *out)
{
    bool prefix = first || t->spm_legacy;
    for (size_t from = 0; from < n;) {
        size_t to = from;
        while (to < n) {
            uint32_t character;
            int used = utf8_decode(text + to, n - to, &character);
            if (used <= 0)
                break;
            to += (size_t)used;
        }
        const struct spm *processor = prefix ? t->spm_prefix : t->spm_plain;
        int code = 0;
        if (to > from)
            code = spm_encode(processor, text + from, to - from, take_id, out);
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

static int encode_segment(const struct tokenizer *t, const char *text, size_t from, size_t to,
                          struct token_list *out)
{
    if (from >= to)
        return 0;
    return t->spm_plain ? encode_spm(t, text + from, to - from, from == 0, out)
                        : encode_bpe(t, text + from, to - from, from == 0, out);
}

/* ---- encode */

/* Bytes of the white space character (Unicode's White_Space property) at text[0..n); 0: none. */
static size_t space_at(const char *text, size_t n)
{
    uint32_t c;
    int used = n ? utf8_decode(text, n, &c) : 0;
    if (used <= 0)
        return 0;
    bool space = (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
                 (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
                 c == 0x205F || c == 0x3000;
    return space ? (size_t)used : 0;
}

static size_t skip_spaces(const char *text, size_t at, size_t n)
{
    for (size_t used; (used = space_at(text + at, n - at)) > 0;)
        at += used;
    return at;
}

/* The start of the run of white space that ends at `end`, not before `from`. */
static size_t spaces_before(const char *text, size_t from, size_t end)
{
    for (size_t size = 1; size <= 3 && size <= end - from;) {
        if (space_at(text + end - size, size) == size) {
            end -= size;
            size = 1;
        } else {
            size++;
        }
    }
    return end;
}

static int encode_text(const struct tokenizer *t, const char *text, size_t n,
                       const struct text_span *spans, size_t n_spans, struct token_list *out)
{
    const struct vocab *v = &t->vocab;
    size_t segment = 0, span = 0;
    for (size_t at = 0; at < n;) {
        if (v->added_from[(uint8_t)text[at]] == v->added_from[(uint8_t)text[at] + 1]) {
            at++;
            continue;
        }
        while (span < n_spans && spans[span].end <= at)
            span++;
        bool trusted = span < n_spans && spans[span].start <= at;
        int32_t id = vocab_match(v, text, n, at, trusted ? spans[span].end : 0);
        if (id < 0) {
            at++;
            continue;
        }
        const struct vocab_token *token = &v->tokens[id];
        size_t end = token->left_strip ? spaces_before(text, segment, at) : at;
        int code = encode_segment(t, text, segment, end, out);
        if (!code)
            code = token_list_add(out, id);
        if (code)
            return code;
        at += token->text_size;
        if (token->right_strip)
            at = skip_spaces(text, at, n);
        segment = at;
    }
    return encode_segment(t, text, segment, n, out);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool add_special,
                     const struct text_span *spans, size_t n_spans, struct token_list *out,
                     struct err *err)
{
    int code = 0;
    for (int i = 0; add_special && i < t->n_before && !code; i++)
        code = token_list_add(out, t->before[i]);
    if (!code)
        code = encode_text(t, text, n, spans, n_spans, out);
    for (int i = 0; add_special && i < t->n_after && !code; i++)
        code = token_list_add(out, t->after[i]);
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

bool tokenizer_is_byte_level(const struct tokenizer *t)
{
    return t->byte_level;
}
