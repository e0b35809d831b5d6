#ifndef PROTOTXT_GEN_PARALLEL_HPP_
#define PROTOTXT_GEN_PARALLEL_HPP_

#include <cstddef>
#include <functional>

namespace prototxt_gen {

// Called with a range [begin, end) of items.
using RangeFunction = std::function<void(std::ptrdiff_t begin, std::ptrdiff_t end)>;

// The number of threads that share a job, the calling one included: one for each core, or OMP_NUM_THREADS where that is
// less.
std::ptrdiff_t parallel_threads();

// Cuts [0, count) into one contiguous range per thread and runs them side by side, one of them on the calling thread.
// A thread without work looks out for the next job for some microseconds, as layers follow one another closely, and
// then sleeps: a team that spins on, as OpenMP's does by default, takes the cores away from other processes. In a job
// that starts another one, where the threads are busy with another call, and in a forked child, which has none,
// everything runs on the calling thread.
void parallel_ranges(std::ptrdiff_t count, const RangeFunction& run);

// The same where the work is worth waking threads; else the whole range on the calling one.
template <typename Range>
void parallel_ranges_if(bool worth_threads, std::ptrdiff_t count, const Range& run) {
  if (worth_threads) {
    parallel_ranges(count, run);
  } else if (count > 0) {
    run(std::ptrdiff_t{0}, count);
  }
}

// Calls item(i) for every i in [0, count), on all threads where the work is worth waking them.
template <typename Item>
void parallel_for(std::ptrdiff_t count, bool worth_threads, const Item& item) {
  parallel_ranges_if(worth_threads, count, [&item](std::ptrdiff_t begin, std::ptrdiff_t end) {
    for (std::ptrdiff_t i = begin; i < end; ++i) {
      item(i);
    }
  });
}

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_PARALLEL_HPP_
