/* test: the test macros. A test file defines TESTs; runner.c runs each in a forked child with a
 * timeout, so that a crash, a hang or an abort is one failed test.
 *
 *     TEST(adds) { EXPECT_INT(1 + 1, 2); }
 *     TEST_SECONDS(slow, 120) { ... }
 *     SKIP("why")  ends the test as skipped */
#ifndef SIROCCO_TEST_H
#define SIROCCO_TEST_H

#include <stdbool.h>
#include <stddef.h>

struct test {
    const char *name;
    void (*run)(void);
    int seconds; /* timeout; 0: the default */
    struct test *next;
};
void test_add(struct test *test);

#define TEST(name) TEST_SECONDS(name, 0)
#define TEST_SECONDS(test_name, limit)                                                             \
    static void test_name##_test(void);                                                            \
    static struct test test_name##_entry = {#test_name, test_name##_test, limit, NULL};            \
    __attribute__((constructor)) static void test_name##_add(void)                                 \
    {                                                                                              \
        test_add(&test_name##_entry);                                                              \
    }                                                                                              \
    static void test_name##_test(void)

#define EXPECT(condition) test_expect(__FILE__, __LINE__, (condition), #condition)
#define EXPECT_INT(a, b) test_expect_int(__FILE__, __LINE__, (long long)(a), (long long)(b), #a)
#define EXPECT_STR(a, b) test_expect_str(__FILE__, __LINE__, (a), (b), #a)
#define EXPECT_NEAR(a, b, bound) test_expect_near(__FILE__, __LINE__, (a), (b), (bound), #a)
#define SKIP(why)                                                                                  \
    do {                                                                                           \
        test_skip(why);                                                                            \
        return;                                                                                    \
    } while (0)

/* A failed expectation prints and ends the test (in its child). */
void test_expect(const char *file, int line, bool held, const char *text);
void test_expect_int(const char *file, int line, long long a, long long b, const char *text);
void test_expect_str(const char *file, int line, const char *a, const char *b, const char *text);
void test_expect_near(const char *file, int line, double a, double b, double bound,
                      const char *text);
void test_skip(const char *why);

/* Path of a file of the repository: SIROCCO_ROOT or the current folder, then relative. The result
 * is static per call site use: copy it before the next call. */
const char *test_path(const char *relative);
/* Path below SIROCCO_TEST_DATA, or NULL when that is not set or the file is absent. */
const char *test_data(const char *relative);
/* A whole file, NUL-terminated, malloced; NULL when it cannot be read. */
char *test_read(const char *path, size_t *size);

#endif
