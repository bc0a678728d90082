/* pace: how many prompt tokens a step may compute beside sequences that generate, so that these do
 * not stall (chunked prefill under a time limit, as in Agrawal et al. 2024, Sarathi-Serve). The
 * limit of a step is a target time, or one and a half times what the step would take without
 * prompts, whichever is longer; but some tokens go on in any case. Both costs, of the generating
 * sequences and of a prompt token, are learnt from the steps as they run: no constant of a machine
 * or model is in here.
 *
 * Pure policy on numbers: no clock, no memory. One owner, the scheduler. */
#ifndef SIROCCO_PACE_H
#define SIROCCO_PACE_H

#include <stdint.h>

enum { PACE_CLASSES = 14 }; /* of counts of generating sequences: 1, 2 to 3, 4 to 7, ... */

struct pace {
    uint64_t target_ns;             /* 0: no limit */
    double decode_ns[PACE_CLASSES]; /* of a step without prompts; 0: never seen */
    int age[PACE_CLASSES];          /* steps with prompts since one without */
    double prompt_ns;               /* of a prompt token beside decodes; 0: never seen */
    int tokens_max;                 /* tried so far without harm: doubled at most at a time */
};

void pace_init(struct pace *p, uint64_t target_ns);

/* Prompt tokens for the next step beside n_decodes sequences that generate; INT_MAX: no limit. 0
 * now and then: the step shows what those sequences take by themselves. */
int pace_prompt_tokens(const struct pace *p, int n_decodes);

/* A step took so long. */
void pace_took(struct pace *p, int n_decodes, int n_prompt, uint64_t ns);

#endif
