// Loops of the CPU drivers over plain arrays: for the vector units at hand, and past the caches where that pays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <emmintrin.h>
#endif

#include "vector_clones.hpp"

#define PROTOTXT_GEN_INLINE __attribute__((always_inline)) inline
#define PROTOTXT_GEN_INLINE_LAMBDA __attribute__((always_inline))

namespace prototxt_gen {

// Two sums over a channel, in lanes: value i of a run belongs to lane i modulo kLanes, however wide the vectors are.
constexpr int kLanes = 16;

struct LaneSums {
  double first[kLanes] = {};
  double second[kLanes] = {};
};

inline double lane_total(const double* lanes) {
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    total += lanes[lane];
  }
  return total;
}

// Adds to the sums what terms(i, &first, &second) gives for every i in [0, count). Within a block the lanes add in T:
// that are 32 additions in a row, whose rounding a mean over many blocks does not notice.
template <typename T, typename Terms>
PROTOTXT_GEN_INLINE void add_terms(std::ptrdiff_t count, const Terms& terms, LaneSums* sums) {
  constexpr std::ptrdiff_t kBlock = 32 * kLanes;
  for (std::ptrdiff_t begin = 0; begin < count; begin += kBlock) {
    const std::ptrdiff_t end = std::min(count, begin + kBlock);
    T first[kLanes] = {};
    T second[kLanes] = {};
    std::ptrdiff_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) {
        T one, other;
        terms(i + lane, &one, &other);
        first[lane] += one;
        second[lane] += other;
      }
    }
    for (int lane = 0; i < end; ++i, ++lane) {
      T one, other;
      terms(i, &one, &other);
      first[lane] += one;
      second[lane] += other;
    }
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      sums->first[lane] += static_cast<double>(first[lane]);
      sums->second[lane] += static_cast<double>(second[lane]);
    }
  }
}

// Writes value(i) to out[i]. A value may be read from the place it is written to.
template <typename T, typename Value>
PROTOTXT_GEN_INLINE void write_values(std::ptrdiff_t count, const Value& value, T* out) {
#pragma omp simd
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    out[i] = value(i);
  }
}

// An array of this size does not stay in the caches until it is read again.
inline bool outgrows_caches(std::ptrdiff_t bytes) { return bytes >= (std::ptrdiff_t{16} << 20); }

// A copy that does not read the lines it overwrites into the caches. fence_streams() must follow on the same thread
// before another one reads.
inline void stream_copy(const void* from, std::ptrdiff_t bytes, void* to) {
#ifdef __x86_64__
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  constexpr std::ptrdiff_t kLine = 64;
  const std::ptrdiff_t past = static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(target) % kLine);
  const std::ptrdiff_t head = std::min(bytes, (kLine - past) % kLine);
  std::memcpy(target, source, static_cast<std::size_t>(head));
  std::ptrdiff_t done = head;
  for (; done + kLine <= bytes; done += kLine) {
    for (int part = 0; part < kLine; part += 16) {
      const __m128i piece = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + done + part));
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + done + part), piece);
    }
  }
  std::memcpy(target + done, source + done, static_cast<std::size_t>(bytes - done));
#else
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
#endif
}

inline void fence_streams() {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

// Takes the values of one array in order, piece by piece, and writes them past the caches through a small buffer, or,
// where that is not wanted, straight away. T must be float or double.
template <typename T>
class Writer {
 public:
  Writer(T* to, bool stream) : to_(to), stream_(stream) {}

  // Calls make(begin, count, out) for consecutive pieces of [0, count), which writes their values to out.
  template <typename Make>
  void write(std::ptrdiff_t count, const Make& make) {
    if (!stream_) {
      make(std::ptrdiff_t{0}, count, to_);
      to_ += count;
      return;
    }
    for (std::ptrdiff_t begin = 0; begin < count;) {
      const std::ptrdiff_t piece = std::min(count - begin, kValues - held_);
      make(begin, piece, buffer_ + held_);
      held_ += piece;
      begin += piece;
      if (held_ == kValues) {
        flush();
      }
    }
  }

  void flush() {
    stream_copy(buffer_, held_ * static_cast<std::ptrdiff_t>(sizeof(T)), to_);
    to_ += held_;
    held_ = 0;
  }

 private:
  static constexpr std::ptrdiff_t kValues = 1024;
  T* to_;
  const bool stream_;
  std::ptrdiff_t held_ = 0;
  T buffer_[kValues];
};

}  // namespace prototxt_gen
