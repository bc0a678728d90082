/* mailbox: all that crosses threads between the loop and the engine: the inbox, one ring of events
 * per request, the list of rings with news, cancel flags, the snapshot of statistics. The only file
 * of engine/ with locks and atomics; both sides call it and see none of them.
 *
 * A channel is one request's way through: one allocation that holds the ring, the reader's copy of
 * one event's text, and the sequence with its arrays. The sequence is the engine's from
 * mailbox_submit until mailbox_flush has made its terminal event visible. */
#ifndef SIROCCO_MAILBOX_H
#define SIROCCO_MAILBOX_H

#include "engine/engine.h"
#include "engine/seq.h"

struct mailbox; /* opaque */

/* wake is called on the engine's thread, outside any lock, when the list of channels with news goes
 * from empty to non-empty: at most once per flush. ERR_NOMEM. */
int mailbox_open(void (*wake)(void *user), void *user, struct mailbox **out);
void mailbox_close(struct mailbox *m); /* NULL allowed; no channel may be left (CHECKed) */

/* ---- the loop's side */

struct mailbox_sizes {
    size_t seq_bytes; /* of the sequence's arrays (seq_bytes) */
    size_t text_max;  /* of one event's text (seq_text_max) */
    int n_top_max;    /* alternatives of one event */
};

/* A new channel, or NULL: no memory. mailbox_arrays is what seq_init takes. */
struct channel *mailbox_channel(struct mailbox *m, const struct mailbox_sizes *sizes, void *user);
struct seq *mailbox_seq(struct channel *c);
void *mailbox_arrays(struct channel *c);
void mailbox_discard(struct channel *c); /* one that was never submitted */

/* Hand over; n_live_max bounds the channels between submit and terminal event. ERR_FULL, ERR_DEAD:
 * the channel is still the caller's. */
int mailbox_submit(struct channel *c, int n_live_max);
void mailbox_cancel(struct channel *c);
struct channel *mailbox_poll(struct mailbox *m, void **user);
int mailbox_next(struct channel *c, struct event *event);
void mailbox_release(struct channel *c); /* after the terminal event was taken (CHECKed) */
void mailbox_stop(struct mailbox *m);    /* the engine's thread shall end */
void mailbox_stats(struct mailbox *m, struct engine_stats *out); /* any thread */

/* ---- the engine's side */

/* All sequences submitted since the last call, in order, linked through next; NULL: none. */
struct seq *mailbox_take(struct mailbox *m);
bool mailbox_cancelled(const struct channel *c);

/* How many events surely fit now, the terminal one's place not counted. After 0 the reader's next
 * read wakes the engine. */
int mailbox_room(struct channel *c);

/* Add an event; the reader sees it after the next flush. Terminal events always fit; for others
 * there must be room (CHECKed). After its terminal event the channel takes nothing more. */
void mailbox_put(struct channel *c, const struct event *event);
void mailbox_flush(struct mailbox *m);
void mailbox_publish(struct mailbox *m, const struct engine_stats *stats);
void mailbox_die(struct mailbox *m); /* later submits are refused; wakes the loop */

/* Sleep without burning: take a ticket, look for work, and if there is none wait for anything that
 * happened on the loop's side after the ticket was taken, or timeout_ms (< 0: no limit). */
uint64_t mailbox_ticket(struct mailbox *m);
void mailbox_wait(struct mailbox *m, uint64_t ticket, int timeout_ms);
bool mailbox_stopping(struct mailbox *m);

#endif
