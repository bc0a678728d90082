/* mistral_normal: messages merged into turns, as models were trained on them. Neighbours of one
 * role become one turn (tool results and, from version 7 on, system prompts stay apart); texts are
 * joined; before version 7 system prompts leave the row and become one text; JSON is laid out as
 * Python does; from version 11 on results come in the order of their calls. No state. */
#include <stdlib.h>
#include <string.h>

#include "engine/template/json_text.h"
#include "engine/template/mistral_internal.h"

/* The chunks of a merged turn being built: text waits in `text` until another chunk comes. */
struct joiner {
    struct mistral *m;
    struct mistral_message *turn;
    struct buf text;
    int failed;
};

static void joiner_flush(struct joiner *j)
{
    if (!j->text.size)
        return;
    struct mistral_text text = mistral_keep(j->m, &j->text);
    if (!text.data)
        j->failed = mistral_no_memory(j->m);
    j->turn->chunks[j->turn->n_chunks++] = (struct mistral_chunk){MISTRAL_TEXT, text, true};
    buf_clear(&j->text);
}

static void joiner_add(struct joiner *j, const struct mistral_message *message)
{
    const char *between_parts = j->m->version >= 15 ? "" : "\n\n";
    bool new_message = j->text.size > 0;
    for (size_t i = 0; i < message->n_chunks; i++) {
        const struct mistral_chunk *chunk = &message->chunks[i];
        if (chunk->type != MISTRAL_TEXT) {
            joiner_flush(j);
            j->turn->chunks[j->turn->n_chunks++] = *chunk;
            continue;
        }
        if (!chunk->text.n)
            continue;
        if (j->text.size)
            buf_text(&j->text, new_message ? "\n\n" : between_parts);
        buf_add(&j->text, chunk->text.data, chunk->text.n);
        new_message = false;
    }
}

/* Merge the content of messages[0..n) into turn. */
static int join_content(struct mistral *m, const struct mistral_message *messages, size_t n,
                        struct mistral_message *turn)
{
    struct joiner j = {.m = m, .turn = turn};
    size_t n_chunks = 1;
    for (size_t i = 0; i < n; i++)
        n_chunks += 2 * messages[i].n_chunks;
    turn->chunks = arena_array(&m->arena, n_chunks, sizeof *turn->chunks);
    if (!turn->chunks)
        return mistral_no_memory(m);
    buf_init(&j.text, 0);
    for (size_t i = 0; i < n; i++)
        joiner_add(&j, &messages[i]);
    turn->is_list = turn->n_chunks > 0;
    joiner_flush(&j);
    if (j.text.failed)
        j.failed = mistral_no_memory(m);
    buf_free(&j.text);
    return j.failed;
}

/* JSON text in Python's layout; what is no JSON stays as it is; nothing becomes an object. */
static int normal_json(struct mistral *m, struct mistral_text *text)
{
    struct buf laid;
    if (!text->n) {
        *text = (struct mistral_text){"{}", 2};
        return 0;
    }
    buf_init(&laid, 0);
    if (json_text_normal(&laid, text->data, text->n))
        *text = mistral_keep(m, &laid);
    buf_free(&laid);
    return text->data ? 0 : mistral_no_memory(m);
}

static int merge_assistants(struct mistral *m, const struct mistral_message *messages, size_t n)
{
    struct mistral_message *turn = &m->turns[m->n_turns++];
    size_t n_calls = 0;
    int code = join_content(m, messages, n, turn);
    turn->role = MISTRAL_ASSISTANT;
    for (size_t i = 0; i < n; i++) {
        n_calls += messages[i].n_calls;
        turn->prefix = turn->prefix || messages[i].prefix;
    }
    turn->calls = arena_array(&m->arena, n_calls + 1, sizeof *turn->calls);
    if (!turn->calls)
        return mistral_no_memory(m);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < messages[i].n_calls && !code; k++) {
            struct mistral_call *call = &turn->calls[turn->n_calls++];
            *call = messages[i].calls[k];
            code = normal_json(m, &call->arguments);
        }
    return code;
}

/* One turn for each message: tool results, and the system prompts of version 7 and later. */
static int copy_apart(struct mistral *m, const struct mistral_message *messages, size_t n)
{
    int code = 0;
    for (size_t i = 0; i < n && !code; i++) {
        struct mistral_message *turn = &m->turns[m->n_turns++];
        turn->role = messages[i].role;
        turn->call_id = messages[i].call_id;
        turn->name = messages[i].name;
        code = join_content(m, &messages[i], 1, turn);
        if (code || turn->role != MISTRAL_TOOL || m->version >= 7)
            continue;
        turn->chunks[0].type = MISTRAL_TEXT; /* it has one text chunk or none */
        turn->n_chunks = 1;
        code = normal_json(m, &turn->chunks[0].text);
    }
    return code;
}

struct place {
    size_t call, turn; /* what a result answers (SIZE_MAX: nothing), and where it is */
};

static int by_call(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->call != y->call)
        return x->call < y->call ? -1 : 1;
    return (x->turn > y->turn) - (x->turn < y->turn);
}

/* Put the results turns[from..n_turns) in the order of the calls of turns[calls_from..from). */
static int order_results(struct mistral *m, size_t from, size_t calls_from)
{
    size_t n = m->n_turns - from;
    struct mistral_ids ids;
    struct mistral_message *results = m->turns + from;
    struct place *places = arena_array(&m->arena, n + 1, sizeof *places);
    struct mistral_message *moved = arena_array(&m->arena, n + 1, sizeof *moved);
    if (!places || !moved || mistral_ids_init(m, m->turns + calls_from, from - calls_from, &ids))
        return mistral_no_memory(m);
    for (size_t i = 0; i < n; i++)
        places[i] = (struct place){mistral_ids_place(&ids, results[i].call_id), i};
    qsort(places, n, sizeof *places, by_call);
    for (size_t i = 0; i < n; i++)
        moved[i] = results[places[i].turn];
    memcpy(results, moved, n * sizeof *results);
    return 0;
}

static int merge_run(struct mistral *m, const struct mistral_message *messages, size_t n,
                     size_t *calls_from)
{
    size_t from = m->n_turns;
    int code = 0;
    switch (messages[0].role) {
    case MISTRAL_USER:
        m->turns[m->n_turns].role = MISTRAL_USER;
        return join_content(m, messages, n, &m->turns[m->n_turns++]);
    case MISTRAL_ASSISTANT:
        return merge_assistants(m, messages, n);
    case MISTRAL_SYSTEM:
        return m->version >= 7 ? copy_apart(m, messages, n) : 0;
    default:
        code = copy_apart(m, messages, n);
        if (!code && m->version >= 11)
            code = order_results(m, from, *calls_from);
        *calls_from = m->n_turns;
        return code;
    }
}

/* Before version 7: all system prompts as one text. */
static int join_system(struct mistral *m)
{
    struct buf all;
    buf_init(&all, 0);
    for (size_t i = 0; i < m->n_messages; i++) {
        const struct mistral_message *message = &m->messages[i];
        struct mistral_message one = {0};
        bool content = message->is_list ? message->n_chunks > 0
                                        : message->n_chunks && message->chunks[0].text.n;
        if (message->role != MISTRAL_SYSTEM || !content)
            continue;
        if (join_content(m, message, 1, &one)) {
            buf_free(&all);
            return ERR_NOMEM;
        }
        buf_text(&all, m->system_prompt.data ? "\n\n" : "");
        m->system_prompt.data = "";
        if (one.n_chunks)
            buf_add(&all, one.chunks[0].text.data, one.chunks[0].text.n);
    }
    if (m->system_prompt.data)
        m->system_prompt = mistral_keep(m, &all);
    bool failed = all.size && !m->system_prompt.data;
    buf_free(&all);
    return failed ? mistral_no_memory(m) : 0;
}

static int choose_effort(struct mistral *m)
{
    const struct tokenizer_efforts *efforts = tokenizer_efforts(m->tok);
    const char *wanted = json_string_value(json_object_get(m->request, "reasoning_effort"));
    if (efforts->n == 0)
        return 0;
    if (!wanted) {
        m->effort = efforts->standard >= 0 ? efforts->values[efforts->standard] : NULL;
        return 0;
    }
    char names[256] = "";
    size_t used = 0;
    for (int i = 0; i < efforts->n; i++) {
        if (strcmp(efforts->values[i], wanted) == 0)
            m->effort = efforts->values[i];
        used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'", i ? ", " : "",
                                 efforts->values[i]);
    }
    return m->effort
               ? 0
               : mistral_fail(m, "InvalidRequestException",
                              "reasoning_effort should be one of [%s], got %s.", names, wanted);
}

int mistral_normal(struct mistral *m)
{
    size_t calls_from = 0;
    int code = 0;
    m->turns = arena_array(&m->arena, m->n_messages + 2, sizeof *m->turns);
    if (!m->turns)
        return mistral_no_memory(m);
    if (m->version < 7) {
        /* a row begins with a user: an empty one unless it does */
        size_t first = 0;
        while (first < m->n_messages && m->messages[first].role == MISTRAL_SYSTEM)
            first++;
        if (first == m->n_messages || m->messages[first].role != MISTRAL_USER)
            m->turns[m->n_turns++].role = MISTRAL_USER;
        code = join_system(m);
    }
    for (size_t i = 0, end; i < m->n_messages && !code; i = end) {
        for (end = i + 1; end < m->n_messages && m->messages[end].role == m->messages[i].role;)
            end++;
        code = merge_run(m, m->messages + i, end - i, &calls_from);
    }
    return !code && m->version >= 15 ? choose_effort(m) : code;
}
