// Batches made ahead by several threads, and handed out in order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace prototxt_gen {

// Buffers 0 .. buffers - 1 are filled in turn, item by item: item i of batch k by make(thread, k, i), at most one call
// for each thread at a time. What goes into a batch must depend on k and i only; then so do the batches.
class BatchQueue {
 public:
  using Make = std::function<void(int thread, std::uint64_t batch, int item)>;

  BatchQueue(int threads, int buffers, int items, Make make)
      : buffers_(buffers), items_(items), make_(std::move(make)), made_(buffers, 0) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back(&BatchQueue::work, this, i);
    }
  }

  // Waits for the items that are being made.
  ~BatchQueue() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    free_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  // The next batch's number, when it is complete; its buffer, number % buffers, is the caller's until the next call.
  std::uint64_t next() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (taken_ > 0) {
      made_[(taken_ - 1) % buffers_] = 0;
      released_ = taken_;
      free_.notify_all();
    }
    full_.wait(lock, [this] { return made_[taken_ % buffers_] == items_; });
    return taken_++;
  }

  // Whether next() would not wait. Until it is called, the buffer of its batch may be read, too.
  bool ready() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return taken_ < released_ + buffers_ && made_[taken_ % buffers_] == items_;
  }

 private:
  void work(int thread) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      free_.wait(lock, [this] { return stopping_ || ticket_ / items_ < released_ + buffers_; });
      if (stopping_) {
        return;
      }
      const std::uint64_t batch = ticket_ / items_;
      const int item = static_cast<int>(ticket_ % items_);
      ++ticket_;
      lock.unlock();
      make_(thread, batch, item);
      lock.lock();
      if (++made_[batch % buffers_] == items_) {
        full_.notify_one();
      }
    }
  }

  const std::uint64_t buffers_;
  const int items_;
  const Make make_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable free_, full_;
  std::vector<int> made_;       // items finished, for each buffer
  std::uint64_t ticket_ = 0;    // items begun
  std::uint64_t taken_ = 0;     // batches handed out
  std::uint64_t released_ = 0;  // of which given back
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace prototxt_gen
