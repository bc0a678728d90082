/* prep: hands exchanges to libuv's workers and takes them back. prep_run and prep_done run on the
 * loop, prep_work on a worker; ownership of the exchange travels with the work item, which lives in
 * the exchange's arena. The bytes of all bodies in preparation are bounded, because parsed JSON can
 * take many times its text (each parse has its own budget too). */
#include "server/prep.h"

#include <stdlib.h>
#include <uv.h>

#include "server/exchange.h"

struct prep {
    uv_loop_t *loop;
    size_t bytes;
    int running;
};

struct prep_item {
    uv_work_t work;
    struct prep *prep;
    struct exchange *x;
    size_t bytes;
    int code;
    struct err err;
};

struct prep *prep_open(struct uv_loop_s *loop)
{
    struct prep *p = calloc(1, sizeof *p);
    if (p != NULL)
        p->loop = loop;
    return p;
}

void prep_close(struct prep *p)
{
    CHECK(p == NULL || p->running == 0);
    free(p);
}

static void prep_work(uv_work_t *work)
{
    struct prep_item *item = work->data;
    item->code = item->x->prepare(item->x, &item->err);
}

static void prep_done(uv_work_t *work, int status)
{
    struct prep_item *item = work->data;
    item->prep->bytes -= item->bytes;
    item->prep->running--;
    if (status != 0)
        item->code = err_set(&item->err, ERR_CANCELLED, "cancelled");
    exchange_prepared(item->x, item->code, &item->err); /* may free the item with its exchange */
}

int prep_run(struct prep *p, struct exchange *x, struct err *err)
{
    if (p->running > 0 && x->body.size + p->bytes > PREP_BYTES_MAX)
        return err_set(err, ERR_FULL, "Too many large requests are being read; try again shortly.");
    struct prep_item *item = arena_alloc(&x->arena, sizeof *item);
    if (item == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    *item = (struct prep_item){.prep = p, .x = x, .bytes = x->body.size};
    item->work.data = item;
    if (uv_queue_work(p->loop, &item->work, prep_work, prep_done) != 0)
        return err_set(err, ERR_INTERNAL, "no worker could be started");
    p->bytes += item->bytes;
    p->running++;
    return 0;
}

size_t prep_bytes(const struct prep *p)
{
    return p->bytes;
}
