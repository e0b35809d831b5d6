#include "pooling_cpu.hpp"

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "lanes_cpu.hpp"
#include "parallel.hpp"
#include "row_parts_cpu.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;

constexpr Size kWorthThreads = 1 << 14;

bool worth_threads(const PoolingShape& s) { return s.planes * s.size_in[0] * s.size_in[1] > kWorthThreads; }

struct Window {
  Size begin, end, count;  // count: positions that the divisor counts
};

Window window_of(const PoolingShape& s, int axis, Size out) {
  const Size begin = out * s.stride[axis] - s.pad[axis];
  const Size end = std::min(begin + s.kernel[axis], s.size_in[axis] + s.pad[axis]);
  return {std::max<Size>(begin, 0), std::min(end, s.size_in[axis]), end - begin};
}

// A row of the input as the columns of the windows meet it: tap t of output j is parts[t % stride] [j + t / stride].
// Beyond the row there is nothing that is larger than anything.
class SplitRow {
 public:
  explicit SplitRow(const PoolingShape& s)
      : shape_(s),
        length_(s.size_out[1] + s.kernel[1] / s.stride[1] + kEight),
        values_(length_ * s.stride[1], -std::numeric_limits<float>::infinity()) {
    for (Size part = 0; part < s.stride[1]; ++part) {
      parts_.push_back(row_part(part, s.stride[1], s.pad[1], s.size_in[1], length_));
    }
  }

  void take(const float* row) {
    float* to = values_.data();
    for (const RowPart& part : parts_) {
      take_part(row, part, to);
      to += length_;
    }
  }

  const float* values() const { return values_.data(); }

  // By tap, where the values that it has at all outputs begin.
  std::vector<Size> tap_offsets() const {
    std::vector<Size> made;
    for (Size tap = 0; tap < shape_.kernel[1]; ++tap) {
      made.push_back(tap % shape_.stride[1] * length_ + tap / shape_.stride[1]);
    }
    return made;
  }

 private:
  PoolingShape shape_;
  Size length_;  // up to a vector after the last output's last tap
  std::vector<float> values_;
  std::vector<RowPart> parts_;
};

// By position in a window, how far it is from the window's first place in the plane.
std::vector<Size> distances(const PoolingShape& s) {
  std::vector<Size> made;
  for (Size row = 0; row < s.kernel[0]; ++row) {
    for (Size column = 0; column < s.kernel[1]; ++column) {
      made.push_back(row * s.size_in[1] + column);
    }
  }
  return made;
}

// The first place of a window; where there is padding it may lie before the plane.
Size first_place(const PoolingShape& s, Size i, Size j) {
  return (i * s.stride[0] - s.pad[0]) * s.size_in[1] + j * s.stride[1] - s.pad[1];
}

// Largest values of a row of windows, and the positions that had them first, -1 for none. values[k][j] is what window j
// has at position first + k; windows meet their values in this order, so that of equal ones the first is kept. Writes
// up to seven values more.
PROTOTXT_GEN_CLONES void largest(const std::vector<const float*>& values, Size first, Size columns, float* y,
                                 std::int32_t* positions) {
  for (Size next = 0; next < columns; next += kEight) {
    const Size j = columns < kEight ? 0 : std::min(next, columns - kEight);
    auto best = Lanes<float>::Values{} - FLT_MAX;
    auto position = Lanes<float>::Picks{} - 1;
    auto own = Lanes<float>::Picks{} + static_cast<std::int32_t>(first);
    for (const float* const one : values) {
      Lanes<float>::Values now;
      load(one + j, &now);
      const auto larger = now > best;
      best = larger ? now : best;
      position = larger ? own : position;
      own += 1;
    }
    store<float>(best, y + j);
    std::memcpy(positions + j, &position, sizeof position);
  }
}

// What a mask says of a row of windows, of which i is the index.
void write_mask(const PoolingShape&, const std::vector<Size>&, Size, const std::int32_t* positions, Size columns,
                std::uint8_t* mask) {
  std::copy_n(positions, columns, mask);
}

template <typename Mask>
void write_mask(const PoolingShape& s, const std::vector<Size>& distance, Size i, const std::int32_t* positions,
                Size columns, Mask* mask) {
  for (Size j = 0; j < columns; ++j) {
    mask[j] = static_cast<Mask>(positions[j] < 0 ? -1 : first_place(s, i, j) + distance[positions[j]]);
  }
}

// Calls to(output, place) for the outputs of a plane whose windows have a largest value.
template <typename To>
void for_places(const PoolingShape& s, const std::vector<Size>& distance, const std::uint8_t* mask, const To& to) {
  const Size* const distances = distance.data();
  const Size columns = s.size_out[1], stride = s.stride[1];
  for (Size i = 0, at = 0; i < s.size_out[0]; ++i) {
    Size first = first_place(s, i, 0);
    for (const Size end = at + columns; at < end; ++at, first += stride) {
      if (mask[at] != kManyPositions) {
        to(at, first + distances[mask[at]]);
      }
    }
  }
}

template <typename Mask, typename To>
void for_places(const PoolingShape& s, const std::vector<Size>&, const Mask* mask, const To& to) {
  for (Size at = 0; at < s.size_out[0] * s.size_out[1]; ++at) {
    if (mask[at] >= 0) {
      to(at, static_cast<Size>(mask[at]));
    }
  }
}

}  // namespace

template <typename Mask>
void max_pooling_forward(const PoolingShape& s, const float* x, float* y, Mask* mask) {
  const Size columns = s.size_out[1];
  const std::vector<Size> distance = distances(s);
  parallel_ranges_if(worth_threads(s), s.planes, [&](Size begin, Size end) {
    std::vector<SplitRow> rows(s.kernel[0], SplitRow(s));
    std::vector<SplitRow*> row_of;  // as many rows of the plane as a window has are held at a time
    for (Size row = 0; row < s.size_in[0]; ++row) {
      row_of.push_back(&rows[row % s.kernel[0]]);
    }
    const std::vector<Size> offsets = rows[0].tap_offsets();
    std::vector<const float*> taps;
    std::vector<float> values(columns + kEight);
    std::vector<std::int32_t> positions(columns + kEight);
    for (Size plane = begin; plane < end; ++plane) {
      Size held = 0;  // rows before this one have been split
      for (Size i = 0; i < s.size_out[0]; ++i) {
        const Window window = window_of(s, 0, i);
        for (held = std::max(held, window.begin); held < window.end; ++held) {
          row_of[held]->take(x + (plane * s.size_in[0] + held) * s.size_in[1]);
        }
        taps.clear();
        for (Size row = window.begin; row < window.end; ++row) {
          for (const Size offset : offsets) {
            taps.push_back(row_of[row]->values() + offset);
          }
        }
        const Size first = (window.begin - i * s.stride[0] + s.pad[0]) * s.kernel[1];
        largest(taps, first, columns, values.data(), positions.data());
        const Size at = (plane * s.size_out[0] + i) * columns;
        std::copy_n(values.begin(), columns, y + at);
        write_mask(s, distance, i, positions.data(), columns, mask + at);
      }
    }
  });
}

template <typename Mask>
void max_pooling_backward(const PoolingShape& s, const float* dy, const Mask* mask, float* dx) {
  const Size in = s.size_in[0] * s.size_in[1], out = s.size_out[0] * s.size_out[1];
  const std::vector<Size> distance = distances(s);
  parallel_ranges_if(worth_threads(s), s.planes, [&](Size begin, Size end) {
    for (Size plane = begin; plane < end; ++plane) {
      float* const target = dx + plane * in;
      std::fill_n(target, in, 0.0f);
      const float* const diff = dy + plane * out;
      for_places(s, distance, mask + plane * out, [=](Size at, Size place) { target[place] += diff[at]; });
    }
  });
}

void mean_pooling_forward(const PoolingShape& s, const float* x, float* y) {
  parallel_for(s.planes, worth_threads(s), [&](Size plane) {
    const float* const in = x + plane * s.size_in[0] * s.size_in[1];
    float* out = y + plane * s.size_out[0] * s.size_out[1];
    for (Size i = 0; i < s.size_out[0]; ++i) {
      const Window rows = window_of(s, 0, i);
      for (Size j = 0; j < s.size_out[1]; ++j) {
        const Window columns = window_of(s, 1, j);
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
      const Window rows = window_of(s, 0, i);
      for (Size j = 0; j < s.size_out[1]; ++j) {
        const Window columns = window_of(s, 1, j);
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

template void max_pooling_forward<std::uint8_t>(const PoolingShape&, const float*, float*, std::uint8_t*);
template void max_pooling_forward<int>(const PoolingShape&, const float*, float*, int*);
template void max_pooling_forward<float>(const PoolingShape&, const float*, float*, float*);
template void max_pooling_backward<std::uint8_t>(const PoolingShape&, const float*, const std::uint8_t*, float*);
template void max_pooling_backward<int>(const PoolingShape&, const float*, const int*, float*);
template void max_pooling_backward<float>(const PoolingShape&, const float*, const float*, float*);

}  // namespace prototxt_gen
