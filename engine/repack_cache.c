/* repack_cache: one file per repacked model in a folder (repack_cache.h). The thread that opens the
 * model; keeps nothing.
 *
 * A file: magic, version, key, size and checksum of the bytes, zeros up to HEAD_BYTES, then the
 * bytes, which are mapped where they are wanted. */
#include "engine/repack_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/log.h"

enum { HEAD_BYTES = 65536, PATH_BYTES = 4096, LANES = 4, WRITE_BYTES = 16 << 20, VERSION = 1 };

static const char magic[16] = "sirocco repack\n";

struct head {
    char magic[16];
    uint64_t version;
    struct repack_cache_key key;
    uint64_t bytes, checksum;
};

static const uint64_t PRIME = 0x9e3779b97f4a7c15u;

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * PRIME;
    return hash ^ hash >> 32;
}

static uint64_t word_of(const uint8_t *at, size_t n)
{
    uint64_t word = 0;
    memcpy(&word, at, n < sizeof word ? n : sizeof word);
    return word;
}

/* Four sums side by side, which the processor multiplies at once: as fast as memory is read. */
static uint64_t checksum_of(const uint8_t *at, size_t n)
{
    uint64_t lanes[LANES] = {1, 2, 3, 4}, all = n;
    const size_t step = LANES * sizeof *lanes;
    for (; n >= step; n -= step, at += step)
        for (size_t i = 0; i < LANES; i++)
            lanes[i] = mix(lanes[i], word_of(at + i * sizeof *lanes, sizeof *lanes));
    for (; n; n -= n < 8 ? n : 8, at += 8)
        all = mix(all, word_of(at, n));
    for (size_t i = 0; i < LANES; i++)
        all = mix(all, lanes[i]);
    return all;
}

void repack_cache_key_init(struct repack_cache_key *k)
{
    *k = (struct repack_cache_key){.a = VERSION, .b = ~(uint64_t)VERSION};
}

void repack_cache_key_add(struct repack_cache_key *k, const void *data, size_t n)
{
    const uint8_t *at = data;
    k->a = mix(k->a, n);
    k->b = mix(k->b, ~(uint64_t)n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = word_of(at + i, n - i);
        k->a = mix(k->a, word);
        k->b = mix(k->b, word << 17 | word >> 47);
    }
}

/* false: the path is too long */
static bool path_of(char path[PATH_BYTES], const char *folder, const struct repack_cache_key *k,
                    const char *end)
{
    int n = snprintf(path, PATH_BYTES, "%s/%016llx%016llx.%s", folder, (unsigned long long)k->a,
                     (unsigned long long)k->b, end);
    return n > 0 && n < PATH_BYTES;
}

/* ---- reading */

static void make_anonymous(uint8_t *room, size_t bytes)
{
    (void)mmap(room, bytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    madvise(room, bytes, MADV_HUGEPAGE);
}

/* What is wrong with the open file; NULL: nothing, and its bytes are at room. */
static const char *map_file(int fd, const struct repack_cache_key *k, uint8_t *room, size_t bytes)
{
    struct head head;
    struct stat status;
    if (fstat(fd, &status) || pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head ||
        memcmp(head.magic, magic, sizeof magic) || head.version != VERSION)
        return "no file of this version";
    if (memcmp(&head.key, k, sizeof *k) || head.bytes != bytes)
        return "of another model";
    if (status.st_size < 0 || (uint64_t)status.st_size != HEAD_BYTES + (uint64_t)bytes)
        return "cut short";
    if (mmap(room, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, HEAD_BYTES) == MAP_FAILED)
        return strerror(errno);
    madvise(room, bytes, MADV_WILLNEED);
    if (checksum_of(room, bytes) == head.checksum)
        return NULL;
    make_anonymous(room, bytes);
    return "damaged";
}

bool repack_cache_read(const char *folder, const struct repack_cache_key *k, uint8_t *room,
                       size_t bytes)
{
    char path[PATH_BYTES];
    int fd = path_of(path, folder, k, "repack") ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
                                                : -1;
    if (fd < 0)
        return false;
    const char *wrong = map_file(fd, k, room, bytes);
    close(fd);
    if (wrong)
        log_event(LOG_WARN, "%s: %s: repacking again", path, wrong);
    else
        log_event(LOG_INFO, "repacked weights from %s", path);
    return !wrong;
}

/* ---- writing */

static bool write_whole(int fd, const void *data, size_t n)
{
    const char *at = data;
    while (n) {
        ssize_t done = write(fd, at, n < WRITE_BYTES ? n : WRITE_BYTES);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        at += done;
        n -= (size_t)done;
    }
    return true;
}

static bool write_file(int fd, const struct repack_cache_key *k, const uint8_t *room, size_t bytes)
{
    struct head head = {.version = VERSION, .key = *k, .bytes = bytes,
                        .checksum = checksum_of(room, bytes)};
    memcpy(head.magic, magic, sizeof magic);
    return write_whole(fd, &head, sizeof head) && lseek(fd, HEAD_BYTES, SEEK_SET) == HEAD_BYTES &&
           write_whole(fd, room, bytes) && !fdatasync(fd);
}

void repack_cache_write(const char *folder, const struct repack_cache_key *k, const uint8_t *room,
                        size_t bytes)
{
    char path[PATH_BYTES], part[PATH_BYTES], end[32];
    snprintf(end, sizeof end, "part-%ld", (long)getpid());
    if (!path_of(path, folder, k, "repack") || !path_of(part, folder, k, end)) {
        log_event(LOG_WARN, "%s: too long: repacked weights are not kept", folder);
        return;
    }
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    bool written = fd >= 0 && write_file(fd, k, room, bytes);
    int error = errno;
    if (fd >= 0 && close(fd) && written) {
        written = false;
        error = errno;
    }
    if (written && rename(part, path)) {
        written = false;
        error = errno;
    }
    if (!written && fd >= 0)
        unlink(part);
    if (written)
        log_event(LOG_INFO, "repacked weights kept in %s", path);
    else
        log_event(LOG_WARN, "%s: %s: repacked weights are not kept", part, strerror(error));
}
