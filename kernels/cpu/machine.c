/* machine: cores and memory this process may use (machine.h). No state.
 *
 * Control groups, as Linux's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ have them:
 * /proc/self/cgroup has one line "ID:CONTROLLERS:PATH" per hierarchy, version 2's being "0::PATH".
 * A limit binds all groups below, so each folder from PATH up to the mount is asked. In a container
 * PATH can be the host's name of a group that is mounted as the root here: what does not exist is
 * passed over, and the root is asked last; it alone where /proc is missing. */
#include "kernels/cpu/machine.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

enum { PATH_BYTES = 1024 };

static FILE *open_at(const char *root, const char *folder, const char *name)
{
    char path[2 * PATH_BYTES + 64];

    if (snprintf(path, sizeof path, "%s%s/%s", root, folder, name) >= (int)sizeof path)
        return NULL;
    return fopen(path, "re");
}

/* The number a file begins with; -1 when there is none (as in "max"). */
static long long read_number(const char *root, const char *folder, const char *name)
{
    long long value = -1;
    FILE *file = open_at(root, folder, name);

    if (!file)
        return -1;
    if (fscanf(file, "%lld", &value) != 1)
        value = -1;
    fclose(file);
    return value;
}

/* The number behind a word of a file of "word number" lines; -1 when there is none. */
static long long read_field(const char *root, const char *folder, const char *name,
                            const char *word)
{
    char line[256], found[64];
    long long value = -1, number;
    FILE *file = open_at(root, folder, name);

    while (file && value < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "%63s %lld", found, &number) == 2 && !strcmp(found, word))
            value = number;
    if (file)
        fclose(file);
    return value;
}

/* ---- control groups ---- */

/* One folder's limit of a group, the tightest so far being *least. */
typedef void limit_fn(const char *root, const char *folder, double *least);

static void take_least(double value, double *least)
{
    if (value < *least)
        *least = value < 0 ? 0 : value;
}

/* CPUs' worth of time per time. */
static void cpu_limit_2(const char *root, const char *folder, double *least)
{
    long long quota, period;
    FILE *file = open_at(root, folder, "cpu.max");

    if (!file)
        return;
    if (fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
        take_least((double)quota / (double)period, least);
    fclose(file);
}

static void cpu_limit_1(const char *root, const char *folder, double *least)
{
    long long quota = read_number(root, folder, "cpu.cfs_quota_us");
    long long period = read_number(root, folder, "cpu.cfs_period_us");

    if (quota > 0 && period > 0)
        take_least((double)quota / (double)period, least);
}

/* Bytes that are left, cached files given up. */
static void memory_limit(const char *root, const char *folder, const char *limit, const char *used,
                         const char *prefix, double *least)
{
    char word[64];
    long long most = read_number(root, folder, limit), now = read_number(root, folder, used);

    if (most < 0 || now < 0)
        return;
    for (int i = 0; i < 2; i++) {
        snprintf(word, sizeof word, "%s%s", prefix, i ? "active_file" : "inactive_file");
        long long cached = read_field(root, folder, "memory.stat", word);
        now -= cached > 0 ? cached : 0;
    }
    take_least((double)most - (double)(now > 0 ? now : 0), least);
}

static void memory_limit_2(const char *root, const char *folder, double *least)
{
    memory_limit(root, folder, "memory.max", "memory.current", "", least);
}

static void memory_limit_1(const char *root, const char *folder, double *least)
{
    memory_limit(root, folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_", least);
}

/* From the group's folder up to the mount. */
static void walk(const char *root, const char *mount, const char *group, limit_fn *limit,
                 double *least)
{
    char folder[PATH_BYTES + 64];
    size_t n_mount = strlen(mount);

    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder)
        folder[n_mount] = '\0';
    for (size_t n = strlen(folder); n > n_mount;) {
        limit(root, folder, least);
        while (n > n_mount && folder[n - 1] != '/')
            n--;
        while (n > n_mount && folder[n - 1] == '/')
            n--;
        folder[n] = '\0';
    }
    limit(root, mount, least);
}

/* Is the controller one of a list "cpu,cpuacct"? */
static bool in_list(const char *list, const char *controller)
{
    size_t n = strlen(controller);

    for (; *list; list += strcspn(list, ","), list += *list == ',')
        if (!strncmp(list, controller, n) && (list[n] == ',' || !list[n]))
            return true;
    return false;
}

/* The least of a controller's limits, or no_limit. */
static double group_limit(const char *root, const char *controller, limit_fn *version_1,
                          limit_fn *version_2, double no_limit)
{
    char line[PATH_BYTES + 64], mount[64];
    double least = no_limit;
    FILE *file = open_at(root, "/proc/self", "cgroup");

    snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
    while (file && fgets(line, sizeof line, file)) {
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group)
            continue;
        line[strcspn(line, "\n")] = '\0';
        *group++ = '\0';
        if (!list[1])
            walk(root, "/sys/fs/cgroup", group, version_2, &least);
        else if (in_list(list + 1, controller))
            walk(root, mount, group, version_1, &least);
    }
    if (file)
        fclose(file);
    else
        version_2(root, "/sys/fs/cgroup", &least);
    return least;
}

/* ---- what is asked ---- */

/* Of hardware threads that share a core the one with the lowest number counts, unless that one is
 * outside the cpuset. */
static int physical_cores(const char *root)
{
    cpu_set_t set, counted;
    int n = 0;

    CPU_ZERO(&set);
    CPU_ZERO(&counted);
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        char folder[64];
        if (!CPU_ISSET(i, &set))
            continue;
        snprintf(folder, sizeof folder, "/sys/devices/system/cpu/cpu%d/topology", i);
        /* "0,64" or "0-1": the lowest sibling comes first */
        long long first = read_number(root, folder, "thread_siblings_list");
        if (first < 0 || first >= CPU_SETSIZE)
            first = i;
        if (!CPU_ISSET((int)first, &counted)) {
            CPU_SET((int)first, &counted);
            n++;
        }
    }
    return n > 0 ? n : 1;
}

int cpu_machine_threads(const char *root)
{
    int cores = physical_cores(root);
    double granted = group_limit(root, "cpu", cpu_limit_1, cpu_limit_2, (double)cores);
    int threads = (int)granted + ((double)(int)granted < granted);

    return threads > 1 ? threads : 1;
}

size_t cpu_machine_memory_free(const char *root)
{
    struct sysinfo info;
    double bytes = (double)read_field(root, "/proc", "meminfo", "MemAvailable:") * 1024;

    if (bytes < 0 && sysinfo(&info) == 0)
        bytes = ((double)info.freeram + (double)info.bufferram) * info.mem_unit;
    bytes = bytes < 0 ? 0 : bytes;
    return (size_t)group_limit(root, "memory", memory_limit_1, memory_limit_2, bytes);
}
