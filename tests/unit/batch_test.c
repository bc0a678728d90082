/* batch: slots through block tables, rows, capacities. */
#include "engine/batch.h"

#include "tests/test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(batch_slots_follow_the_block_table)
{
    struct batch b;
    int32_t tokens[] = {10, 11, 12, 13}, blocks[] = {7, 2, 5};
    EXPECT_INT(batch_init(&b, 8, 3), 0);
    EXPECT_INT(batch_add(&b, tokens, 4, 14, blocks, 8), 0);
    EXPECT_INT(batch_add(&b, tokens, 1, 0, blocks, 8), 4);
    EXPECT_INT(b.n_tokens, 5);
    EXPECT_INT(b.n_seqs, 2);
    int64_t slots[] = {2 * 8 + 6, 2 * 8 + 7, 5 * 8, 5 * 8 + 1, 7 * 8};
    int32_t pos[] = {14, 15, 16, 17, 0};
    for (int i = 0; i < 5; i++) {
        EXPECT_INT(b.slots[i], slots[i]);
        EXPECT_INT(b.pos[i], pos[i]);
        EXPECT_INT(b.tokens[i], tokens[i % 4]);
    }
    EXPECT_INT(b.seqs[0].q_start, 0);
    EXPECT_INT(b.seqs[0].q_len, 4);
    EXPECT_INT(b.seqs[0].kv_len, 18);
    EXPECT(b.seqs[0].blocks == blocks);
    EXPECT_INT(b.seqs[1].q_start, 4);
    EXPECT_INT(b.seqs[1].kv_len, 1);
    batch_want_logits(&b, 3);
    batch_want_logits(&b, 4);
    EXPECT_INT(b.n_rows, 2);
    EXPECT_INT(b.rows[0], 3);
    EXPECT_INT(b.rows[1], 4);
    batch_clear(&b);
    EXPECT_INT(b.n_tokens + b.n_seqs + b.n_rows, 0);
    EXPECT_INT(b.n_tokens_max, 8);
    batch_free(&b);
    batch_free(&b);
    batch_free(NULL);
}

TEST(batch_slots_do_not_wrap)
{
    struct batch b;
    int32_t token = 1, block = INT32_MAX;
    EXPECT_INT(batch_init(&b, 1, 1), 0);
    batch_add(&b, &token, 1, 255, &block, 256);
    EXPECT(b.slots[0] == (int64_t)INT32_MAX * 256 + 255);
    batch_free(&b);
}

/* Over a capacity the process aborts, at once and in a child. */
static int aborts(int q_len, int n_adds, int row)
{
    pid_t child = fork();
    if (!child) {
        struct batch b;
        int32_t tokens[8] = {0}, blocks[1] = {0};
        close(STDERR_FILENO);
        if (batch_init(&b, 4, 2))
            _exit(1);
        for (int i = 0; i < n_adds; i++)
            batch_add(&b, tokens, q_len, 0, blocks, 8);
        if (row >= 0)
            batch_want_logits(&b, row);
        _exit(0);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
           WTERMSIG(status) == SIGABRT;
}

TEST(batch_checks_its_capacities)
{
    EXPECT(!aborts(2, 2, 3));
    EXPECT(aborts(5, 1, -1));
    EXPECT(aborts(1, 3, -1));
    EXPECT(aborts(0, 1, -1));
    EXPECT(aborts(2, 1, 2));
}
