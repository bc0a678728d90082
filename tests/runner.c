/* runner: runs the TESTs linked into this binary, each in a forked child with a timeout, and prints
 * one line each; the last line is `N passed, N failed, N skipped`. Arguments select tests by
 * substring; --no-fork runs them in this process (for debuggers and sanitizers). */
#include "tests/test.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS_STANDARD = 60, EXIT_SKIP = 77, EXIT_FAIL = 1 };

static struct test *tests, **tests_end = &tests;
static char *skip_reason; /* shared with the children */
static bool forked = true;
static bool failed_here, skipped_here;

void test_add(struct test *test)
{
    *tests_end = test;
    tests_end = &test->next;
}

static void fail(void)
{
    fflush(stdout);
    failed_here = true;
    if (forked)
        _exit(EXIT_FAIL);
    exit(EXIT_FAIL);
}

void test_expect(const char *file, int line, bool held, const char *text)
{
    if (held)
        return;
    printf("    %s:%d: not so: %s\n", file, line, text);
    fail();
}

void test_expect_int(const char *file, int line, long long a, long long b, const char *text)
{
    if (a == b)
        return;
    printf("    %s:%d: %s is %lld, not %lld\n", file, line, text, a, b);
    fail();
}

void test_expect_str(const char *file, int line, const char *a, const char *b, const char *text)
{
    if (a && b && !strcmp(a, b))
        return;
    printf("    %s:%d: %s is\n      %s\n    and not\n      %s\n", file, line, text,
           a ? a : "(null)", b ? b : "(null)");
    fail();
}

void test_expect_near(const char *file, int line, double a, double b, double bound,
                      const char *text)
{
    if (fabs(a - b) <= bound)
        return;
    printf("    %s:%d: %s is %.9g, not %.9g +- %g\n", file, line, text, a, b, bound);
    fail();
}

void test_skip(const char *why)
{
    snprintf(skip_reason, 200, "%s", why);
    skipped_here = true;
}

const char *test_path(const char *relative)
{
    static char path[4][1024];
    static int turn;
    const char *root = getenv("SIROCCO_ROOT");
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root ? root : ".", relative);
    return path[turn];
}

const char *test_data(const char *relative)
{
    static char path[4][1024];
    static int turn;
    struct stat status;
    const char *root = getenv("SIROCCO_TEST_DATA");
    turn = (turn + 1) % 4;
    if (!root || !*root)
        return NULL;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, relative);
    return stat(path[turn], &status) ? NULL : path[turn];
}

char *test_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    size_t n = 0, capacity = 1 << 16;
    char *data = malloc(capacity + 1);
    while (data) {
        n += fread(data + n, 1, capacity - n, file);
        if (n < capacity)
            break;
        capacity *= 2;
        char *more = realloc(data, capacity + 1);
        if (!more)
            free(data);
        data = more;
    }
    fclose(file);
    if (data)
        data[n] = 0;
    if (size)
        *size = n;
    return data;
}

/* 0 passed, 1 failed, 2 skipped */
static int run_forked(struct test *test)
{
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        printf("    cannot fork: %s\n", strerror(errno));
        return 1;
    }
    if (!child) {
        setpgid(0, 0);
        alarm((unsigned)(test->seconds ? test->seconds : SECONDS_STANDARD));
        test->run();
        fflush(stdout);
        /* exit, not _exit: leak checkers run at exit */
        exit(skipped_here ? EXIT_SKIP : 0);
    }
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    kill(-child, SIGKILL); /* whatever it left behind */
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == SIGALRM)
            printf("    timed out\n");
        else
            printf("    died of signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return 1;
    }
    return WEXITSTATUS(status) == 0 ? 0 : WEXITSTATUS(status) == EXIT_SKIP ? 2 : 1;
}

static int run_here(struct test *test)
{
    failed_here = skipped_here = false;
    test->run();
    return failed_here ? 1 : skipped_here ? 2 : 0;
}

static bool selected(const struct test *test, int argc, char **argv)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            continue;
        any = true;
        if (strstr(test->name, argv[i]))
            return true;
    }
    return !any;
}

int main(int argc, char **argv)
{
    int counts[3] = {0, 0, 0};
    skip_reason = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (skip_reason == MAP_FAILED)
        return EXIT_FAIL;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--no-fork"))
            forked = false;
    for (struct test *test = tests; test; test = test->next) {
        struct timespec start, end;
        if (!selected(test, argc, argv))
            continue;
        clock_gettime(CLOCK_MONOTONIC, &start);
        int result = forked ? run_forked(test) : run_here(test);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        counts[result]++;
        if (result == 2)
            printf("skip  %s: %s\n", test->name, skip_reason);
        else
            printf("%s  %s (%.2f s)\n", result ? "FAIL" : "ok  ", test->name, seconds);
    }
    printf("%d passed, %d failed, %d skipped\n", counts[0], counts[1], counts[2]);
    return counts[1] ? EXIT_FAIL : 0;
}
