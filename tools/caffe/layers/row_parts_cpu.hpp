// Rows cut into parts, so that neighbouring windows read neighbouring values whatever their stride: with `left` columns
// of room before the row, column q stride + p, counted from the beginning of the room, is value q of part p.
#pragma once

#include <algorithm>
#include <cstddef>

#include "simd_cpu.hpp"

namespace prototxt_gen {

// Value j of a part is column stride j + shift of the row, for first <= j < last; before and after there is none.
struct RowPart {
  std::ptrdiff_t stride, shift, first, last;
};

// A part of at most `length` values of a row that is `width` columns wide.
inline RowPart row_part(std::ptrdiff_t part, std::ptrdiff_t stride, std::ptrdiff_t left, std::ptrdiff_t width,
                        std::ptrdiff_t length) {
  const std::ptrdiff_t shift = part - left, room = width - shift;
  return {stride, shift, shift < 0 ? (-shift + stride - 1) / stride : 0,
          std::min(length, room <= 0 ? 0 : (room - 1) / stride + 1)};
}

template <std::ptrdiff_t kStride>
PROTOTXT_GEN_INLINE void take_strided(const float* row, const RowPart& part, float* to) {
  const std::ptrdiff_t stride = kStride ? kStride : part.stride;
#pragma omp simd
  for (std::ptrdiff_t j = part.first; j < part.last; ++j) {
    to[j] = row[stride * j + part.shift];
  }
}

// Writes the values that a part has of a row. The strides of most nets are known to the compiler.
inline void take_part(const float* row, const RowPart& part, float* to) {
  if (part.stride == 1) {
    take_strided<1>(row, part, to);
  } else if (part.stride == 2) {
    take_strided<2>(row, part, to);
  } else {
    take_strided<0>(row, part, to);
  }
}

}  // namespace prototxt_gen
