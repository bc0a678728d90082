/* auth: API keys as SHA-256 digests, compared in constant time. Immutable after auth_open; loop
 * thread. Keys in clear text are wiped from this file's own memory after they are digested. */
#include "server/auth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct auth {
    int n;
    uint8_t (*digests)[AUTH_DIGEST_BYTES];
};

/* ---- SHA-256, FIPS 180-4 */

static const uint32_t sha256_k[64] = { /* section 4.2.2 */
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t h[8], const uint8_t *p) /* section 6.2.2 */
{
    uint32_t w[64];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)p[4 * t] << 24 | (uint32_t)p[4 * t + 1] << 16 |
               (uint32_t)p[4 * t + 2] << 8 | p[4 * t + 3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    uint32_t v[8];
    memcpy(v, h, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                      ((e & v[5]) ^ (~e & v[6])) + sha256_k[t] + w[t];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                      ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

void auth_sha256(const void *bytes, size_t n, uint8_t out[AUTH_DIGEST_BYTES])
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, /* section 5.3.3 */
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *p = bytes;
    size_t left = n;
    for (; left >= 64; left -= 64, p += 64)
        sha256_block(h, p);
    uint8_t tail[128] = {0}; /* section 5.1.1: a 1 bit, zeros, the length in bits */
    size_t size = left < 56 ? 64 : 128;
    if (left > 0)
        memcpy(tail, p, left);
    tail[left] = 0x80;
    uint64_t bits = (uint64_t)n * 8;
    for (int i = 0; i < 8; i++)
        tail[size - 1 - (size_t)i] = (uint8_t)(bits >> 8 * i);
    for (size_t at = 0; at < size; at += 64)
        sha256_block(h, tail + at);
    explicit_bzero(tail, sizeof tail);
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* ---- keys */

/* A key is 1..AUTH_KEY_BYTES_MAX visible ASCII characters: what a header can carry. */
static bool auth_key_valid(const char *key, size_t n)
{
    if (n == 0 || n > AUTH_KEY_BYTES_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] >= 0x7f)
            return false;
    return true;
}

static int auth_add(struct auth *a, const char *key, size_t n, const char *where, int line,
                    struct err *err)
{
    if (!auth_key_valid(key, n))
        return err_set(err, ERR_USAGE,
                       "%s, key %d: a key is 1 to %d visible ASCII characters without spaces",
                       where, line, AUTH_KEY_BYTES_MAX);
    if (a->n == AUTH_KEYS_MAX)
        return err_set(err, ERR_USAGE, "%s: more than %d keys", where, AUTH_KEYS_MAX);
    auth_sha256(key, n, a->digests[a->n++]);
    return 0;
}

static int auth_read_file(struct auth *a, const char *path, struct err *err)
{
    FILE *in = fopen(path, "re");
    if (in == NULL)
        return err_set(err, ERR_USAGE, "api_key_file %s: %s", path, strerror(errno));
    char line[AUTH_KEY_BYTES_MAX + 4];
    int number = 0, before = a->n, rc = 0;
    while (rc == 0 && fgets(line, sizeof line, in) != NULL) {
        number++;
        size_t n = strcspn(line, "\n");
        if (line[n] == '\0' && !feof(in)) {
            rc = err_set(err, ERR_USAGE, "%s, line %d: too long for a key, or holds a NUL", path,
                         number);
            break;
        }
        if (n > 0 && line[n - 1] == '\r')
            n--;
        if (n > 0 && line[0] != '#')
            rc = auth_add(a, line, n, path, number, err);
    }
    explicit_bzero(line, sizeof line);
    if (rc == 0 && ferror(in))
        rc = err_set(err, ERR_USAGE, "api_key_file %s: %s", path, strerror(errno));
    fclose(in);
    if (rc == 0 && a->n == before)
        rc = err_set(err, ERR_USAGE, "%s: holds no key", path);
    return rc;
}

int auth_open(const char *const *keys, int n_keys, const char *file, struct auth **out,
              struct err *err)
{
    struct auth *a = calloc(1, sizeof *a);
    if (a != NULL)
        a->digests = calloc(AUTH_KEYS_MAX, sizeof a->digests[0]);
    if (a == NULL || a->digests == NULL) {
        auth_close(a);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    int rc = 0;
    for (int i = 0; rc == 0 && i < n_keys; i++)
        rc = auth_add(a, keys[i], strlen(keys[i]), "api_key", i + 1, err);
    if (rc == 0 && file != NULL)
        rc = auth_read_file(a, file, err);
    if (rc != 0) {
        auth_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void auth_close(struct auth *a)
{
    if (a == NULL)
        return;
    free(a->digests);
    free(a);
}

bool auth_required(const struct auth *a)
{
    return a->n > 0;
}

bool auth_check(const struct auth *a, const char *authorization)
{
    if (a->n == 0)
        return true;
    if (authorization == NULL || strncasecmp(authorization, "bearer ", 7) != 0)
        return false;
    const char *key = authorization + 7;
    while (*key == ' ')
        key++;
    uint8_t digest[AUTH_DIGEST_BYTES];
    auth_sha256(key, strlen(key), digest);
    unsigned found = 0;
    for (int i = 0; i < a->n; i++) {
        unsigned differs = 0;
        for (int j = 0; j < AUTH_DIGEST_BYTES; j++)
            differs |= digest[j] ^ a->digests[i][j];
        found |= (differs - 1) >> 31; /* 1 exactly when differs is 0 */
    }
    return found != 0;
}
