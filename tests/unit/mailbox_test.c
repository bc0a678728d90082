/* mailbox_test: rings, endings, wake-ups and release, with both sides on threads of their own. Also
 * the test to run under ThreadSanitizer. */
#include "engine/mailbox.h"

#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/test.h"

static int n_wakes;

static void count_wake(void *user)
{
    (void)user;
    n_wakes++;
}

static struct channel *make(struct mailbox *m, int n_top, void *user)
{
    static const int32_t tokens[] = {1, 2, 3};
    struct engine_request r = {.tokens = tokens, .n_tokens = 3, .max_tokens = 4,
                               .prompt_logprobs = -1};
    struct seq_options so = {.block_size = 16};
    struct mailbox_sizes sizes = {.text_max = 64, .n_top_max = n_top};
    sample_params_init(&r.params);
    EXPECT(seq_bytes(&r, &so, &sizes.seq_bytes));
    struct channel *c = mailbox_channel(m, &sizes, user);
    seq_init(mailbox_seq(c), &r, &so, mailbox_arrays(c));
    return c;
}

static void put_token(struct channel *c, int32_t token, const char *text, int n_top)
{
    struct event e = {.kind = EVENT_TOKEN, .token = token, .logprob = (float)-token,
                      .text = text, .text_size = strlen(text), .n_top = n_top};
    for (int i = 0; i < n_top; i++)
        e.top[i] = (struct sample_top){token + i, (float)i};
    mailbox_put(c, &e);
}

static void put_done(struct channel *c)
{
    struct event e = {.kind = EVENT_DONE, .text = "end", .text_size = 3, .finish = FINISH_STOP,
                      .stop_index = 3, .stop_token = 7, .stop_is_eos = true,
                      .usage = {.prompt_tokens = 3, .first_token_ms = 1.5}};
    mailbox_put(c, &e);
}

TEST(events_come_out_as_they_went_in)
{
    struct mailbox *m;
    struct event e;
    void *user = NULL;
    int mine;
    EXPECT_INT(mailbox_open(count_wake, NULL, &m), 0);
    struct channel *c = make(m, 20, &mine);
    EXPECT_INT(mailbox_submit(c, 1), 0);
    EXPECT(mailbox_take(m) == mailbox_seq(c));
    EXPECT(mailbox_take(m) == NULL);
    put_token(c, 5, "five", 20);
    put_token(c, 6, "", 0);
    EXPECT_INT(mailbox_next(c, &e), 0); /* not before the flush */
    EXPECT(mailbox_poll(m, &user) == NULL);
    n_wakes = 0;
    mailbox_flush(m);
    put_done(c);
    mailbox_flush(m);
    EXPECT_INT(n_wakes, 1); /* the list was not empty the second time */
    EXPECT(mailbox_poll(m, &user) == c && user == &mine);
    EXPECT(mailbox_poll(m, &user) == NULL);
    EXPECT_INT(mailbox_next(c, &e), 1);
    EXPECT_INT(e.token, 5);
    EXPECT_STR(e.text, "five");
    EXPECT_INT(e.n_top, 20);
    EXPECT_INT(e.top[19].token, 24);
    EXPECT_INT(mailbox_next(c, &e), 1);
    EXPECT_STR(e.text, "");
    EXPECT_INT(mailbox_next(c, &e), 1);
    EXPECT_INT(e.kind, EVENT_DONE);
    EXPECT_INT(e.stop_index, 3);
    EXPECT_INT(e.stop_token, 7);
    EXPECT(e.stop_is_eos);
    EXPECT_NEAR(e.usage.first_token_ms, 1.5, 0);
    EXPECT_STR(e.text, "end");
    EXPECT_INT(mailbox_next(c, &e), 0);
    mailbox_release(c);
    mailbox_close(m);
}

TEST(a_full_ring_has_room_for_the_ending_and_starts_again)
{
    struct mailbox *m;
    struct event e;
    char text[65];
    int n_put = 0, n_read = 0;
    memset(text, 'x', 64);
    text[64] = 0;
    EXPECT_INT(mailbox_open(count_wake, NULL, &m), 0);
    struct channel *c = make(m, 0, NULL);
    EXPECT_INT(mailbox_submit(c, 1), 0);
    mailbox_take(m);
    for (int round = 0; round < 50; round++) { /* around the ring's end many times */
        while (mailbox_room(c))
            put_token(c, n_put++, text, 0);
        mailbox_flush(m);
        for (int i = 0; i < 1 + round % 30 && mailbox_next(c, &e); i++) {
            EXPECT_INT(e.token, n_read++);
            EXPECT_STR(e.text, text);
        }
    }
    EXPECT(n_put > 300);
    while (mailbox_room(c))
        put_token(c, n_put++, text, 0);
    put_done(c);
    mailbox_flush(m);
    while (mailbox_next(c, &e) && e.kind == EVENT_TOKEN)
        EXPECT_INT(e.token, n_read++);
    EXPECT_INT(e.kind, EVENT_DONE);
    EXPECT_INT(n_read, n_put);
    mailbox_release(c);
    mailbox_close(m);
}

TEST(live_channels_are_bounded_and_death_refuses)
{
    struct mailbox *m;
    struct event e;
    EXPECT_INT(mailbox_open(count_wake, NULL, &m), 0);
    struct channel *a = make(m, 0, NULL), *b = make(m, 0, NULL);
    EXPECT_INT(mailbox_submit(a, 1), 0);
    EXPECT_INT(mailbox_submit(b, 1), ERR_FULL);
    mailbox_take(m);
    put_done(a);
    mailbox_flush(m);
    EXPECT_INT(mailbox_submit(b, 1), 0);
    EXPECT_INT(mailbox_next(a, &e), 1);
    mailbox_release(a); /* while it is still on the list of news */
    EXPECT(mailbox_poll(m, NULL) == NULL);
    mailbox_take(m);
    mailbox_die(m);
    a = make(m, 0, NULL);
    EXPECT_INT(mailbox_submit(a, 9), ERR_DEAD);
    mailbox_discard(a);
    put_done(b);
    mailbox_flush(m);
    EXPECT_INT(mailbox_next(b, &e), 1);
    mailbox_release(b);
    mailbox_close(m);
}

/* ---- both sides at once */

enum { CHANNELS = 400, TOKENS = 300, LIVE_MAX = 32 };

struct both {
    struct mailbox *m;
    sem_t news;
    uint64_t n_sleeps;
};

static void post(void *user)
{
    sem_post(&((struct both *)user)->news);
}

/* An engine that sends TOKENS numbered events to everyone, or an early ending when cancelled. */
static void *echo(void *user)
{
    struct both *b = user;
    struct seq *live[LIVE_MAX];
    int n_live = 0;
    while (!mailbox_stopping(b->m)) {
        uint64_t ticket = mailbox_ticket(b->m);
        struct engine_stats stats = {.running = n_live};
        bool worked = false;
        for (struct seq *s = mailbox_take(b->m), *next; s; s = next) {
            next = s->next;
            live[n_live++] = s;
        }
        for (int i = n_live; i-- > 0;) {
            struct seq *s = live[i];
            if (mailbox_cancelled(s->channel) || s->n_prompt_sent == TOKENS) {
                put_done(s->channel);
                live[i] = live[--n_live];
            } else if (mailbox_room(s->channel)) {
                put_token(s->channel, s->n_prompt_sent, "some text", s->n_prompt_sent % 3);
                s->n_prompt_sent++;
            } else {
                continue;
            }
            worked = true;
        }
        mailbox_flush(b->m);
        mailbox_publish(b->m, &stats);
        if (!worked) {
            b->n_sleeps++;
            mailbox_wait(b->m, ticket, -1); /* a lost wake-up would hang the test */
        }
    }
    return NULL;
}

struct reading {
    int n_read;
    bool cancelled, over;
};

static void read_channel(struct channel *c, struct reading *r, int most)
{
    struct event e;
    while (most-- > 0 && mailbox_next(c, &e)) {
        if (e.kind == EVENT_TOKEN) {
            EXPECT_INT(e.token, r->n_read++);
            EXPECT_STR(e.text, "some text");
        } else {
            EXPECT(r->cancelled || r->n_read == TOKENS);
            r->over = true;
            mailbox_release(c);
            return;
        }
    }
}

TEST_SECONDS(two_threads_lose_nothing, 120)
{
    struct both b = {0};
    pthread_t thread;
    static struct reading readings[CHANNELS];
    static struct channel *channels[CHANNELS];
    int n_made = 0, n_over = 0;
    unsigned random = 1;
    struct engine_stats stats;
    sem_init(&b.news, 0, 0);
    EXPECT_INT(mailbox_open(post, &b, &b.m), 0);
    EXPECT_INT(pthread_create(&thread, NULL, echo, &b), 0);
    while (n_over < CHANNELS) {
        void *user;
        while (n_made < CHANNELS && n_made - n_over < LIVE_MAX) {
            struct channel *c = make(b.m, 2, &readings[n_made]);
            EXPECT_INT(mailbox_submit(c, LIVE_MAX), 0);
            channels[n_made++] = c;
        }
        struct timespec soon = {0, 200000};
        if (sem_trywait(&b.news))
            nanosleep(&soon, NULL); /* long enough for rings to fill and the engine to sleep */
        for (struct channel *c; (c = mailbox_poll(b.m, &user));) {
            struct reading *r = user;
            bool was_over = r->over;
            read_channel(c, r, (int)((random = random * 1664525 + 1013904223) >> 24));
            n_over += r->over && !was_over;
        }
        for (int i = 0; i < n_made; i++) { /* what was left unread, on our own initiative */
            struct reading *r = &readings[i];
            if (r->over)
                continue;
            if ((random = random * 1664525 + 1013904223) >> 22 == 0) {
                r->cancelled = true;
                mailbox_cancel(channels[i]);
            }
            read_channel(channels[i], r, 20);
            n_over += r->over;
        }
        mailbox_stats(b.m, &stats);
    }
    mailbox_stop(b.m);
    pthread_join(thread, NULL);
    EXPECT(b.n_sleeps > 0);
    EXPECT(mailbox_poll(b.m, NULL) == NULL);
    mailbox_close(b.m);
    sem_destroy(&b.news);
}
