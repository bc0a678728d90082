/* gather: chosen rows, copied. Engine thread; bound by memory, so one thread does it. */
#include "kernels/cpu/cpu.h"

#include <string.h>

int gather_run(struct device *d, const struct gather_args *a)
{
    if (cpu_failed(d))
        return -1;
    for (int i = 0; i < a->n; i++)
        memcpy(a->out + (size_t)i * (size_t)a->dim, a->in + (size_t)a->rows[i] * (size_t)a->dim,
               (size_t)a->dim * sizeof(float));
    return 0;
}
