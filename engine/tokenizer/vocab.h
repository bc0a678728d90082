/* vocab: the token table behind every tokenizer kind: texts, types, pieces, lookup, matching.
 *
 * Life: vocab_init, vocab_put for every token (any id order), vocab_seal, then immutable and open
 * to any thread; vocab_free. Texts are bytes of any value, 1..VOCAB_TEXT_MAX long and unique. */
#ifndef SIROCCO_VOCAB_H
#define SIROCCO_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

enum { VOCAB_SIZE_MAX = 1 << 24, VOCAB_TEXT_MAX = 1024 };

/* How sentencepiece's vocabularies write a space: U+2581. */
#define VOCAB_SPACE "\xE2\x96\x81"

/* The numbers of sentencepiece's model proto and of GGUF's tokenizer.ggml.token_type alike. */
enum vocab_type {
    VOCAB_NONE,    /* no token has this id */
    VOCAB_NORMAL,  /* made by merging */
    VOCAB_UNKNOWN, /* what a character without tokens becomes */
    VOCAB_CONTROL, /* <s>, [INST]: recognised in trusted text alone, never made by merging */
    VOCAB_USER,    /* an added token that is plain text: recognised everywhere */
    VOCAB_UNUSED,
    VOCAB_BYTE, /* <0x0A> */
    VOCAB_TYPE_COUNT
};

struct vocab_token {
    size_t text;  /* offset in texts; a NUL follows */
    size_t piece; /* offset in texts; what the token stands for in the middle of a text */
    uint16_t text_size, piece_size;
    uint8_t type;
    bool special; /* CONTROL and UNKNOWN, and added tokens that say so */
    bool left_strip, right_strip; /* a match takes the white space at this side with it */
    bool single_word; /* matches only where no word character is beside it */
    bool inner; /* NORMAL, and recognised inside a normalized segment: no merge crosses its ends */
};

/* Tokens to be recognised in text, sorted by text. */
struct vocab_matches {
    int32_t *ids;
    int n;
    int from[257]; /* ids[from[b]..from[b + 1]) start with byte b */
};

struct vocab {
    int size_max; /* the model's vocab_size: ids are below it */
    int n;        /* highest id + 1 */
    struct vocab_token *tokens; /* [size_max] */
    struct buf texts;
    uint32_t *slots; /* open addressing over texts: id + 1, 0 is empty */
    size_t slot_mask;
    int32_t byte_ids[256]; /* -1: none */
    bool byte_alphabet; /* set before vocab_seal: NORMAL texts write bytes in GPT-2's alphabet */
    bool has_bytes;        /* all 256 are there */
    int32_t unk;           /* -1: none */
    struct vocab_matches added; /* special tokens and those of type USER */
    struct vocab_matches inner;
    size_t piece_max;
};

/* Slots of an open-addressing table of n entries (at most SIZE_MAX / 64): a power of two, more than
 * twice as many. */
size_t vocab_n_slots(size_t n);

/* ERR_NOMEM; ERR_FORMAT for a vocab_size outside 1..VOCAB_SIZE_MAX. */
int vocab_init(struct vocab *v, int vocab_size, struct err *err);
void vocab_free(struct vocab *v); /* zeroed allowed */

/* Take one token; where ("tokenizer.json: model.vocab") opens the message. ERR_FORMAT: id out of
 * range or taken, text empty, too long or taken, type BYTE with a text other than <0xHH>. */
int vocab_put(struct vocab *v, int64_t id, const char *text, size_t n, enum vocab_type type,
              const char *where, struct err *err);

/* The same for a token whose text another has already: it is found by its id alone. */
int vocab_put_hidden(struct vocab *v, int64_t id, const char *text, size_t n, const char *where,
                     struct err *err);

/* Build the pieces (each `space` becomes ' ' in tokens that are not special; with byte_alphabet the
 * bytes that NORMAL texts stand for, and those that are not of the alphabet become UNUSED), the
 * byte table, and what is to be recognised in text. find_bytes: tokens <0xHH> of type NORMAL are
 * byte tokens (tokenizer.json has no types). ERR_FORMAT when an id below n has no token. */
int vocab_seal(struct vocab *v, const char *space, bool find_bytes, const char *where,
               struct err *err);

int32_t vocab_find(const struct vocab *v, const char *text, size_t n); /* or -1 */
const char *vocab_text(const struct vocab *v, int32_t id, size_t *n);

/* The value of a byte token's text: <0x00> to <0xFF>, two upper-case hex digits exactly; or -1. */
int vocab_byte_value(const char *text, size_t n);

/* Of `among` the longest token that starts at text[at], or -1; special ones only when they end at
 * or before special_end. */
int32_t vocab_match(const struct vocab *v, const struct vocab_matches *among, const char *text,
                    size_t n, size_t at, size_t special_end);

#endif
