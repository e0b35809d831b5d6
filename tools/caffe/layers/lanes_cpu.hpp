// Vectors of eight values, whose lanes can be picked and transposed: for drivers whose rows are too short, or too far
// from one another, for loops that the compiler makes vectors of by itself. Each of eight lanes is one value of T
// however wide the machine's vectors are, so that every machine computes the same.
#pragma once

#include <cstdint>

#include "simd_cpu.hpp"

namespace prototxt_gen {

constexpr int kEight = 8;

// Alignment is written out: left to the compiler, it is another one in each of the clones that a function is made in.
#define PROTOTXT_GEN_VECTOR(T, alignment) \
  __attribute__((vector_size(kEight * sizeof(T)), aligned(alignment), may_alias))

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Values PROTOTXT_GEN_VECTOR(float, 32);
  typedef float LooseValues PROTOTXT_GEN_VECTOR(float, 4);
  typedef std::int32_t Picks PROTOTXT_GEN_VECTOR(std::int32_t, 32);
};
template <>
struct Lanes<double> {
  typedef double Values PROTOTXT_GEN_VECTOR(double, 64);
  typedef double LooseValues PROTOTXT_GEN_VECTOR(double, 8);
  typedef std::int64_t Picks PROTOTXT_GEN_VECTOR(std::int64_t, 64);
};

// For arrays: as a template's argument, a vector by itself loses its alignment.
template <typename T>
struct Eight {
  typename Lanes<T>::Values values;
};

// Vectors go in and out by reference: what is wider than the plain machine's registers has no other safe way.
template <typename T>
PROTOTXT_GEN_INLINE void load(const T* from, typename Lanes<T>::Values* to) {
  *to = *reinterpret_cast<const typename Lanes<T>::LooseValues*>(from);
}

template <typename T>
PROTOTXT_GEN_INLINE void store(const typename Lanes<T>::Values& from, T* to) {
  *reinterpret_cast<typename Lanes<T>::LooseValues*>(to) = from;
}

// out[lane] = from[picks[lane]]
template <typename T>
PROTOTXT_GEN_INLINE void pick(const typename Lanes<T>::Values& from, const typename Lanes<T>::Picks& picks,
                              typename Lanes<T>::Values* out) {
#ifdef __clang__
  const auto values = from;  // `out` may be the same vector
  for (int lane = 0; lane < kEight; ++lane) {
    (*out)[lane] = values[picks[lane]];
  }
#else
  *out = __builtin_shuffle(from, picks);
#endif
}

// Swaps the blocks of `size` lanes off the diagonal between two rows of a matrix: every second block of `one` and every
// first block of `other`.
template <typename T, int size>
PROTOTXT_GEN_INLINE void exchange(typename Lanes<T>::Values* one, typename Lanes<T>::Values* other) {
  const auto first = [](int lane) { return lane / size % 2 == 1 ? lane - size + kEight : lane; };
  const auto second = [](int lane) { return lane / size % 2 == 1 ? lane + kEight : lane + size; };
  const auto a = *one, b = *other;
#ifdef __clang__
  for (int lane = 0; lane < kEight; ++lane) {
    (*one)[lane] = first(lane) < kEight ? a[first(lane)] : b[first(lane) - kEight];
    (*other)[lane] = second(lane) < kEight ? a[second(lane)] : b[second(lane) - kEight];
  }
#else
  using Picks = typename Lanes<T>::Picks;
  *one = __builtin_shuffle(a, b, Picks{first(0), first(1), first(2), first(3), first(4), first(5), first(6), first(7)});
  *other = __builtin_shuffle(
      a, b, Picks{second(0), second(1), second(2), second(3), second(4), second(5), second(6), second(7)});
#endif
}

// Turns eight rows of eight into eight columns of eight.
template <typename T>
PROTOTXT_GEN_INLINE void transpose(typename Lanes<T>::Values* rows) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    exchange<T, 4>(rows + i, rows + i + 4);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int row = i / 2 * 4 + i % 2;
    exchange<T, 2>(rows + row, rows + row + 2);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kEight; i += 2) {
    exchange<T, 1>(rows + i, rows + i + 1);
  }
}

}  // namespace prototxt_gen
