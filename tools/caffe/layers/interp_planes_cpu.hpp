// What both passes of Interp's CPU driver share.
#pragma once

#include <algorithm>
#include <cstddef>

#include "interp_cpu.hpp"
#include "parallel.hpp"

namespace prototxt_gen {

inline std::ptrdiff_t interp_in_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.in_height) * shape.in_width;
}

inline std::ptrdiff_t interp_out_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.out_height) * shape.out_width;
}

// Where the window starts in a plane.
inline std::ptrdiff_t interp_window(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.top) * shape.in_width + shape.left;
}

// Runs ranges of items, planes or groups of them, side by side.
template <typename Run>
void for_planes(const InterpShape& shape, std::ptrdiff_t items, const Run& run) {
  // Below this many values a team of threads costs more than it saves.
  constexpr std::ptrdiff_t kParallelValues = 32768;
  const std::ptrdiff_t values = shape.planes * std::max(interp_in_values(shape), interp_out_values(shape));
  parallel_ranges_if(values >= kParallelValues, items, run);
}

template <typename T>
void copy_rows(int rows, int width, const T* from, int from_stride, T* to, int to_stride) {
  for (int i = 0; i < rows; ++i) {
    std::copy_n(from + static_cast<std::ptrdiff_t>(i) * from_stride, width,
                to + static_cast<std::ptrdiff_t>(i) * to_stride);
  }
}

}  // namespace prototxt_gen
