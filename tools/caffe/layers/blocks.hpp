// How a kernel runs: in blocks of threads, on the GPU or, for tests, one after the other on the host.
//
// A kernel is a struct of plain values with
//   struct Shared { ... };                                        what the threads of a block share
//   template <typename Block> void operator()(const Block& block, Shared* shared) const;
// and is written in steps: block.each(step) runs step(t) for every thread t of the block, and no thread begins the next
// step before all have ended this one. What a thread keeps from step to step lies in Shared. Within a step the threads
// run in any order, so none may read what another writes in the same one.
//
// grid.run(blocks, kernel) runs a kernel, after those that were given before it, in blocks of grid.threads() threads.
#pragma once

#include "host_device.hpp"

namespace prototxt_gen {

// A power of two, as sums over a block need.
constexpr int kMaxThreads = 256;

// Adds up value[0 .. threads), which the block's threads have written, into value[0]; always in the same order.
template <typename Block, typename T>
PROTOTXT_GEN_KERNEL void block_sum(const Block& block, T* value) {
  for (int half = block.threads() / 2; half > 0; half /= 2) {
    block.each([=](int t) {
      if (t < half) {
        value[t] += value[t + half];
      }
    });
  }
}

}  // namespace prototxt_gen
