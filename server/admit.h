/* admit: whether a request whose head passed the gate may come in, and as what: request id, CORS,
 * API key, route, the model's state, the body's kind and size. Loop thread. */
#ifndef SIROCCO_ADMIT_H
#define SIROCCO_ADMIT_H

#include "server/exchange.h"
#include "server/http_gate.h"

/* Set x->request_id: the client's own when it is 1 to 64 characters of [A-Za-z0-9._-], else a made
 * one (req_ and 24 hexadecimal digits). client may be NULL. */
void admit_request_id(struct exchange *x, const char *client);

/* x->method and x->path are set. Fills x->route and x->path_tail and the CORS headers. Returns 0:
 * go on (an answer already made, as to a preflight, counts), or the ERR_* to answer with; headers
 * that belong to it (Allow) are added to x. */
int admit_check(struct exchange *x, const struct http_gate_head *head, struct err *err);

#endif
