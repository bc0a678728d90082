/* plugin: finds and loads the CUDA backend, a shared object beside the program, so that one binary
 * runs with and without CUDA. Called once, from engine_open's thread. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"

enum { PATH_BYTES = 4096 };
#define PLUGIN_NAME "sirocco-cuda.so"

/* The folder of the running program, with its slash; "" when it cannot be told. */
static void program_folder(char *folder, size_t bytes)
{
    ssize_t n = readlink("/proc/self/exe", folder, bytes - 1);
    folder[n > 0 ? n : 0] = 0;
    char *slash = strrchr(folder, '/');
    folder[slash ? slash + 1 - folder : 0] = 0;
}

static bool find(char *path, size_t bytes)
{
    static const char *const places[] = {"", "../lib/sirocco/"};
    char folder[PATH_BYTES];
    program_folder(folder, sizeof folder);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, bytes, "%s%s%s", folder, places[i], PLUGIN_NAME);
        if (n > 0 && (size_t)n < bytes && !access(path, R_OK))
            return true;
    }
    return false;
}

const struct kernels *kernels_plugin(const char *path, char *error, size_t error_bytes)
{
    char found[2 * PATH_BYTES];
    if (!path || !*path) {
        if (!find(found, sizeof found)) {
            snprintf(error, error_bytes, "%s", "");
            return NULL;
        }
        path = found;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *reason = dlerror();
        snprintf(error, error_bytes, "%s", reason ? reason : path);
        return NULL;
    }
    void *symbol = dlsym(library, KERNELS_PLUGIN_SYMBOL);
    kernels_plugin_fn *open_plugin = NULL;
    memcpy(&open_plugin, &symbol, sizeof open_plugin); /* ISO C has no such cast; POSIX allows it */
    const struct kernels *k =
        open_plugin ? open_plugin(KERNELS_VERSION, sizeof(struct kernels)) : NULL;
    if (!k) {
        snprintf(error, error_bytes, "%s belongs to another version of Sirocco", path);
        dlclose(library);
    }
    return k;
}
