/* serve: one server process from options to exit: composition, model load, signals, drain. */
#ifndef SIROCCO_SERVE_H
#define SIROCCO_SERVE_H

#include "config/config.h"
#include "engine/base/err.h"

struct serve_hooks { /* what the process prints; each may be NULL */
    void (*progress)(void *user, const char *what, double fraction); /* loader's thread */
    void (*plan)(const char *text);                                  /* the memory plan */
    void (*ready)(const char *url); /* once: the model answers and the socket listens */
};

enum serve_end {
    SERVE_DRAINED, /* a signal, and a clean end */
    SERVE_FORCED,  /* a second signal, or the drain could not be finished: threads may still run */
    SERVE_QUIT,    /* a signal before the model was loaded: the loader still runs */
    SERVE_DEAD,    /* the engine failed; threads may still run */
    SERVE_UNABLE,  /* no socket, thread or memory to begin with, or a wrong option: see *err */
    SERVE_ERROR    /* the model was not loaded: *err tells why; threads may still run */
};

/* Serve until a signal. After every end but SERVE_DRAINED the caller must leave by _exit. Call once
 * per process; signals are handled from the first moment on. */
enum serve_end serve_run(const struct config *config, const struct serve_hooks *hooks,
                         struct err *err);

#endif
