// The backward pass for the weights of small groups.

#include <algorithm>
#include <vector>

#include "grouped_convolution_cpu.hpp"
#include "lanes_cpu.hpp"
#include "padded_planes_cpu.hpp"
#include "parallel.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;
using Vector = Lanes<float>::Values;

constexpr Size kTaps = 3;   // taps of a row that are summed up at a time
constexpr Size kDiffs = 2;  // channels out that are

// sums[o][l] = the sum over rows and columns of dy[o] x[l]. Arrays go on for a vector after the last column; what is
// there does not count.
PROTOTXT_GEN_CLONES void multiply_planes(Size rows, Size columns, const float* const* dy, Size dy_step,
                                         const float* const* x, Size x_step, float (*sums)[kTaps]) {
  using Picks = Lanes<float>::Picks;
  Vector totals[kDiffs][kTaps] = {};
  const auto add = [&](Size i, Size j, const Picks& mask) PROTOTXT_GEN_INLINE_LAMBDA {
    Vector diffs[kDiffs], values;
#pragma GCC unroll 2
    for (Size o = 0; o < kDiffs; ++o) {
      load(dy[o] + i * dy_step + j, &diffs[o]);
    }
#pragma GCC unroll 3
    for (Size l = 0; l < kTaps; ++l) {
      load(x[l] + i * x_step + j, &values);
      values = reinterpret_cast<Vector>(reinterpret_cast<Picks>(values) & mask);
#pragma GCC unroll 2
      for (Size o = 0; o < kDiffs; ++o) {
        totals[o][l] += diffs[o] * values;
      }
    }
  };
  const Picks all = Picks{} - 1;
  Picks rest;
  for (int lane = 0; lane < kEight; ++lane) {
    rest[lane] = lane < columns % kEight ? -1 : 0;
  }
  for (Size i = 0; i < rows; ++i) {
    Size j = 0;
    for (; j + kEight <= columns; j += kEight) {
      add(i, j, all);
    }
    if (j < columns) {
      add(i, j, rest);
    }
  }
  for (Size o = 0; o < kDiffs; ++o) {
    for (Size l = 0; l < kTaps; ++l) {
      float sum = 0;
      for (int lane = 0; lane < kEight; ++lane) {
        sum += totals[o][l][lane];
      }
      sums[o][l] = sum;
    }
  }
}

}  // namespace

void grouped_backward_weights(const ConvolutionShape& s, const float* x, const float* dy, float* dweights) {
  const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
  const Size columns = s.size_out[1], length = (columns + kEight - 1) / kEight * kEight;
  const PaddedLayout inputs = input_layout(s, length);
  const PaddedLayout outputs = {out, {s.size_out[0], columns}, {0, 0}, s.size_out[0], 1, length};
  std::vector<Size> places;  // of the taps, in the last ones' place if there are fewer than are summed up at a time
  for (Size l = 0; l < s.kernel[1] + kTaps; ++l) {
    places.push_back(inputs.column(std::min(l, s.kernel[1] - 1)));
  }
  parallel_ranges(s.groups, [&](Size begin, Size end) {
    PaddedPlanes values(inputs), diffs(outputs);
    for (Size g = begin; g < end; ++g) {
      float* const own = dweights + g * out * in * plane_values(s.kernel);
      for (Size n = 0; n < s.images; ++n) {
        values.take(x + (n * s.channels_in + g * in) * plane_values(s.size_in));
        diffs.take(dy + (n * s.channels_out + g * out) * plane_values(s.size_out));
        for (Size i = 0; i < in * s.kernel[0]; ++i) {
          const Size c = i / s.kernel[0], k = i % s.kernel[0];
          for (Size l = 0; l < s.kernel[1]; l += kTaps) {
            const float* taps[kTaps];
            for (Size t = 0; t < kTaps; ++t) {
              taps[t] = values.row(c, k) + places[l + t];
            }
            for (Size o = 0; o < out; o += kDiffs) {
              const float* const rows[kDiffs] = {diffs.row(o, 0), diffs.row(std::min(o + 1, out - 1), 0)};
              float sums[kDiffs][kTaps];
              multiply_planes(s.size_out[0], columns, rows, outputs.row_step(), taps, s.stride[0] * inputs.row_step(),
                              sums);
              for (Size d = 0; d < std::min(kDiffs, out - o); ++d) {
                for (Size t = 0; t < std::min(kTaps, s.kernel[1] - l); ++t) {
                  own[(((o + d) * in + c) * s.kernel[0] + k) * s.kernel[1] + l + t] += sums[d][t];
                }
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace prototxt_gen
