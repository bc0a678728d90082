/* demo: what demo.S takes for granted about a row of demo_files. Constants alone. */
#include "config/demo.h"

_Static_assert(offsetof(struct demo_file, name) == 0 && offsetof(struct demo_file, data) == 8 &&
                   offsetof(struct demo_file, size) == 16 && sizeof(struct demo_file) == 24,
               "demo.S writes rows of three 8-byte words: name, data, size");
