/* sanitize: what cuda_emu.cc tells the checks of sanitize.cc; nothing without CUDA_EMU_SAN. */
#ifndef SIROCCO_TESTS_CUDA_EMU_SANITIZE_H
#define SIROCCO_TESTS_CUDA_EMU_SANITIZE_H

#include "tests/cuda_emu/cuda_emu.h"

#include <string>

#ifdef CUDA_EMU_SAN
/* Device memory came and went. */
void san_region(char *at, size_t bytes);
void san_region_end(char *at);
/* The host's copies, in the stream's order: [at, at + bytes) is read or written. */
void san_host(const void *at, size_t bytes, bool write, const char *what);
/* What the host gives for a copy must stay so until the copy. */
static inline std::string san_source(const void *at, size_t bytes)
{
    return std::string((const char *)at, bytes);
}
/* A launch of a library reads or writes. */
void san_library(const void *at, size_t bytes, bool write);
/* A launch begins, a block of it, a thread goes on, a thread ends. */
void san_launch(const char *kernel, bool early);
void san_block(unsigned char *shared, size_t bytes, int n_threads);
void san_thread(const char *stack, size_t bytes);
void san_thread_end();
/* All threads of the block, of the warp, have arrived. */
void san_block_arrived();
void san_warp_arrived(int warp);
/* ldmatrix: the warp reads a row; cp.async: the copy was asked for, was waited for. */
void san_warp_reads(const void *at, size_t bytes, const void *pc);
void san_copy_asked(void *to, const void *from, size_t bytes, const void *pc);
void san_copy_done(void *to);
void san_complain(const char *what, const void *pc);
/* All that was enqueued has run: scratch holds nothing any more. Ends the process if something was found. */
void san_drained();
#else
static inline void san_region(char *, size_t) {}
static inline void san_region_end(char *) {}
static inline void san_host(const void *, size_t, bool, const char *) {}
static inline std::string san_source(const void *, size_t) { return std::string(); }
static inline void san_library(const void *, size_t, bool) {}
static inline void san_launch(const char *, bool) {}
static inline void san_block(unsigned char *, size_t, int) {}
static inline void san_thread(const char *, size_t) {}
static inline void san_thread_end() {}
static inline void san_block_arrived() {}
static inline void san_warp_arrived(int) {}
static inline void san_warp_reads(const void *, size_t, const void *) {}
static inline void san_copy_asked(void *, const void *, size_t, const void *) {}
static inline void san_copy_done(void *) {}
static inline void san_complain(const char *, const void *) {}
static inline void san_drained() {}
#endif

#endif
