#include "parallel.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace prototxt_gen {

namespace {

// Longer than the gap between two jobs of a layer and than most gaps between layers; waking a sleeping thread takes
// about as long.
constexpr std::chrono::microseconds kLookout{40};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

template <typename Condition>
bool seen_soon(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kLookout;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) {
        return true;
      }
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

std::ptrdiff_t thread_count() {
  const std::ptrdiff_t cores = std::max(1u, std::thread::hardware_concurrency());
  const char* const limit = std::getenv("OMP_NUM_THREADS");
  const long wanted = limit ? std::strtol(limit, nullptr, 10) : 0;
  return wanted > 0 ? std::min<std::ptrdiff_t>(wanted, cores) : cores;
}

thread_local bool in_job = false;

// Threads that live as long as the process. Each has a fixed range of every job, so that a result never depends on who
// was quicker.
class Team {
 public:
  explicit Team(std::ptrdiff_t threads) : threads_(threads), owner_(getpid()) {
    for (std::ptrdiff_t i = 1; i < threads; ++i) {
      std::thread(&Team::work, this, i).detach();
    }
  }

  std::ptrdiff_t threads() const { return threads_; }

  void run(std::ptrdiff_t count, const RangeFunction& function) {
    if (threads_ == 1 || count == 1 || in_job || getpid() != owner_) {
      function(0, count);
      return;
    }
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) {
      function(0, count);
      return;
    }
    bool asleep;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      count_ = count;
      function_ = &function;
      running_.store(threads_ - 1, std::memory_order_relaxed);
      job_.fetch_add(1, std::memory_order_release);
      asleep = sleepers_ > 0;
    }
    if (asleep) {
      start_.notify_all();
    }
    run_part(0, count, function);
    const auto done = [this] { return running_.load(std::memory_order_acquire) == 0; };
    if (!seen_soon(done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, done);
    }
  }

 private:
  void run_part(std::ptrdiff_t part, std::ptrdiff_t count, const RangeFunction& function) const {
    const std::ptrdiff_t begin = count * part / threads_;
    const std::ptrdiff_t end = count * (part + 1) / threads_;
    if (begin < end) {
      in_job = true;
      function(begin, end);
      in_job = false;
    }
  }

  void work(std::ptrdiff_t part) {
    std::uint64_t seen = 0;
    const auto started = [this, &seen] { return job_.load(std::memory_order_acquire) != seen; };
    for (;;) {
      if (!seen_soon(started)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        start_.wait(lock, started);
        --sleepers_;
      }
      // The next job waits for this one's end, so nothing below changes before running_ is lowered.
      ++seen;
      run_part(part, count_, *function_);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        // The owner looks at running_ under the mutex before it sleeps: without it, the call could come in between.
        const std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  const std::ptrdiff_t threads_;
  const pid_t owner_;
  std::mutex turn_;  // held by the call whose job is running
  std::mutex mutex_;  // guards sleepers_ and both conditions
  std::condition_variable start_, done_;
  std::ptrdiff_t sleepers_ = 0;
  // Written before job_ rises, read after.
  std::ptrdiff_t count_ = 0;
  const RangeFunction* function_ = nullptr;
  std::atomic<std::uint64_t> job_{0};
  std::atomic<std::ptrdiff_t> running_{0};
};

Team& team() {
  // Never destroyed: at exit its threads may still be waiting.
  static Team& one = *new Team(thread_count());
  return one;
}

}  // namespace

std::ptrdiff_t parallel_threads() { return team().threads(); }

void parallel_ranges(std::ptrdiff_t count, const RangeFunction& run) {
  if (count > 0) {
    team().run(count, run);
  }
}

}  // namespace prototxt_gen
