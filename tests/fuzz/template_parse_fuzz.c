/* template_parse: any bytes as template source. Parsing must end with a tree or an error that names
 * its place. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct template *t = NULL;
    struct err err = {0};
    int rc = template_parse((const char *)data, size, &t, &err);
    if ((rc == 0) != (t != NULL) || (rc == ERR_FORMAT && strncmp(err.text, "line ", 5) != 0))
        abort();
    template_free(t);
    return 0;
}
