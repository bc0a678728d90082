/* machine: what of the computer this process may use: cores and memory, within its control group.
 * No state; any thread, but meant for the start: every call reads files of /proc and /sys. */
#ifndef SIROCCO_KERNELS_CPU_MACHINE_H
#define SIROCCO_KERNELS_CPU_MACHINE_H

#include <stddef.h>

/* root: where proc/ and sys/ are, "" for the machine itself; tests give a folder of theirs. */

/* Threads that can run at the same time: physical cores of the affinity mask (of hardware threads
 * that share a core one counts), and no more than the CPU time that the control groups above us
 * grant (cpu.max, cpu.cfs_quota_us), rounded up. At least 1. */
int cpu_machine_threads(const char *root);

/* Bytes that may be taken: MemAvailable of /proc/meminfo (without that file what sysinfo(2) calls
 * free), or what the tightest control group above us leaves when its cached files are given up, if
 * that is less. As in MemAvailable the pages of mapped files count as available. */
size_t cpu_machine_memory_free(const char *root);

#endif
