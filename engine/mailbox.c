/* mailbox: what crosses threads (mailbox.h). Functions of the loop's side run on the loop, those of
 * the engine's side on the engine's thread, mailbox_stats anywhere.
 *
 * Who guards what:
 *   lock         inbox, the list of channels with news and their `listed`, sleep and wake-up
 *   stats_lock   the snapshot
 *   ring         single producer (engine), single consumer (loop): `tail` is stored by the producer
 *                after the bytes, `head` by the consumer after it copied them out
 *   cancelled    only ever set
 *
 * The engine writes a step's events behind `written` and shows them, under the lock, in one flush:
 * a terminal event becomes visible when the engine is done with the channel, and mailbox_release
 * takes the lock before it frees, so neither side can meet a freed channel.
 *
 * No wake-up is lost: every act of the loop that may mean work counts `ticket` up before it looks
 * whether the engine sleeps, and the engine sleeps only if, under the lock, the ticket it took
 * before looking for work is still the current one. For room in a ring, `starved` stands in for
 * that: the engine sets it, then looks at `head` again; the loop moves `head`, then looks at
 * `starved` (all sequentially consistent, so one of them sees the other). */
#include "engine/mailbox.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/size.h"

enum {
    ALIGN = 16,
    RING_BYTES_MIN = 4096,
    RING_EVENTS_MIN = 8 /* events of the largest size that fit at least */
};

/* What stands in a ring: this, n_top alternatives, a struct ending if terminal, the text. */
struct record {
    uint32_t bytes; /* all of it */
    uint8_t kind, n_top;
    int32_t token;
    float logprob;
    uint32_t text_size;
};

struct ending {
    enum finish_reason finish;
    int stop_index;
    int32_t stop_token;
    bool stop_is_eos;
    struct engine_usage usage;
    int error;
    char error_text[160];
};

struct channel {
    struct mailbox *mailbox;
    void *user;
    struct seq seq;
    atomic_bool cancelled;
    atomic_bool starved;

    /* engine */
    struct channel *touched_next;
    bool touched, ended;
    size_t written;

    /* under the lock */
    struct channel *inbox_next;
    struct channel *news_prev, *news_next;
    bool listed;

    /* loop */
    bool submitted, over; /* over: the terminal event was taken */

    atomic_size_t head, tail; /* bytes since the start; the place is their remainder */
    size_t ring_bytes;        /* a power of two */
    size_t event_bytes_max, ending_bytes_max;
    unsigned char *ring, *arrays;
    char *text; /* [text_max + 1] of the event last taken */
    size_t text_max;
};

struct mailbox {
    pthread_mutex_t lock, stats_lock;
    pthread_cond_t awake;
    void (*wake)(void *user);
    void *user;
    struct channel *inbox, *inbox_last;
    struct channel *news, *news_last;
    struct channel *touched; /* engine */
    bool asleep;             /* under the lock */
    int n_channels;          /* loop */
    atomic_int n_live;
    atomic_bool stopping, dead;
    atomic_uint_fast64_t ticket;
    struct engine_stats stats;
};

int mailbox_open(void (*wake)(void *user), void *user, struct mailbox **out)
{
    pthread_condattr_t attributes;
    struct mailbox *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return ERR_NOMEM;
    m->wake = wake;
    m->user = user;
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->stats_lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&m->awake, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = m;
    return 0;
}

void mailbox_close(struct mailbox *m)
{
    if (!m)
        return;
    CHECK(m->n_channels == 0);
    pthread_cond_destroy(&m->awake);
    pthread_mutex_destroy(&m->stats_lock);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- channels */

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t event_bytes(int n_top, size_t text_size)
{
    return sizeof(struct record) + (size_t)n_top * sizeof(struct sample_top) + text_size;
}

struct channel *mailbox_channel(struct mailbox *m, const struct mailbox_sizes *sizes, void *user)
{
    size_t event_max = event_bytes(sizes->n_top_max, sizes->text_max);
    size_t ending_max = event_bytes(0, sizes->text_max) + sizeof(struct ending);
    size_t ring = RING_BYTES_MIN, bytes;
    if (sizes->text_max > INT_MAX / RING_EVENTS_MIN)
        return NULL;
    while (ring < RING_EVENTS_MIN * event_max + ending_max)
        ring *= 2;
    size_t own = aligned(sizeof(struct channel)), text = aligned(sizes->text_max + 1);
    if (!size_add(own + ring + text, sizes->seq_bytes, &bytes))
        return NULL;
    unsigned char *memory = malloc(bytes);
    if (!memory)
        return NULL;
    struct channel *c = (struct channel *)memory;
    memset(c, 0, sizeof *c);
    c->mailbox = m;
    c->user = user;
    c->ring_bytes = ring;
    c->event_bytes_max = event_max;
    c->ending_bytes_max = ending_max;
    c->text_max = sizes->text_max;
    c->ring = memory + own;
    c->text = (char *)c->ring + ring;
    c->arrays = c->ring + ring + text;
    atomic_init(&c->cancelled, false);
    atomic_init(&c->starved, false);
    atomic_init(&c->head, 0);
    atomic_init(&c->tail, 0);
    m->n_channels++;
    return c;
}

struct seq *mailbox_seq(struct channel *c)
{
    return &c->seq;
}

void *mailbox_arrays(struct channel *c)
{
    return c->arrays;
}

void mailbox_discard(struct channel *c)
{
    CHECK(!c->submitted);
    c->mailbox->n_channels--;
    free(c);
}

/* ---- waking the engine */

static void rouse(struct mailbox *m)
{
    atomic_fetch_add(&m->ticket, 1);
    pthread_mutex_lock(&m->lock);
    bool asleep = m->asleep;
    pthread_mutex_unlock(&m->lock);
    if (asleep)
        pthread_cond_signal(&m->awake);
}

uint64_t mailbox_ticket(struct mailbox *m)
{
    return atomic_load(&m->ticket);
}

void mailbox_wait(struct mailbox *m, uint64_t ticket, int timeout_ms)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += timeout_ms % 1000 * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
    }
    pthread_mutex_lock(&m->lock);
    m->asleep = true;
    while (atomic_load(&m->ticket) == ticket && rc != ETIMEDOUT)
        rc = timeout_ms < 0 ? pthread_cond_wait(&m->awake, &m->lock)
                            : pthread_cond_timedwait(&m->awake, &m->lock, &until);
    m->asleep = false;
    pthread_mutex_unlock(&m->lock);
}

void mailbox_stop(struct mailbox *m)
{
    atomic_store(&m->stopping, true);
    rouse(m);
}

bool mailbox_stopping(struct mailbox *m)
{
    return atomic_load(&m->stopping);
}

/* ---- inbox and cancel */

int mailbox_submit(struct channel *c, int n_live_max)
{
    struct mailbox *m = c->mailbox;
    CHECK(!c->submitted);
    if (atomic_load(&m->dead))
        return ERR_DEAD;
    /* only the loop counts up, so the bound can not be passed between the two lines */
    if (atomic_load(&m->n_live) >= n_live_max)
        return ERR_FULL;
    atomic_fetch_add(&m->n_live, 1);
    c->submitted = true;
    c->seq.channel = c;
    pthread_mutex_lock(&m->lock);
    *(m->inbox ? &m->inbox_last->inbox_next : &m->inbox) = c;
    m->inbox_last = c;
    pthread_mutex_unlock(&m->lock);
    rouse(m);
    return 0;
}

struct seq *mailbox_take(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    struct channel *c = m->inbox;
    m->inbox = m->inbox_last = NULL;
    pthread_mutex_unlock(&m->lock);
    struct seq *first = c ? &c->seq : NULL;
    for (; c; c = c->inbox_next)
        c->seq.next = c->inbox_next ? &c->inbox_next->seq : NULL;
    return first;
}

void mailbox_cancel(struct channel *c)
{
    if (!atomic_exchange(&c->cancelled, true))
        rouse(c->mailbox);
}

bool mailbox_cancelled(const struct channel *c)
{
    return atomic_load(&c->cancelled);
}

/* ---- the ring */

int mailbox_room(struct channel *c)
{
    size_t keep = c->ring_bytes - c->ending_bytes_max;
    size_t used = c->written - atomic_load(&c->head);
    size_t n = used > keep ? 0 : (keep - used) / c->event_bytes_max;
    if (!n && !atomic_load(&c->starved)) {
        atomic_store(&c->starved, true);
        return mailbox_room(c); /* the reader may have moved before it could see the flag */
    }
    if (n && atomic_load(&c->starved))
        atomic_store(&c->starved, false);
    return (int)n;
}

static void ring_write(struct channel *c, const void *bytes, size_t n)
{
    size_t at = c->written & (c->ring_bytes - 1), first = c->ring_bytes - at;
    if (first > n)
        first = n;
    if (n) {
        memcpy(c->ring + at, bytes, first);
        memcpy(c->ring, (const unsigned char *)bytes + first, n - first);
    }
    c->written += n;
}

static void ring_read(const struct channel *c, size_t *from, void *bytes, size_t n)
{
    size_t at = *from & (c->ring_bytes - 1), first = c->ring_bytes - at;
    if (first > n)
        first = n;
    if (n) {
        memcpy(bytes, c->ring + at, first);
        memcpy((unsigned char *)bytes + first, c->ring, n - first);
    }
    *from += n;
}

static bool is_terminal(enum event_kind kind)
{
    return kind == EVENT_DONE || kind == EVENT_FAILED;
}

void mailbox_put(struct channel *c, const struct event *event)
{
    bool terminal = is_terminal(event->kind);
    struct record record = {.kind = (uint8_t)event->kind, .n_top = (uint8_t)event->n_top,
                            .token = event->token, .logprob = event->logprob,
                            .text_size = (uint32_t)event->text_size};
    size_t n = event_bytes(event->n_top, event->text_size) +
               (terminal ? sizeof(struct ending) : 0);
    size_t left = c->ring_bytes - (c->written - atomic_load(&c->head));
    CHECK(!c->ended && event->text_size <= c->text_max);
    CHECK(n <= (terminal ? c->ending_bytes_max : c->event_bytes_max));
    CHECK(n + (terminal ? 0 : c->ending_bytes_max) <= left);
    record.bytes = (uint32_t)n;
    ring_write(c, &record, sizeof record);
    ring_write(c, event->top, (size_t)event->n_top * sizeof *event->top);
    if (terminal) {
        struct ending ending;
        memset(&ending, 0, sizeof ending); /* padding too: it is copied as bytes */
        ending.finish = event->finish;
        ending.stop_index = event->stop_index;
        ending.stop_token = event->stop_token;
        ending.stop_is_eos = event->stop_is_eos;
        ending.usage = event->usage;
        ending.error = event->error;
        memcpy(ending.error_text, event->error_text, sizeof ending.error_text);
        ring_write(c, &ending, sizeof ending);
        c->ended = true;
    }
    ring_write(c, event->text, event->text_size);
    if (!c->touched) {
        c->touched = true;
        c->touched_next = c->mailbox->touched;
        c->mailbox->touched = c;
    }
}

/* Under the lock. */
static void news_add(struct mailbox *m, struct channel *c)
{
    if (c->listed)
        return;
    c->listed = true;
    c->news_next = NULL;
    c->news_prev = m->news_last;
    *(m->news_last ? &m->news_last->news_next : &m->news) = c;
    m->news_last = c;
}

static void news_remove(struct mailbox *m, struct channel *c)
{
    if (!c->listed)
        return;
    c->listed = false;
    *(c->news_prev ? &c->news_prev->news_next : &m->news) = c->news_next;
    *(c->news_next ? &c->news_next->news_prev : &m->news_last) = c->news_prev;
}

void mailbox_flush(struct mailbox *m)
{
    struct channel *next;
    if (!m->touched)
        return;
    pthread_mutex_lock(&m->lock);
    bool was_empty = !m->news;
    for (struct channel *c = m->touched; c; c = next) {
        next = c->touched_next;
        c->touched = false;
        news_add(m, c);
        if (c->ended) /* first, so that who reads the ending may submit the next one */
            atomic_fetch_sub(&m->n_live, 1);
        atomic_store(&c->tail, c->written); /* from here on c may be gone once the lock is free */
    }
    m->touched = NULL;
    pthread_mutex_unlock(&m->lock);
    if (was_empty && m->wake)
        m->wake(m->user);
}

struct channel *mailbox_poll(struct mailbox *m, void **user)
{
    pthread_mutex_lock(&m->lock);
    struct channel *c = m->news;
    if (c)
        news_remove(m, c);
    pthread_mutex_unlock(&m->lock);
    if (c && user)
        *user = c->user;
    return c;
}

int mailbox_next(struct channel *c, struct event *event)
{
    struct record record;
    struct ending ending = {.stop_index = -1, .stop_token = -1};
    size_t from = atomic_load_explicit(&c->head, memory_order_relaxed);
    if (c->over || from == atomic_load(&c->tail))
        return 0;
    memset(event, 0, sizeof *event);
    ring_read(c, &from, &record, sizeof record);
    ring_read(c, &from, event->top, record.n_top * sizeof *event->top);
    if (is_terminal(record.kind))
        ring_read(c, &from, &ending, sizeof ending);
    ring_read(c, &from, c->text, record.text_size);
    c->text[record.text_size] = 0;
    event->kind = record.kind;
    event->token = record.token;
    event->logprob = record.logprob;
    event->n_top = record.n_top;
    event->text = c->text;
    event->text_size = record.text_size;
    event->finish = ending.finish;
    event->stop_index = ending.stop_index;
    event->stop_token = ending.stop_token;
    event->stop_is_eos = ending.stop_is_eos;
    event->usage = ending.usage;
    event->error = ending.error;
    memcpy(event->error_text, ending.error_text, sizeof event->error_text);
    c->over = is_terminal(record.kind);
    atomic_store(&c->head, from);
    if (!c->over && atomic_load(&c->starved))
        rouse(c->mailbox);
    return 1;
}

void mailbox_release(struct channel *c)
{
    struct mailbox *m = c->mailbox;
    CHECK(c->over);
    pthread_mutex_lock(&m->lock);
    news_remove(m, c);
    pthread_mutex_unlock(&m->lock);
    m->n_channels--;
    free(c);
}

/* ---- statistics and death */

void mailbox_publish(struct mailbox *m, const struct engine_stats *stats)
{
    pthread_mutex_lock(&m->stats_lock);
    m->stats = *stats;
    pthread_mutex_unlock(&m->stats_lock);
}

void mailbox_stats(struct mailbox *m, struct engine_stats *out)
{
    pthread_mutex_lock(&m->stats_lock);
    *out = m->stats;
    pthread_mutex_unlock(&m->stats_lock);
}

void mailbox_die(struct mailbox *m)
{
    atomic_store(&m->dead, true);
    if (m->wake)
        m->wake(m->user);
}
