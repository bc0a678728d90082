/* check_sanitize: a plugin whose kernels are watched (tests/cuda_emu/sanitize.cc) finds each fault
 * that tests/cuda_emu/planted.cc holds, and nothing where there is none. Other plugins have none. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kernels/check.h"

/* What a process of its own says of the fault, and how it ended. */
static int run(void (*plant)(int fault), int fault, char *said, size_t room)
{
    int pipes[2], status = -1;
    size_t n = 0;
    ssize_t got;
    if (pipe(pipes))
        return -1;
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        dup2(pipes[1], STDERR_FILENO);
        close(pipes[0]);
        unsetenv("CUDA_EMU_GO_ON");
        plant(fault);
        _exit(0);
    }
    close(pipes[1]);
    while (n + 1 < room && (got = read(pipes[0], said + n, room - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = 0;
    close(pipes[0]);
    return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

void check_sanitize(void)
{
    static char said[1 << 16];
    const char *(*planted)(int fault, const char **found) = NULL;
    void (*plant)(int fault) = NULL;
    const char *name, *found;

    *(void **)&planted = hosted_symbol("emu_planted");
    *(void **)&plant = hosted_symbol("emu_plant");
    for (int i = 0; planted && plant && (name = planted(i, &found)); i++) {
        check_case("planted fault: %s", name);
        int status = run(plant, i, said, sizeof said);
        if (found)
            check_expect(status != 0 && strstr(said, found), "ended with %d: %.200s", status, said);
        else
            check_expect(status == 0 && !*said, "ended with %d: %.200s", status, said);
    }
}
