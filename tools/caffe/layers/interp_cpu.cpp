#include "interp_cpu.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "parallel.hpp"
#include "simd_cpu.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;

bool equal_sizes(const InterpShape& shape) {
  return shape.height == shape.out_height && shape.width == shape.out_width;
}

std::ptrdiff_t in_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.in_height) * shape.in_width;
}

std::ptrdiff_t out_values(const InterpShape& shape) {
  return static_cast<std::ptrdiff_t>(shape.out_height) * shape.out_width;
}

// Runs ranges of items, planes or groups of them, side by side.
template <typename Run>
void for_planes(const InterpShape& shape, std::ptrdiff_t items, const Run& run) {
  if (shape.planes * std::max(in_values(shape), out_values(shape)) >= kParallelValues) {
    parallel_ranges(items, run);
  } else if (items > 0) {
    run(0, items);
  }
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

// The taps of all columns, one array for each of their parts.
template <typename T>
struct Columns {
  std::vector<int> low, high;
  std::vector<T> low_weight, high_weight;

  Columns(const InterpTap<T>* taps, int count) : low(count), high(count), low_weight(count), high_weight(count) {
    for (int j = 0; j < count; ++j) {
      low[j] = taps[j].low;
      high[j] = taps[j].high;
      low_weight[j] = taps[j].low_weight;
      high_weight[j] = taps[j].high_weight;
    }
  }
};

template <typename T>
PROTOTXT_GEN_CLONES void resize_row(const T* x, int count, const int* low, const int* high, const T* low_weight,
                                    const T* high_weight, T* out) {
  write_values(count, [=](std::ptrdiff_t j) PROTOTXT_GEN_INLINE_LAMBDA {
    return interp_between(x[low[j]], x[high[j]], low_weight[j], high_weight[j]);
  }, out);
}

template <typename T>
PROTOTXT_GEN_CLONES void mix_rows(const T* low, const T* high, int count, T low_weight, T high_weight, T* out) {
  write_values(count, [=](std::ptrdiff_t j) PROTOTXT_GEN_INLINE_LAMBDA {
    return interp_between(low[j], high[j], low_weight, high_weight);
  }, out);
}

// Resizes planes one after the other. A row of the input is resized once, for all rows of the output between it and
// its neighbours.
template <typename T>
class PlaneForward {
 public:
  PlaneForward(const InterpShape& shape, const InterpTap<T>* rows, const Columns<T>& columns)
      : shape_(shape), rows_(rows), columns_(columns), low_(shape.out_width), high_(shape.out_width) {}

  void run(const T* x, T* y) {
    int low_row = -1, high_row = -1;
    for (int i = 0; i < shape_.out_height; ++i) {
      const InterpTap<T>& row = rows_[i];
      if (row.low == high_row) {
        std::swap(low_, high_);
        std::swap(low_row, high_row);
      }
      fill(x, row.low, &low_row, low_.data());
      fill(x, row.high, &high_row, high_.data());
      mix_rows(low_.data(), high_.data(), shape_.out_width, row.low_weight, row.high_weight,
               y + static_cast<std::ptrdiff_t>(i) * shape_.out_width);
    }
  }

 private:
  void fill(const T* x, int row, int* held, T* out) const {
    if (*held != row) {
      resize_row(x + static_cast<std::ptrdiff_t>(row) * shape_.in_width, shape_.out_width, columns_.low.data(),
                 columns_.high.data(), columns_.low_weight.data(), columns_.high_weight.data(), out);
      *held = row;
    }
  }

  const InterpShape& shape_;
  const InterpTap<T>* const rows_;
  const Columns<T>& columns_;
  std::vector<T> low_, high_;
};

template <typename T>
void copy_back(const InterpShape& shape, const T* dy, T* dx) {
  std::fill_n(dx, in_values(shape), T(0));
  copy_rows(shape.height, shape.width, dy, shape.out_width, dx + window(shape), shape.in_width);
}

// The planes that the backward pass takes at once: a pixel of all of them is one vector.
constexpr int kPlanes = 16;

template <typename T>
PROTOTXT_GEN_INLINE void add_scaled(const T* from, T scale, T* to) {
#pragma omp simd
  for (int p = 0; p < kPlanes; ++p) {
    to[p] += scale * from[p];
  }
}

// Adds what one row of dy gives to the two rows of dx that it was read from; a row holds pixels of kPlanes values. The
// four sums of a pixel stand in this order, one loop each, because two may add to the same place.
template <typename T>
PROTOTXT_GEN_CLONES void scatter_row(const T* dy, int out_width, const InterpTap<T>* columns, InterpTap<T> row, T* low,
                                     T* high) {
  for (int j = 0; j < out_width; ++j) {
    const InterpTap<T>& column = columns[j];
    const T* const diff = dy + j * kPlanes;
    add_scaled(diff, row.low_weight * column.low_weight, low + column.low * kPlanes);
    add_scaled(diff, row.low_weight * column.high_weight, low + column.high * kPlanes);
    add_scaled(diff, row.high_weight * column.low_weight, high + column.low * kPlanes);
    add_scaled(diff, row.high_weight * column.high_weight, high + column.high * kPlanes);
  }
}

// Writes dx of kPlanes planes, or of fewer: a vector's rest is then idle.
template <typename T>
class PlanesBackward {
 public:
  PlanesBackward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns)
      : shape_(shape), rows_(rows), columns_(columns), dy_(kPlanes * static_cast<std::size_t>(shape.out_width)),
        dx_(kPlanes * static_cast<std::size_t>(shape.height) * shape.width) {}

  void run(const T* dy, int planes, T* dx) {
    std::fill(dx_.begin(), dx_.end(), T(0));
    const std::ptrdiff_t row_values = static_cast<std::ptrdiff_t>(kPlanes) * shape_.width;
    for (int i = 0; i < shape_.out_height; ++i) {
      const T* const from = dy + static_cast<std::ptrdiff_t>(i) * shape_.out_width;
      for (int p = 0; p < planes; ++p) {
        for (int j = 0; j < shape_.out_width; ++j) {
          dy_[j * kPlanes + p] = from[p * out_values(shape_) + j];
        }
      }
      const InterpTap<T>& row = rows_[i];
      scatter_row(dy_.data(), shape_.out_width, columns_, row, dx_.data() + row.low * row_values,
                  dx_.data() + row.high * row_values);
    }
    for (int p = 0; p < planes; ++p) {
      T* const plane = dx + p * in_values(shape_);
      std::fill_n(plane, in_values(shape_), T(0));
      for (int r = 0; r < shape_.height; ++r) {
        T* const to = plane + window(shape_) + static_cast<std::ptrdiff_t>(r) * shape_.in_width;
        for (int c = 0; c < shape_.width; ++c) {
          to[c] = dx_[r * row_values + c * kPlanes + p];
        }
      }
    }
  }

 private:
  const InterpShape& shape_;
  const InterpTap<T>* const rows_;
  const InterpTap<T>* const columns_;
  std::vector<T> dy_, dx_;
};

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
  if (equal_sizes(shape)) {
    for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      for (std::ptrdiff_t p = begin; p < end; ++p) {
        copy_rows(shape.height, shape.width, x + p * in_values(shape) + window(shape), shape.in_width,
                  y + p * out_values(shape), shape.out_width);
      }
    });
    return;
  }
  const Columns<T> taps(columns, shape.out_width);
  for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    PlaneForward<T> forward(shape, rows, taps);
    for (std::ptrdiff_t p = begin; p < end; ++p) {
      forward.run(x + p * in_values(shape) + window(shape), y + p * out_values(shape));
    }
  });
}

template <typename T>
void interp_backward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* dy,
                     T* dx) {
  if (equal_sizes(shape)) {
    for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      for (std::ptrdiff_t p = begin; p < end; ++p) {
        copy_back(shape, dy + p * out_values(shape), dx + p * in_values(shape));
      }
    });
    return;
  }
  for_planes(shape, (shape.planes + kPlanes - 1) / kPlanes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    PlanesBackward<T> backward(shape, rows, columns);
    for (std::ptrdiff_t p = begin * kPlanes; p < std::min(shape.planes, end * kPlanes); p += kPlanes) {
      const int planes = static_cast<int>(std::min<std::ptrdiff_t>(kPlanes, shape.planes - p));
      backward.run(dy + p * out_values(shape), planes, dx + p * in_values(shape));
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
