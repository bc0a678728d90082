/* pool: a fork-join worker pool. One thread (the engine's) calls pool_run; the others only work.
 * A run's slices are taken by whoever is free, so what a slice writes must not depend on who runs
 * it or in which order: slices write disjoint outputs. */
#ifndef SIROCCO_KERNELS_CPU_POOL_H
#define SIROCCO_KERNELS_CPU_POOL_H

struct pool;

/* thread: 0 (the caller) .. n_threads - 1, for scratch memory */
typedef void pool_fn(void *arg, int slice, int thread);

/* n_threads >= 1 counts the caller. NULL: no memory or no threads to be had. */
struct pool *pool_open(int n_threads);
void pool_close(struct pool *pool); /* NULL allowed; joins the workers */
int pool_threads(const struct pool *pool);

/* Run fn(arg, 0..n_slices - 1, thread) on all threads; returns when every slice is done, and what
 * the slices wrote is then visible to the caller. */
void pool_run(struct pool *pool, pool_fn *fn, void *arg, int n_slices);

#endif
