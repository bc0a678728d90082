/* demo: the embedded demo model's files (config/demo/, linked into the binary by demo.S). */
#ifndef SIROCCO_DEMO_H
#define SIROCCO_DEMO_H

#include <stddef.h>
#include <stdint.h>

struct demo_file {
    const char *name;
    const uint8_t *data;
    size_t size;
};
extern const struct demo_file demo_files[];
extern const size_t demo_n_files;

#endif
