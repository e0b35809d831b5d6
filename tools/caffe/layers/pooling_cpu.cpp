#include "pooling_cpu.hpp"

#include <algorithm>
#include <cfloat>
#include <vector>

#include "parallel.hpp"
#include "vector_clones.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;

constexpr Size kWorthThreads = 1 << 14;

bool worth_threads(const PoolingShape& s) { return s.planes * s.size_in[0] * s.size_in[1] > kWorthThreads; }

struct Window {
  Size begin, end, count;  // count: positions that the divisor counts
};

Window window(const PoolingShape& s, int axis, Size out) {
  const Size begin = out * s.stride[axis] - s.pad[axis];
  const Size end = std::min(begin + s.kernel[axis], s.size_in[axis] + s.pad[axis]);
  return {std::max<Size>(begin, 0), std::min(end, s.size_in[axis]), end - begin};
}

// best[j], place[j] against the values row[stride j], which have the places first + stride j.
template <Size kStride>
PROTOTXT_GEN_CLONES void raise(Size count, Size any_stride, const float* row, int first, float* best,
                                      int* place) {
  const Size stride = kStride ? kStride : any_stride;
#pragma omp simd
  for (Size j = 0; j < count; ++j) {
    const float value = row[stride * j];
    const bool larger = value > best[j];
    best[j] = larger ? value : best[j];
    place[j] = larger ? first + static_cast<int>(stride * j) : place[j];
  }
}

}  // namespace

// Row by row and tap by tap: each output meets its window's values in the order of their places, so that of equal ones
// the first is kept.
template <typename Mask>
void max_pooling_forward(const PoolingShape& s, const float* x, float* y, Mask* mask) {
  const Size columns = s.size_out[1];
  // The outputs [first, last) whose window has tap j inside the row.
  std::vector<Size> first(s.kernel[1]), last(s.kernel[1]);
  for (Size j = 0; j < s.kernel[1]; ++j) {
    const Size shift = s.pad[1] - j;
    const Size room = s.size_in[1] + shift;
    first[j] = std::min(columns, shift <= 0 ? 0 : (shift + s.stride[1] - 1) / s.stride[1]);
    last[j] = std::max(first[j], std::min(columns, room <= 0 ? 0 : (room - 1) / s.stride[1] + 1));
  }
  const auto kernel = s.stride[1] == 1 ? raise<1> : s.stride[1] == 2 ? raise<2> : raise<0>;
  parallel_for(s.planes, worth_threads(s), [&](Size plane) {
    thread_local std::vector<int> place;
    place.resize(columns);
    const float* const in = x + plane * s.size_in[0] * s.size_in[1];
    for (Size i = 0; i < s.size_out[0]; ++i) {
      const Size at = (plane * s.size_out[0] + i) * columns;
      float* const best = y + at;
      std::fill_n(best, columns, -FLT_MAX);
      std::fill_n(place.begin(), columns, -1);
      const Window rows = window(s, 0, i);
      for (Size row = rows.begin; row < rows.end; ++row) {
        for (Size j = 0; j < s.kernel[1]; ++j) {
          const Size from = row * s.size_in[1] + first[j] * s.stride[1] + j - s.pad[1];
          kernel(last[j] - first[j], s.stride[1], in + from, static_cast<int>(from), best + first[j],
                 place.data() + first[j]);
        }
      }
      std::copy_n(place.begin(), columns, mask + at);
    }
  });
}

template <typename Mask>
void max_pooling_backward(const PoolingShape& s, const float* dy, const Mask* mask, float* dx) {
  const Size in = s.size_in[0] * s.size_in[1], out = s.size_out[0] * s.size_out[1];
  parallel_for(s.planes, worth_threads(s), [&](Size plane) {
    float* const target = dx + plane * in;
    std::fill_n(target, in, 0.0f);
    for (Size i = plane * out; i < (plane + 1) * out; ++i) {
      if (mask[i] >= 0) {
        target[static_cast<Size>(mask[i])] += dy[i];
      }
    }
  });
}

void mean_pooling_forward(const PoolingShape& s, const float* x, float* y) {
  parallel_for(s.planes, worth_threads(s), [&](Size plane) {
    const float* const in = x + plane * s.size_in[0] * s.size_in[1];
    float* out = y + plane * s.size_out[0] * s.size_out[1];
    for (Size i = 0; i < s.size_out[0]; ++i) {
      const Window rows = window(s, 0, i);
      for (Size j = 0; j < s.size_out[1]; ++j) {
        const Window columns = window(s, 1, j);
        float sum = 0;
        for (Size row = rows.begin; row < rows.end; ++row) {
          for (Size column = columns.begin; column < columns.end; ++column) {
            sum += in[row * s.size_in[1] + column];
          }
        }
        *out++ = sum / static_cast<float>(rows.count * columns.count);
      }
    }
  });
}

void mean_pooling_backward(const PoolingShape& s, const float* dy, float* dx) {
  parallel_for(s.planes, worth_threads(s), [&](Size plane) {
    float* const out = dx + plane * s.size_in[0] * s.size_in[1];
    const float* in = dy + plane * s.size_out[0] * s.size_out[1];
    std::fill_n(out, s.size_in[0] * s.size_in[1], 0.0f);
    for (Size i = 0; i < s.size_out[0]; ++i) {
      const Window rows = window(s, 0, i);
      for (Size j = 0; j < s.size_out[1]; ++j) {
        const Window columns = window(s, 1, j);
        const float share = *in++ / static_cast<float>(rows.count * columns.count);
        for (Size row = rows.begin; row < rows.end; ++row) {
          for (Size column = columns.begin; column < columns.end; ++column) {
            out[row * s.size_in[1] + column] += share;
          }
        }
      }
    }
  });
}

template void max_pooling_forward<int>(const PoolingShape&, const float*, float*, int*);
template void max_pooling_forward<float>(const PoolingShape&, const float*, float*, float*);
template void max_pooling_backward<int>(const PoolingShape&, const float*, const int*, float*);
template void max_pooling_backward<float>(const PoolingShape&, const float*, const float*, float*);

}  // namespace prototxt_gen
