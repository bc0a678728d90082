/* route: THE TABLE of endpoints: method, path, handler, body limit, auth scope. */
#ifndef SIROCCO_ROUTE_H
#define SIROCCO_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

struct exchange;

struct route {
    const char *method;  /* "GET" (HEAD is answered too), "POST" */
    const char *path;    /* exact, or a prefix when it ends in "/" followed by "*" */
    void (*handle)(struct exchange *x); /* loop; the body is complete */
    bool open;           /* needs no API key */
    bool body;           /* takes a JSON body (else any body is refused) */
    bool model;          /* needs a ready model: 503 while loading, draining, dead */
    bool quiet;          /* probes: logged at debug level only */
    const char *label;   /* metrics label: bounded set */
};

extern const struct route route_table[];
extern const int route_count;

/* The row for method and raw path; NULL with *allow = "GET, HEAD" (405) when the path exists under
 * other methods, or *allow = NULL (404). *tail: what the prefix left. */
const struct route *route_find(const char *method, const char *path, const char **tail,
                               const char **allow);

/* For an error's text: the path of the row that a path which no row matches was most likely meant
 * for, as it ends like it ("/v1" left out or given twice, slashes doubled or at the end), or that
 * does the work of another API's. Or NULL. */
const char *route_guess(const char *path);

#endif
