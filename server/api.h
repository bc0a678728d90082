/* api: the handlers of route.c's table. Each runs on the loop with the body complete and answers
 * its exchange now (exchange_answer, exchange_fail) or later (exchange_prepare). One file per
 * endpoint family: api_chat.c, api_completions.c, api_fim.c, api_infill.c, api_models.c,
 * api_ops.c, api_tokenize.c. */
#ifndef SIROCCO_API_H
#define SIROCCO_API_H

struct answer_form;
struct err;
struct exchange;

void api_chat(struct exchange *x);        /* POST /v1/chat/completions */
void api_completions(struct exchange *x); /* POST /v1/completions */
void api_fim(struct exchange *x);         /* POST /v1/fim/completions */
void api_infill(struct exchange *x);      /* POST /infill */
void api_apply_template(struct exchange *x); /* POST /apply-template */
void api_tokenize(struct exchange *x);       /* POST /tokenize */
void api_detokenize(struct exchange *x);     /* POST /detokenize */
void api_models(struct exchange *x);      /* GET /v1/models */
void api_model(struct exchange *x);       /* GET /v1/models/{id}: x->path_tail is the id, raw */
void api_health(struct exchange *x);      /* GET /health */
void api_ready(struct exchange *x);       /* GET /ready */
void api_version(struct exchange *x);     /* GET /version */
void api_metrics(struct exchange *x);     /* GET /metrics */

/* Between these files: how chat answers are written; on the worker, the prompts of a parsed
 * completions request, made to be filled in when it has a suffix. */
extern const struct answer_form api_chat_form;
int api_take_prompts(struct exchange *x, struct err *err);

#endif
