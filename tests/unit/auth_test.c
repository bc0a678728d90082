/* Tests of server/auth.c: SHA-256 against FIPS 180-4's examples, key files, header forms. */
#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/test.h"

static void expect_digest(const char *text, size_t n, const char *hex)
{
    uint8_t digest[AUTH_DIGEST_BYTES];
    char out[2 * AUTH_DIGEST_BYTES + 1];
    auth_sha256(text, n, digest);
    for (int i = 0; i < AUTH_DIGEST_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
    EXPECT_STR(out, hex);
}

TEST(sha256_matches_the_standard)
{
    static char million[1000000];
    memset(million, 'a', sizeof million);
    expect_digest("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    expect_digest(million, sizeof million,
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(without_keys_everybody_passes)
{
    struct auth *a;
    struct err err;
    EXPECT_INT(auth_open(NULL, 0, NULL, &a, &err), 0);
    EXPECT(!auth_required(a));
    EXPECT(auth_check(a, NULL));
    EXPECT(auth_check(a, "Bearer whatever"));
    auth_close(a);
}

TEST(bearer_forms)
{
    static const char *const keys[] = {"sk-one", "sk-two"};
    struct auth *a;
    struct err err;
    EXPECT_INT(auth_open(keys, 2, NULL, &a, &err), 0);
    EXPECT(auth_required(a));
    EXPECT(auth_check(a, "Bearer sk-one"));
    EXPECT(auth_check(a, "bearer sk-two"));
    EXPECT(auth_check(a, "BEARER   sk-two"));
    EXPECT(!auth_check(a, NULL));
    EXPECT(!auth_check(a, ""));
    EXPECT(!auth_check(a, "sk-one"));
    EXPECT(!auth_check(a, "Basic sk-one"));
    EXPECT(!auth_check(a, "Bearer"));
    EXPECT(!auth_check(a, "Bearer "));
    EXPECT(!auth_check(a, "Bearer sk-on"));
    EXPECT(!auth_check(a, "Bearer sk-one "));
    EXPECT(!auth_check(a, "Bearer sk-onee"));
    EXPECT(!auth_check(a, "Bearer SK-ONE"));
    auth_close(a);
}

TEST(unusable_keys_are_refused)
{
    static const char *const keys[] = {"good", "with space"};
    static const char *const empty[] = {""};
    struct auth *a;
    struct err err;
    EXPECT_INT(auth_open(keys, 2, NULL, &a, &err), ERR_USAGE);
    EXPECT(strstr(err.text, "key 2") != NULL);
    EXPECT(strstr(err.text, "with space") == NULL);
    EXPECT_INT(auth_open(empty, 1, NULL, &a, &err), ERR_USAGE);
}

static int open_text(const char *text, size_t n, struct auth **a, struct err *err)
{
    char path[] = "/tmp/sirocco-keys-XXXXXX";
    int fd = mkstemp(path);
    EXPECT(fd >= 0);
    EXPECT_INT(write(fd, text, n), (long long)n);
    close(fd);
    int rc = auth_open(NULL, 0, path, a, err);
    unlink(path);
    return rc;
}

TEST(key_file)
{
    static const char text[] = "# keys\r\nsk-file\r\n\nsk-last";
    struct auth *a;
    struct err err;
    EXPECT_INT(open_text(text, sizeof text - 1, &a, &err), 0);
    EXPECT(auth_check(a, "Bearer sk-file"));
    EXPECT(auth_check(a, "Bearer sk-last"));
    EXPECT(!auth_check(a, "Bearer # keys"));
    auth_close(a);
    EXPECT_INT(open_text("", 0, &a, &err), ERR_USAGE);
    EXPECT_INT(open_text("a b\n", 4, &a, &err), ERR_USAGE);
    EXPECT_INT(open_text("a\0b\n", 4, &a, &err), ERR_USAGE);
    EXPECT_INT(auth_open(NULL, 0, "/nonexistent/keys", &a, &err), ERR_USAGE);
    char line[AUTH_KEY_BYTES_MAX + 10];
    memset(line, 'k', sizeof line);
    EXPECT_INT(open_text(line, sizeof line, &a, &err), ERR_USAGE);
}
