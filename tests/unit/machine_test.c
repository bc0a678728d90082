/* machine_test: cores and memory as a folder of made-up /proc and /sys files tells them. */
#include "kernels/cpu/machine.h"

#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/test.h"

enum { MIB = 1 << 20 };

static char root[64];

/* A file below root, its folders made on the way. */
static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *out = fopen(path, "we");
    EXPECT(out != NULL);
    EXPECT(fputs(text, out) >= 0);
    EXPECT(fclose(out) == 0);
}

/* A machine of 8,000 MiB, and as many cores as this one has (no topology: all count). */
static void begin(const char *groups)
{
    snprintf(root, sizeof root, "/tmp/machine-test-XXXXXX");
    EXPECT(mkdtemp(root) != NULL);
    put("proc/meminfo", "MemTotal: 16384000 kB\nMemFree: 1000 kB\nMemAvailable: 8192000 kB\n");
    put("proc/self/cgroup", groups);
}

static int discard(const char *path, const struct stat *status, int kind, struct FTW *at)
{
    (void)status;
    (void)kind;
    (void)at;
    return remove(path);
}

static void end(void)
{
    EXPECT_INT(nftw(root, discard, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static int cores(void)
{
    cpu_set_t set;
    EXPECT_INT(sched_getaffinity(0, sizeof set, &set), 0);
    return CPU_COUNT(&set);
}

static int mib_free(void)
{
    return (int)(cpu_machine_memory_free(root) / MIB);
}

TEST(no_limits)
{
    begin("0::/user.slice/a.scope\n");
    put("sys/fs/cgroup/user.slice/a.scope/memory.max", "max\n");
    put("sys/fs/cgroup/user.slice/a.scope/memory.current", "1000000\n");
    put("sys/fs/cgroup/user.slice/a.scope/cpu.max", "max 100000\n");
    EXPECT_INT(mib_free(), 8000);
    EXPECT_INT(cpu_machine_threads(root), cores());
    end();
}

TEST(the_tightest_group_of_version_2_counts)
{
    begin("0::/a.slice/b.service\n");
    put("sys/fs/cgroup/a.slice/b.service/memory.max", "2147483648\n");
    put("sys/fs/cgroup/a.slice/b.service/memory.current", "104857600\n");
    EXPECT_INT(mib_free(), 2048 - 100);
    put("sys/fs/cgroup/a.slice/memory.max", "1073741824\n");
    put("sys/fs/cgroup/a.slice/memory.current", "524288000\n");
    EXPECT_INT(mib_free(), 1024 - 500);
    put("sys/fs/cgroup/a.slice/cpu.max", "50000 100000\n");
    put("sys/fs/cgroup/a.slice/b.service/cpu.max", "400000 100000\n");
    EXPECT_INT(cpu_machine_threads(root), 1);
    end();
}

TEST(cached_files_can_be_given_up)
{
    begin("0::/\n");
    put("sys/fs/cgroup/memory.max", "1073741824\n");
    put("sys/fs/cgroup/memory.current", "1048576000\n");
    EXPECT_INT(mib_free(), 24);
    put("sys/fs/cgroup/memory.stat", "anon 4096\nfile 943718400\ninactive_anon 4096\n"
                                     "inactive_file 524288000\nactive_file 419430400\n");
    EXPECT_INT(mib_free(), 24 + 900);
    put("sys/fs/cgroup/memory.current", "1572864000\n"); /* over its limit: nothing is left */
    put("sys/fs/cgroup/memory.stat", "inactive_file 1048576\n");
    EXPECT_INT(mib_free(), 0);
    end();
}

TEST(version_1)
{
    begin("9:name=systemd:/\n4:cpu,cpuacct:/docker/0123\n3:cpuset:/\n2:memory:/docker/0123\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"); /* mounted as the root here */
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "209715200\n");
    put("sys/fs/cgroup/memory/memory.stat", "inactive_file 0\ntotal_inactive_file 104857600\n"
                                            "total_active_file 0\n");
    EXPECT_INT(mib_free(), 512 - 200 + 100);
    put("sys/fs/cgroup/cpu/docker/0123/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/docker/0123/cpu.cfs_period_us", "100000\n");
    EXPECT_INT(cpu_machine_threads(root), cores());
    put("sys/fs/cgroup/cpu/docker/0123/cpu.cfs_quota_us", "20000\n");
    EXPECT_INT(cpu_machine_threads(root), 1);
    end();
}

TEST(part_of_a_cpu_is_rounded_up)
{
    begin("0::/\n");
    put("sys/fs/cgroup/cpu.max", "100001 100000\n");
    EXPECT_INT(cpu_machine_threads(root), cores() < 2 ? 1 : 2);
    end();
}

TEST(threads_of_one_core_count_once)
{
    begin("0::/\n");
    for (int i = 0; i < 64; i++) {
        char name[96];
        snprintf(name, sizeof name, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 i);
        put(name, "0-63\n");
    }
    EXPECT(cpu_machine_threads(root) == 1 || cores() > 64);
    end();
}

TEST(without_proc)
{
    begin("");
    snprintf(root + strlen(root), 16, "/missing");
    EXPECT(cpu_machine_memory_free(root) > MIB); /* the kernel's own word for it */
    put("sys/fs/cgroup/memory.max", "104857600\n");
    put("sys/fs/cgroup/memory.current", "4194304\n");
    EXPECT_INT(mib_free(), 96);
    root[strlen(root) - strlen("/missing")] = '\0';
    end();
}
