#include "parallel.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace prototxt_gen {

namespace {

std::ptrdiff_t thread_count() {
  const std::ptrdiff_t cores = std::max(1u, std::thread::hardware_concurrency());
  const char* const limit = std::getenv("OMP_NUM_THREADS");
  const long wanted = limit ? std::strtol(limit, nullptr, 10) : 0;
  return wanted > 0 ? std::min<std::ptrdiff_t>(wanted, cores) : cores;
}

// Threads that live as long as the process. Each has a fixed range of every job, so that a result never depends on who
// was quicker.
class Team {
 public:
  explicit Team(std::ptrdiff_t threads) : threads_(threads), owner_(getpid()) {
    for (std::ptrdiff_t i = 1; i < threads; ++i) {
      std::thread(&Team::work, this, i).detach();
    }
  }

  void run(std::ptrdiff_t count, const RangeFunction& function) {
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (threads_ == 1 || count == 1 || !turn.owns_lock() || getpid() != owner_) {
      function(0, count);
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      count_ = count;
      function_ = &function;
      running_ = threads_ - 1;
      ++job_;
    }
    start_.notify_all();
    run_part(0, count, function);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void run_part(std::ptrdiff_t part, std::ptrdiff_t count, const RangeFunction& function) const {
    const std::ptrdiff_t begin = count * part / threads_;
    const std::ptrdiff_t end = count * (part + 1) / threads_;
    if (begin < end) {
      function(begin, end);
    }
  }

  void work(std::ptrdiff_t part) {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [this, seen] { return job_ != seen; });
      seen = job_;
      const std::ptrdiff_t count = count_;
      const RangeFunction& function = *function_;
      lock.unlock();
      run_part(part, count, function);
      lock.lock();
      if (--running_ == 0) {
        done_.notify_one();
      }
    }
  }

  const std::ptrdiff_t threads_;
  const pid_t owner_;
  std::mutex turn_;  // held by the call whose job is running
  std::mutex mutex_;  // guards what follows
  std::condition_variable start_, done_;
  std::uint64_t job_ = 0;
  std::ptrdiff_t count_ = 0;
  std::ptrdiff_t running_ = 0;
  const RangeFunction* function_ = nullptr;
};

}  // namespace

void parallel_ranges(std::ptrdiff_t count, const RangeFunction& run) {
  if (count <= 0) {
    return;
  }
  // Never destroyed: at exit its threads may still be waiting.
  static Team& team = *new Team(thread_count());
  team.run(count, run);
}

}  // namespace prototxt_gen
