/* seq: one sequence. Made on the loop, then the engine thread's alone (seq.h).
 *
 *     SEQ_NEW --sched_add--> WAITING --admit--> RUNNING --sched_finish--> FINISHED
 *                               ^                 |
 *                               |              preempt (blocks given back, computed count 0,
 *                               |                 v      tokens and text kept)
 *                               +---- admit --- PREEMPTED
 *
 * WAITING and PREEMPTED sequences stand in the same queue and may be finished from there as well.
 * tokens[0..n_computed) have their keys and values stored; n_computed < n_tokens while RUNNING.
 *
 * The text: pieces of the generated tokens, joined. SentencePiece vocabularies write the space
 * before a word into the word's piece; the decoder takes it off the first word of a text. Generated
 * text that follows a control token ([/INST], <s>) begins a text, so one leading space of its first
 * piece is dropped (strip_space, set by submit if this tokenizer's decoder does so); after ordinary
 * text it continues that text and every space stays. */
#include "engine/seq.h"

#include <limits.h>
#include <string.h>

#include "engine/base/size.h"

enum { ALIGN = 16 };

static bool add_array(size_t *bytes, size_t count, size_t size)
{
    size_t n;
    return size_mul(count, size, &n) && size_add(n, ALIGN - 1, &n) &&
           size_add(*bytes, n / ALIGN * ALIGN, bytes);
}

static void *take_array(unsigned char **memory, size_t count, size_t size)
{
    void *array = *memory;
    *memory += (count * size + ALIGN - 1) / ALIGN * ALIGN;
    return array;
}

static size_t n_tokens_max(const struct engine_request *r)
{
    return (size_t)r->n_tokens + (size_t)r->max_tokens;
}

static size_t n_blocks_max(const struct engine_request *r, const struct seq_options *o)
{
    return (n_tokens_max(r) + (size_t)o->block_size - 1) / (size_t)o->block_size;
}

static size_t n_stop_ids_max(const struct engine_request *r, const struct seq_options *o)
{
    return (size_t)o->n_eos + (size_t)r->n_stop_token_ids;
}

bool seq_bytes(const struct engine_request *r, const struct seq_options *o, size_t *bytes)
{
    *bytes = 0;
    for (int i = 0; i < r->stops.n; i++)
        if (!add_array(bytes, r->stops.size[i] + 1, 1))
            return false;
    return add_array(bytes, n_tokens_max(r), sizeof(int32_t)) &&
           add_array(bytes, n_blocks_max(r, o), sizeof(int32_t)) &&
           add_array(bytes, n_blocks_max(r, o), sizeof(struct kv_hash)) &&
           add_array(bytes, n_stop_ids_max(r, o), sizeof(int32_t)) &&
           add_array(bytes, (size_t)r->params.n_bias, sizeof(struct sample_bias));
}

static void copy_stops(struct seq *s, const struct stream_stops *from, unsigned char **memory)
{
    for (int i = 0; i < from->n; i++) {
        char *text = take_array(memory, from->size[i] + 1, 1);
        memcpy(text, from->text[i], from->size[i]);
        text[from->size[i]] = 0;
        s->request.stops.text[i] = text;
    }
}

void seq_init(struct seq *s, const struct engine_request *request, const struct seq_options *o,
              void *memory)
{
    unsigned char *at = memory;
    size_t n_blocks = n_blocks_max(request, o);
    *s = (struct seq){.request = *request,
                      .n_tokens = request->n_tokens,
                      .n_prompt = request->n_tokens,
                      .n_tokens_max = (int)n_tokens_max(request),
                      .strip_space = o->strip_space,
                      .state = SEQ_NEW,
                      .item = -1,
                      .n_chunk_max = INT_MAX};
    s->seed = request->params.has_seed ? (uint64_t)request->params.seed : o->seed;
    s->tokens = take_array(&at, n_tokens_max(request), sizeof *s->tokens);
    memcpy(s->tokens, request->tokens, (size_t)request->n_tokens * sizeof *s->tokens);
    s->request.tokens = s->tokens;
    int32_t *blocks = take_array(&at, n_blocks, sizeof *blocks);
    struct kv_hash *hashes = take_array(&at, n_blocks, sizeof *hashes);
    kv_table_init(&s->table, blocks, hashes, (int)n_blocks, request->cache_salt);

    s->stop_ids = take_array(&at, n_stop_ids_max(request, o), sizeof *s->stop_ids);
    s->n_eos = request->ignore_eos ? 0 : o->n_eos;
    for (int i = 0; i < s->n_eos; i++)
        s->stop_ids[s->n_stop_ids++] = o->eos[i];
    for (int i = 0; i < request->n_stop_token_ids; i++)
        s->stop_ids[s->n_stop_ids++] = request->stop_token_ids[i];
    s->request.stop_token_ids = s->stop_ids + s->n_eos;

    size_t n_bias = (size_t)request->params.n_bias;
    s->request.params.bias = take_array(&at, n_bias, sizeof *s->request.params.bias);
    if (n_bias)
        memcpy(s->request.params.bias, request->params.bias,
               n_bias * sizeof *s->request.params.bias);
    copy_stops(s, &request->stops, &at);
    stream_init(&s->stream, NULL, request->include_stop);
}

size_t seq_text_max(const struct engine_request *request, size_t piece_max)
{
    size_t held = request->stops.n ? STREAM_STOP_BYTES_MAX + 8 : 8;
    return 3 * (piece_max + held) + 1;
}

int seq_n_output(const struct seq *s)
{
    return s->n_tokens - s->n_prompt;
}

struct seq_stop seq_append(struct seq *s, int32_t token, const char *piece, size_t piece_size,
                           char *out, size_t *n_out)
{
    struct seq_stop stop = {FINISH_NONE, -1, -1, false};
    CHECK(s->n_tokens < s->n_tokens_max);
    s->tokens[s->n_tokens++] = token;
    bool counts = seq_n_output(s) > s->request.params.min_tokens;
    for (int i = 0; counts && i < s->n_stop_ids; i++) {
        if (s->stop_ids[i] != token)
            continue;
        stop = (struct seq_stop){FINISH_STOP, -1, token, i < s->n_eos};
        if (stop.stop_is_eos || !s->request.show_special)
            piece_size = 0;
        break;
    }
    if (s->strip_space && piece_size) {
        s->strip_space = false;
        if (piece[0] == ' ') {
            piece++;
            piece_size--;
        }
    }
    if (counts && s->request.stops.n)
        s->stream.stops = &s->request.stops;
    *n_out = s->request.special_breaks && !piece_size && stop.finish == FINISH_NONE
                 ? stream_break(&s->stream, out)
                 : stream_add(&s->stream, piece, piece_size, out);
    if (s->stream.stopped && stop.finish == FINISH_NONE)
        stop = (struct seq_stop){FINISH_STOP, s->stream.stop_index, -1, false};
    if (stop.finish == FINISH_NONE && s->n_tokens == s->n_tokens_max)
        stop.finish = FINISH_LENGTH;
    return stop;
}

size_t seq_finish_text(struct seq *s, char *out)
{
    return s->stream.stopped ? 0 : stream_finish(&s->stream, out);
}

bool seq_is_plain_greedy(const struct seq *s)
{
    const struct sample_params *p = &s->request.params;
    return p->temperature == 0 && p->logprobs < 0 && p->n_bias == 0 &&
           p->repetition_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0 &&
           seq_n_output(s) >= p->min_tokens;
}
