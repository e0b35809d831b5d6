#include "elementwise_cpu.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.hpp"
#include "vector_clones.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;

// Values below which waking a thread takes longer than the work.
constexpr Size kWorthThreads = 1 << 15;
// Ranges begin at multiples of a cache line, so that no line is written by two threads.
constexpr Size kLine = 16;

template <typename Range>
void over(Size count, const Range& range) {
  if (count < kWorthThreads) {
    range(0, count);
    return;
  }
  parallel_ranges((count + kLine - 1) / kLine,
                  [&](Size begin, Size end) { range(begin * kLine, std::min(end * kLine, count)); });
}

// e^x = 2^n e^r, n = round(x / ln 2), |r| <= ln 2 / 2, e^r by its series up to r^7: the rest is below 2^-26. ln 2 is
// cut in two so that n times its first part is exact.
inline float exponential(float x) {
  const float bounded = std::min(std::max(x, -87.0f), 88.0f);
  // Adding 1.5 2^23 leaves the nearest integer in the last bits.
  const float shifter = 12582912.0f;
  const float shifted = bounded * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float e = 1.0f / 5040;
  e = e * r + 1.0f / 720;
  e = e * r + 1.0f / 120;
  e = e * r + 1.0f / 24;
  e = e * r + 1.0f / 6;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  std::int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const std::int32_t power = (bits - 0x4B400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &power, sizeof scale);
  return e * scale;
}

PROTOTXT_GEN_CLONES
void sigmoid_range(Size begin, Size end, const float* x, float* y) {
#pragma omp simd
  for (Size i = begin; i < end; ++i) {
    y[i] = 1.0f / (1.0f + exponential(-x[i]));
  }
}

// By masks of bits, because GCC makes a branch of each comparison of floats here, and signs are a coin's toss.
PROTOTXT_GEN_CLONES
void relu_backward_range(Size begin, Size end, float slope, const float* x, const float* dy, float* dx) {
  constexpr std::int32_t kOne = 0x3F800000, kInfinity = 0x7F800000;
  std::int32_t slope_bits;
  std::memcpy(&slope_bits, &slope, sizeof slope_bits);
#pragma omp simd
  for (Size i = begin; i < end; ++i) {
    std::int32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    const std::int32_t above = bits > 0 ? kOne : slope_bits;
    const std::int32_t chosen = (bits & 0x7FFFFFFF) <= kInfinity ? above : 0;
    float factor;
    std::memcpy(&factor, &chosen, sizeof factor);
    dx[i] = dy[i] * factor;
  }
}

// y = a op b for two, in one pass over memory; further ones follow block by block, while y is in the cache.
template <typename Operation>
void fold(Size count, const std::vector<const float*>& x, float* y, const Operation& operation) {
  constexpr Size kBlock = 4096;
  over(count, [&](Size begin, Size end) {
    for (Size from = begin; from < end; from += kBlock) {
      const Size to = std::min(from + kBlock, end);
      const float* const a = x[0];
      const float* const b = x[1];
#pragma omp simd
      for (Size i = from; i < to; ++i) {
        y[i] = operation(a[i], b[i]);
      }
      for (std::size_t k = 2; k < x.size(); ++k) {
        const float* const c = x[k];
#pragma omp simd
        for (Size i = from; i < to; ++i) {
          y[i] = operation(y[i], c[i]);
        }
      }
    }
  });
}

}  // namespace

void relu_forward(Size count, float slope, const float* x, float* y) {
  over(count, [=](Size begin, Size end) {
#pragma omp simd
    for (Size i = begin; i < end; ++i) {
      y[i] = (x[i] < 0.0f ? 0.0f : x[i]) + slope * (0.0f < x[i] ? 0.0f : x[i]);
    }
  });
}

void relu_backward(Size count, float slope, const float* x, const float* dy, float* dx) {
  over(count, [=](Size begin, Size end) { relu_backward_range(begin, end, slope, x, dy, dx); });
}

void sigmoid_forward(Size count, const float* x, float* y) {
  over(count, [=](Size begin, Size end) { sigmoid_range(begin, end, x, y); });
}

void sum(Size count, const std::vector<const float*>& x, float* y) {
  // From 0 on: -0 + -0 is 0 in Caffe.
  fold(count, x, y, [](float a, float b) { return 0.0f + a + b; });
}

void plain_sum(Size count, const std::vector<const float*>& x, float* y) {
  fold(count, x, y, [](float a, float b) { return a + b; });
}

void product(Size count, const std::vector<const float*>& x, float* y) {
  fold(count, x, y, [](float a, float b) { return a * b; });
}

void copy(Size count, const float* x, float* y) {
  over(count, [=](Size begin, Size end) { std::memcpy(y + begin, x + begin, (end - begin) * sizeof(float)); });
}

}  // namespace prototxt_gen
