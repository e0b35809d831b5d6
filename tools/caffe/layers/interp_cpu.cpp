#include "interp_cpu.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;

bool worth_threads(const InterpShape& shape) {
  const std::ptrdiff_t in = static_cast<std::ptrdiff_t>(shape.height) * shape.width;
  const std::ptrdiff_t out = static_cast<std::ptrdiff_t>(shape.out_height) * shape.out_width;
  return shape.planes * std::max(in, out) >= kParallelValues;
}

bool equal_sizes(const InterpShape& shape) {
  return shape.height == shape.out_height && shape.width == shape.out_width;
}

std::ptrdiff_t in_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.in_height) * shape.in_width;
}

std::ptrdiff_t out_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.out_height) * shape.out_width;
}

// Where the window starts in a plane.
std::ptrdiff_t window(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.top) * shape.in_width + shape.left;
}

template <typename T>
void copy_rows(int rows, int width, const T* from, int from_stride, T* to, int to_stride) {
  for (int i = 0; i < rows; ++i) {
    std::copy_n(from + static_cast<std::ptrdiff_t>(i) * from_stride, width,
                to + static_cast<std::ptrdiff_t>(i) * to_stride);
  }
}

template <typename T>
void plane_forward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* x, T* y) {
  for (int i = 0; i < shape.out_height; ++i) {
    const InterpTap<T> row = rows[i];
    const T* const low = x + static_cast<std::ptrdiff_t>(row.low) * shape.in_width;
    const T* const high = x + static_cast<std::ptrdiff_t>(row.high) * shape.in_width;
    T* const out = y + static_cast<std::ptrdiff_t>(i) * shape.out_width;
    for (int j = 0; j < shape.out_width; ++j) {
      const InterpTap<T>& column = columns[j];
      out[j] = interp_value(low[column.low], low[column.high], high[column.low], high[column.high], row, column);
    }
  }
}

template <typename T>
void plane_backward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* dy,
                    T* dx) {
  for (int i = 0; i < shape.out_height; ++i) {
    const InterpTap<T> row = rows[i];
    T* const low = dx + static_cast<std::ptrdiff_t>(row.low) * shape.in_width;
    T* const high = dx + static_cast<std::ptrdiff_t>(row.high) * shape.in_width;
    const T* const diff = dy + static_cast<std::ptrdiff_t>(i) * shape.out_width;
    for (int j = 0; j < shape.out_width; ++j) {
      const InterpTap<T>& column = columns[j];
      low[column.low] += row.low_weight * column.low_weight * diff[j];
      low[column.high] += row.low_weight * column.high_weight * diff[j];
      high[column.low] += row.high_weight * column.low_weight * diff[j];
      high[column.high] += row.high_weight * column.high_weight * diff[j];
    }
  }
}

}  // namespace

template <typename T>
void interp_taps(int n_in, int n_out, InterpTap<T>* taps) {
  const float step = interp_step(n_in, n_out);
  for (int i = 0; i < n_out; ++i) {
    taps[i] = interp_tap<T>(i, step, n_in);
  }
}

template <typename T>
void interp_forward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* x, T* y) {
  parallel_for(shape.planes, worth_threads(shape), [&](std::ptrdiff_t p) {
    const T* const from = x + p * in_values(shape) + window(shape);
    T* const to = y + p * out_values(shape);
    if (equal_sizes(shape)) {
      copy_rows(shape.height, shape.width, from, shape.in_width, to, shape.out_width);
    } else {
      plane_forward(shape, rows, columns, from, to);
    }
  });
}

template <typename T>
void interp_backward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* dy,
                     T* dx) {
  parallel_for(shape.planes, worth_threads(shape), [&](std::ptrdiff_t p) {
    const T* const from = dy + p * out_values(shape);
    T* const plane = dx + p * in_values(shape);
    std::fill_n(plane, in_values(shape), T(0));
    if (equal_sizes(shape)) {
      copy_rows(shape.height, shape.width, from, shape.out_width, plane + window(shape), shape.in_width);
    } else {
      plane_backward(shape, rows, columns, from, plane + window(shape));
    }
  });
}

#define PROTOTXT_GEN_INSTANTIATE(T)                                                                        \
  template void interp_taps<T>(int, int, InterpTap<T>*);                                                   \
  template void interp_forward<T>(const InterpShape&, const InterpTap<T>*, const InterpTap<T>*, const T*, T*); \
  template void interp_backward<T>(const InterpShape&, const InterpTap<T>*, const InterpTap<T>*, const T*, T*)

PROTOTXT_GEN_INSTANTIATE(float);
PROTOTXT_GEN_INSTANTIATE(double);

}  // namespace prototxt_gen
