/* bench_main: `sirocco bench` as a program of its own, for machines that lack the server's
 * libraries. One thread besides the engine's. */
#include <stdio.h>

#include "server/cmd.h"

int main(int argc, char **argv)
{
    struct err err = {0};
    int rc = cmd_bench(argc, argv, stdin, stdout, &err);
    if (!rc)
        return 0;
    fprintf(stderr, "bench: %s\n", *err.text ? err.text : err_text(rc));
    return rc == ERR_USAGE ? 2 : 1;
}
