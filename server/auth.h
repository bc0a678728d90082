/* auth: which API keys may pass. Immutable after open; loop thread.
 *
 * Keys are kept as SHA-256 digests (FIPS 180-4). A presented key is digested and compared with
 * every kept digest in full, whatever matches: the time tells neither which key came close nor how
 * many bytes of it were right, only its length. */
#ifndef SIROCCO_AUTH_H
#define SIROCCO_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

enum { AUTH_DIGEST_BYTES = 32, AUTH_KEYS_MAX = 4096, AUTH_KEY_BYTES_MAX = 1024 };

struct auth;

/* keys: from options; file: one key per line (NULL: none; '#' lines and blank lines are skipped, a
 * trailing CR is cut). ERR_USAGE names the file and line. No keys at all: *out lets
 * everybody in. */
int auth_open(const char *const *keys, int n_keys, const char *file, struct auth **out,
              struct err *err);
void auth_close(struct auth *a); /* NULL allowed */
bool auth_required(const struct auth *a);

/* May a request with this Authorization value (NULL: none) pass? `Bearer KEY`, the scheme in any
 * case. */
bool auth_check(const struct auth *a, const char *authorization);

/* SHA-256 (FIPS 180-4, section 6.2) of n bytes. */
void auth_sha256(const void *bytes, size_t n, uint8_t out[AUTH_DIGEST_BYTES]);

#endif
