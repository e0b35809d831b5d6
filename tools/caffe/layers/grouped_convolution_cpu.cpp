#include "grouped_convolution_cpu.hpp"

#include <algorithm>
#include <vector>

#include "lanes_cpu.hpp"
#include "padded_planes_cpu.hpp"
#include "parallel.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;
using Vector = Lanes<float>::Values;

constexpr Size kChannels = 12;         // of a small group
constexpr Size kOutputs = 4;           // channels that are made at a time
constexpr Size kColumns = 2 * kEight;  // values of a row that are made at a time

// What is added up for a value: the values that lie at these distances from its own place, each times its weight for
// each of kOutputs channels.
struct Terms {
  std::vector<Size> distances;
  std::vector<float> weights;
};

// out[o][j] = start[o] + the sum of the terms of column j, for `outputs` channels.
PROTOTXT_GEN_CLONES void add_terms_up(const float* place, const Terms& terms, Size columns, const float* start,
                                      Size outputs, float* const* out) {
  const Size count = static_cast<Size>(terms.distances.size());
  const Size* const distances = terms.distances.data();
  for (Size next = 0; next < columns; next += kColumns) {
    const Size j = std::max<Size>(0, std::min(next, columns - kColumns));
    Vector sums[kOutputs][2];
#pragma GCC unroll 4
    for (Size o = 0; o < kOutputs; ++o) {
      sums[o][0] = sums[o][1] = Vector{} + start[o];
    }
    const float* weights = terms.weights.data();
    for (Size t = 0; t < count; ++t, weights += kOutputs) {
      Vector one, other;
      load(place + distances[t] + j, &one);
      load(place + distances[t] + j + kEight, &other);
#pragma GCC unroll 4
      for (Size o = 0; o < kOutputs; ++o) {
        sums[o][0] += weights[o] * one;
        sums[o][1] += weights[o] * other;
      }
    }
    for (Size o = 0; o < outputs; ++o) {
      float made[kColumns];
      float* const to = columns < kColumns ? made : out[o] + j;
      store<float>(sums[o][0], to);
      store<float>(sums[o][1], to + kEight);
      if (columns < kColumns) {
        std::copy_n(made, columns, out[o]);
      }
    }
  }
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// The terms of the channels out from `first` on.
Terms forward_terms(const ConvolutionShape& s, const PaddedLayout& layout, const float* weights, Size first,
                    Size outputs) {
  const Size in = s.channels_in / s.groups;
  Terms terms;
  for (Size c = 0; c < in; ++c) {
    for (Size k = 0; k < s.kernel[0]; ++k) {
      for (Size l = 0; l < s.kernel[1]; ++l) {
        terms.distances.push_back(layout.row(c, k) + layout.column(l));
        for (Size o = 0; o < kOutputs; ++o) {
          const Size at = (((first + o) * in + c) * s.kernel[0] + k) * s.kernel[1] + l;
          terms.weights.push_back(o < outputs ? weights[at] : 0.0f);
        }
      }
    }
  }
  return terms;
}

}  // namespace

bool has_small_groups(const ConvolutionShape& s) {
  const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
  return s.groups > 1 && in <= kChannels && out <= kChannels && (in % kEight != 0 || out % kEight != 0) &&
         s.dilation[0] == 1 && s.dilation[1] == 1;
}

void grouped_forward(const ConvolutionShape& s, const float* x, const float* weights, const float* bias, float* y) {
  const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
  const PaddedLayout layout = input_layout(s, std::max(s.size_out[1], kColumns));
  const Size blocks = (out + kOutputs - 1) / kOutputs;
  std::vector<Terms> terms;
  for (Size i = 0; i < s.groups * blocks; ++i) {
    const Size first = i % blocks * kOutputs;
    terms.push_back(forward_terms(s, layout, weights, i / blocks * out + first, std::min(kOutputs, out - first)));
  }
  parallel_ranges(s.images * s.groups, [&](Size begin, Size end) {
    PaddedPlanes planes(layout);
    for (Size item = begin; item < end; ++item) {
      const Size n = item / s.groups, g = item % s.groups;
      planes.take(x + (n * s.channels_in + g * in) * plane_values(s.size_in));
      for (Size block = 0; block < blocks; ++block) {
        const Size channel = g * out + block * kOutputs, outputs = std::min(kOutputs, out - block * kOutputs);
        float start[kOutputs] = {};
        float* rows[kOutputs] = {};
        for (Size o = 0; o < outputs; ++o) {
          start[o] = bias ? bias[channel + o] : 0.0f;
          rows[o] = y + (n * s.channels_out + channel + o) * plane_values(s.size_out);
        }
        for (Size i = 0; i < s.size_out[0]; ++i) {
          add_terms_up(planes.row(0, i * s.stride[0]), terms[g * blocks + block], s.size_out[1], start, outputs, rows);
          for (Size o = 0; o < outputs; ++o) {
            rows[o] += s.size_out[1];
          }
        }
      }
    }
  });
}

// ---- Backward, data ------------------------------------------------------------------------------------------------

namespace {

// Along one axis the values of dx fall into as many classes as the stride is long: those of class a, at i with
// (i + pad) % stride = a, are read by the taps a, a + stride, a + 2 stride, ... of the outputs (i + pad) / stride,
// one less, two less, ...
struct Axis {
  Axis(const ConvolutionShape& s, int axis)
      : size(s.size_in[axis]), kernel(s.kernel[axis]), stride(s.stride[axis]), pad(s.pad[axis]),
        room((kernel + stride - 1) / stride - 1), outputs((size - 1 + pad) / stride + 1) {}

  Size first(Size a) const { return ((a - pad) % stride + stride) % stride; }  // of the class
  Size count(Size a) const { return first(a) < size ? (size - first(a) + stride - 1) / stride : 0; }
  Size newest(Size i) const { return (i + pad) / stride; }

  Size size, kernel, stride, pad;
  Size room;     // before the first output: what the last tap of the first value reads
  Size outputs;  // up to the newest one of the last value
};

// The terms of a class of values, for the channels in of a group from `first` on.
Terms backward_terms(const ConvolutionShape& s, const PaddedLayout& layout, const float* weights, const Axis axes[2],
                     Size row_class, Size column_class, Size group, Size first, Size outputs) {
  const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
  Terms terms;
  for (Size o = 0; o < out; ++o) {
    for (Size k = row_class; k < axes[0].kernel; k += axes[0].stride) {
      for (Size l = column_class; l < axes[1].kernel; l += axes[1].stride) {
        terms.distances.push_back(layout.row(o, 0) - k / axes[0].stride * layout.row_step() - l / axes[1].stride);
        for (Size c = 0; c < kOutputs; ++c) {
          const Size at = (((group * out + o) * in + first + c) * axes[0].kernel + k) * axes[1].kernel + l;
          terms.weights.push_back(c < outputs ? weights[at] : 0.0f);
        }
      }
    }
  }
  return terms;
}

}  // namespace

void grouped_backward_data(const ConvolutionShape& s, const float* dy, const float* weights, float* dx) {
  const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
  const Axis axes[2] = {Axis(s, 0), Axis(s, 1)};
  const Axis &rows = axes[0], &columns = axes[1];
  const PaddedLayout layout = {out, {s.size_out[0], s.size_out[1]}, {rows.room, columns.room},
                               rows.room + rows.outputs, 1, columns.room + columns.outputs + kColumns};
  const Size blocks = (in + kOutputs - 1) / kOutputs, classes = rows.stride * columns.stride;
  std::vector<Terms> terms;
  for (Size i = 0; i < s.groups * blocks * classes; ++i) {
    const Size a = i % classes / columns.stride, b = i % columns.stride, block = i / classes % blocks;
    terms.push_back(backward_terms(s, layout, weights, axes, a, b, i / classes / blocks, block * kOutputs,
                                   std::min(kOutputs, in - block * kOutputs)));
  }
  parallel_ranges(s.images * s.groups, [&](Size begin, Size end) {
    PaddedPlanes planes(layout);
    std::vector<float> apart(columns.stride > 1 ? kOutputs * columns.size : 0);  // rows of one class of columns
    const float start[kOutputs] = {};
    for (Size item = begin; item < end; ++item) {
      const Size n = item / s.groups, g = item % s.groups;
      planes.take(dy + (n * s.channels_out + g * out) * plane_values(s.size_out));
      for (Size i = 0; i < blocks * rows.size; ++i) {
        const Size block = i / rows.size, row = i % rows.size, a = (row + rows.pad) % rows.stride;
        const Size outputs = std::min(kOutputs, in - block * kOutputs);
        float* const to = dx + ((n * s.channels_in + g * in + block * kOutputs) * rows.size + row) * columns.size;
        for (Size b = 0; b < columns.stride; ++b) {
          const Size first = columns.first(b), count = columns.count(b);
          if (count == 0) {
            continue;
          }
          float* made[kOutputs] = {};
          for (Size c = 0; c < outputs; ++c) {
            made[c] = columns.stride > 1 ? apart.data() + c * columns.size : to + c * plane_values(s.size_in);
          }
          add_terms_up(planes.row(0, rows.room + rows.newest(row)) + columns.room + columns.newest(first),
                       terms[(g * blocks + block) * classes + a * columns.stride + b], count, start, outputs, made);
          for (Size c = 0; columns.stride > 1 && c < outputs; ++c) {
            float* const own = to + c * plane_values(s.size_in) + first;
            for (Size j = 0; j < count; ++j) {
              own[columns.stride * j] = made[c][j];
            }
          }
        }
      }
    }
  });
}

}  // namespace prototxt_gen
