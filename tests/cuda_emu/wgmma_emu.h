/* wgmma_emu: what cuda_emu.cc and sanitize.cc tell the emulated wgmma (wgmma_emu.cc). */
#ifndef SIROCCO_TESTS_CUDA_EMU_WGMMA_EMU_H
#define SIROCCO_TESTS_CUDA_EMU_WGMMA_EMU_H

#include <stddef.h>

/* A launch begins, a block of it, all threads of the block have met, a thread ends. */
void wgmma_launch(int number);
void wgmma_block(unsigned char *shared, size_t bytes, int n_threads);
void wgmma_block_arrived();
void wgmma_thread_end();
/* The running thread has written there, or a cp.async of its own, which it waited for, has. */
void wgmma_written(const void *at, size_t bytes);

#endif
