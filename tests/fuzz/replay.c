/* replay: feeds the files named on the command line (folders: every file in them) to a fuzz entry,
 * so that corpora are checked where there is no libFuzzer. Last line: `N passed, 0 failed, ...`. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int passed;

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    uint8_t *data = NULL;
    size_t n = 0, capacity = 0;
    for (;;) {
        if (n == capacity) {
            capacity = capacity ? capacity * 2 : 4096;
            uint8_t *more = realloc(data, capacity);
            if (!more)
                break;
            data = more;
        }
        size_t got = fread(data + n, 1, capacity - n, file);
        if (!got)
            break;
        n += got;
    }
    fclose(file);
    /* an exact copy, so that reading one byte too many is seen */
    uint8_t *exact = malloc(n ? n : 1);
    for (size_t i = 0; exact && i < n; i++)
        exact[i] = data[i];
    if (exact)
        LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(data);
    passed++;
    return 0;
}

static int replay_path(const char *path)
{
    struct stat status;
    if (stat(path, &status))
        return -1;
    if (!S_ISDIR(status.st_mode))
        return replay_file(path);
    DIR *folder = opendir(path);
    if (!folder)
        return -1;
    int result = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        int n = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (n > 0 && (size_t)n < sizeof name && replay_file(name))
            result = -1;
    }
    closedir(folder);
    return result;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed += replay_path(argv[i]) != 0;
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed ? 1 : 0;
}
