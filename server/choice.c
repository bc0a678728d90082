/* choice: gathers what one sequence produced and writes it as OpenAI's objects. Loop thread. This
 * is the per-token path: it appends to buffers that keep their memory, and nothing else. */
#include "server/choice.h"

#include <math.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "server/openai.h"

void choice_init(struct choice *c, int index, bool want_logprobs, bool want_ids, size_t bytes_max)
{
    memset(c, 0, sizeof *c);
    c->index = index;
    c->want_logprobs = want_logprobs;
    c->want_ids = want_ids;
    c->stop_index = c->stop_token = -1;
    buf_init(&c->text, bytes_max);
    buf_init(&c->reasoning, bytes_max);
    buf_init(&c->calls, bytes_max);
    buf_init(&c->arguments, bytes_max);
    buf_init(&c->entries, bytes_max);
    buf_init(&c->values, bytes_max);
    buf_init(&c->tops, bytes_max);
    buf_init(&c->offsets, bytes_max);
    buf_init(&c->ids, bytes_max);
}

void choice_free(struct choice *c)
{
    buf_free(&c->text);
    toolcall_close(c->parser);
    buf_free(&c->reasoning);
    buf_free(&c->calls);
    buf_free(&c->arguments);
    buf_free(&c->entries);
    buf_free(&c->values);
    buf_free(&c->tops);
    buf_free(&c->offsets);
    buf_free(&c->ids);
}

int choice_failed(const struct choice *c)
{
    const struct buf *bufs[] = {&c->text,   &c->reasoning, &c->calls,   &c->arguments, &c->entries,
                                &c->values, &c->tops,      &c->offsets, &c->ids};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++)
        if (bufs[i]->failed)
            return bufs[i]->failed;
    return c->parser ? toolcall_failed(c->parser) : 0;
}

int64_t choice_characters(const char *text, size_t n)
{
    int64_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80; /* not a continuation byte */
    return count;
}

/* JSON has no -inf: OpenAI writes -9999.0 for "very unlikely". NaN: there is none (null). */
static void write_logprob(struct buf *out, float logprob)
{
    if (isnan(logprob))
        buf_text(out, "null");
    else
        buf_json_float(out, logprob > -9999.0f ? logprob : -9999.0f);
}

static void comma(struct buf *out)
{
    if (out->size)
        buf_byte(out, ',');
}

/* "token":"..","logprob":..,"bytes":[..]. A special token that the text leaves out (EOS) has no
 * bytes: those of all tokens joined are the text. */
static void write_entry(struct buf *out, const struct tokenizer *tok, int32_t token, float logprob,
                        bool show_special)
{
    size_t n;
    const char *piece = tokenizer_piece(tok, token, true, &n);
    buf_text(out, "\"token\":");
    buf_json_string(out, piece, n);
    buf_text(out, ",\"logprob\":");
    write_logprob(out, logprob);
    if (!show_special && tokenizer_is_special(tok, token)) {
        buf_text(out, ",\"bytes\":null");
        return;
    }
    buf_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        buf_format(out, i ? ",%d" : "%d", (unsigned char)piece[i]);
    buf_byte(out, ']');
}

static void add_chat(struct choice *c, const struct tokenizer *tok, const struct event *event)
{
    struct buf *out = &c->entries;
    comma(out);
    buf_byte(out, '{');
    write_entry(out, tok, event->token, event->logprob, c->show_special);
    buf_text(out, ",\"top_logprobs\":[");
    for (int i = 0; i < event->n_top; i++) {
        buf_text(out, i ? ",{" : "{");
        write_entry(out, tok, event->top[i].token, event->top[i].logprob, c->show_special);
        buf_byte(out, '}');
    }
    buf_text(out, "]}");
}

/* A token's name in the legacy shape: its text or, where its bytes are no whole characters,
 * OpenAI's "bytes:\xe2\x80": distinct tokens then have distinct names in one map. */
static void write_legacy_name(struct buf *out, const char *piece, size_t n)
{
    if (utf8_valid(piece, n)) {
        buf_json_string(out, piece, n);
        return;
    }
    buf_text(out, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        buf_format(out, "\\\\x%02x", (unsigned char)piece[i]);
    buf_byte(out, '"');
}

struct legacy_names { /* names already in one map; keys of an object must differ */
    const char *piece[SAMPLE_TOP_MAX + 1];
    size_t size[SAMPLE_TOP_MAX + 1];
    int n;
};

static void add_legacy_top(struct buf *out, struct legacy_names *names, const struct tokenizer *tok,
                           int32_t token, float logprob)
{
    size_t n;
    const char *piece = tokenizer_piece(tok, token, true, &n);
    for (int i = 0; i < names->n; i++)
        if (names->size[i] == n && !memcmp(names->piece[i], piece, n))
            return;
    if (names->n)
        buf_byte(out, ',');
    names->piece[names->n] = piece;
    names->size[names->n++] = n;
    write_legacy_name(out, piece, n);
    buf_byte(out, ':');
    write_logprob(out, logprob);
}

static void add_legacy(struct choice *c, const struct tokenizer *tok, const struct event *event)
{
    struct legacy_names names = {.n = 0};
    size_t n;
    const char *piece = tokenizer_piece(tok, event->token, true, &n);
    comma(&c->entries);
    write_legacy_name(&c->entries, piece, n);
    comma(&c->values);
    write_logprob(&c->values, event->logprob);
    comma(&c->offsets);
    buf_format(&c->offsets, "%lld", (long long)c->offset);
    comma(&c->tops);
    if (isnan(event->logprob)) { /* the first of the prompt */
        buf_text(&c->tops, "null");
        return;
    }
    buf_byte(&c->tops, '{');
    for (int i = 0; i < event->n_top; i++)
        add_legacy_top(&c->tops, &names, tok, event->top[i].token, event->top[i].logprob);
    add_legacy_top(&c->tops, &names, tok, event->token, event->logprob);
    buf_byte(&c->tops, '}');
}

void choice_add_token(struct choice *c, enum choice_shape shape, const struct tokenizer *tok,
                      const struct event *event, const char *shown, size_t n_shown)
{
    if (event->kind == EVENT_TOKEN) {
        c->n_tokens++;
        if (c->want_ids) {
            comma(&c->ids);
            buf_format(&c->ids, "%d", event->token);
        }
    }
    if (!c->want_logprobs)
        return;
    if (shape == CHOICE_CHAT) {
        add_chat(c, tok, event);
        return;
    }
    add_legacy(c, tok, event);
    c->offset += choice_characters(shown, n_shown);
}

void choice_add_end(struct choice *c, const struct event *event)
{
    c->done = true;
    c->finish = event->finish;
    c->stop_index = event->stop_index;
    c->stop_token = event->stop_is_eos ? -1 : event->stop_token;
    c->usage = event->usage;
}

void choice_write_logprobs(struct choice *c, enum choice_shape shape, bool whole, struct buf *out)
{
    if (!c->want_logprobs || (!whole && !c->entries.size)) {
        buf_text(out, "null");
        return;
    }
    buf_text(out, shape == CHOICE_CHAT ? "{\"content\":[" : "{\"tokens\":[");
    buf_add(out, c->entries.data, c->entries.size);
    if (shape == CHOICE_CHAT) {
        /* the specification allows null in a whole answer, and in a chunk only by an attribute that
         * not every validator reads */
        buf_text(out, whole ? "],\"refusal\":null}" : "],\"refusal\":[]}");
    } else {
        buf_text(out, "],\"token_logprobs\":[");
        buf_add(out, c->values.data, c->values.size);
        buf_text(out, "],\"top_logprobs\":[");
        buf_add(out, c->tops.data, c->tops.size);
        buf_text(out, "],\"text_offset\":[");
        buf_add(out, c->offsets.data, c->offsets.size);
        buf_text(out, "]}");
    }
    buf_clear(&c->entries);
    buf_clear(&c->values);
    buf_clear(&c->tops);
    buf_clear(&c->offsets);
}

void choice_write_ids(struct choice *c, struct buf *out)
{
    buf_byte(out, '[');
    buf_add(out, c->ids.data, c->ids.size);
    buf_byte(out, ']');
    buf_clear(&c->ids);
}

void choice_write_end(const struct choice *c, const struct stream_stops *stops, struct buf *out)
{
    buf_format(out, "\"finish_reason\":\"%s\",\"stop_reason\":",
               c->finish_word ? c->finish_word : openai_finish(c->finish));
    if (c->finish == FINISH_STOP && c->stop_index >= 0 && c->stop_index < stops->n)
        buf_json_string(out, stops->text[c->stop_index], stops->size[c->stop_index]);
    else if (c->finish == FINISH_STOP && c->stop_token >= 0)
        buf_format(out, "%d", c->stop_token);
    else
        buf_text(out, "null");
}
