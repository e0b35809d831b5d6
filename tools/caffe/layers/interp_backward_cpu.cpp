// Interp's backward pass.

#include <cstdint>
#include <utility>
#include <vector>

#include "interp_cpu.hpp"
#include "interp_planes_cpu.hpp"
#include "lanes_cpu.hpp"

namespace prototxt_gen {

namespace {

// Planes are taken eight at a time: a pixel of all of them is one vector, and so is every weight's product with it. A
// row of dy gives to two rows of dx at most, so that two rows of dx are at work at any time. The sums of a value of dx
// are added in the order of the definition, pixel by pixel of dy, and of a pixel upper before lower, left before right.

// Turns a row of `width` values in each of `planes` planes, which lie `distance` apart, into pixels. Where there are
// fewer than eight planes, the rest of a pixel is the last one's again.
template <typename T>
PROTOTXT_GEN_INLINE void read_pixels(const T* from, std::ptrdiff_t distance, int planes, int width, Eight<T>* pixels) {
  const auto plane = [=](int p) { return from + std::min(p, planes - 1) * distance; };
  if (width < kEight) {
    for (int p = 0; p < kEight; ++p) {
      for (int j = 0; j < width; ++j) {
        pixels[j].values[p] = plane(p)[j];
      }
    }
    return;
  }
  for (int next = 0; next < width; next += kEight) {
    const int begin = std::min(next, width - kEight);
    typename Lanes<T>::Values block[kEight];
#pragma GCC unroll 8
    for (int p = 0; p < kEight; ++p) {
      load(plane(p) + begin, &block[p]);
    }
    transpose<T>(block);
#pragma GCC unroll 8
    for (int j = 0; j < kEight; ++j) {
      pixels[begin + j].values = block[j];
    }
  }
}

// The way back, for the planes that there are.
template <typename T>
PROTOTXT_GEN_INLINE void write_pixels(const Eight<T>* pixels, int width, int planes, std::ptrdiff_t distance, T* to) {
  if (width < kEight) {
    for (int p = 0; p < planes; ++p) {
      for (int j = 0; j < width; ++j) {
        to[p * distance + j] = pixels[j].values[p];
      }
    }
    return;
  }
  for (int next = 0; next < width; next += kEight) {
    const int begin = std::min(next, width - kEight);
    typename Lanes<T>::Values block[kEight];
#pragma GCC unroll 8
    for (int j = 0; j < kEight; ++j) {
      block[j] = pixels[begin + j].values;
    }
    transpose<T>(block);
    for (int p = 0; p < planes; ++p) {
      store<T>(block[p], to + p * distance + begin);
    }
  }
}

// Adds what one row of dy gives to the two rows of dx that it was read from. Four sums stay in registers while columns
// read from the same two of dx; where these are one, at the edge, every sum goes to memory in its turn.
template <typename T>
PROTOTXT_GEN_INLINE void scatter_row(const Eight<T>* diff, int out_width, const InterpTap<T>* columns, T low_weight,
                                     T high_weight, Eight<T>* low, Eight<T>* high) {
  int j = 0;
  while (low != high && j < out_width && columns[j].low < columns[j].high) {
    const int left = columns[j].low;
    auto low_left = low[left].values, low_right = low[left + 1].values;
    auto high_left = high[left].values, high_right = high[left + 1].values;
    for (; j < out_width && columns[j].low == left; ++j) {
      const InterpTap<T>& column = columns[j];
      low_left += low_weight * column.low_weight * diff[j].values;
      low_right += low_weight * column.high_weight * diff[j].values;
      high_left += high_weight * column.low_weight * diff[j].values;
      high_right += high_weight * column.high_weight * diff[j].values;
    }
    low[left].values = low_left, low[left + 1].values = low_right;
    high[left].values = high_left, high[left + 1].values = high_right;
  }
  for (; j < out_width; ++j) {
    const InterpTap<T>& column = columns[j];
    low[column.low].values += low_weight * column.low_weight * diff[j].values;
    low[column.high].values += low_weight * column.high_weight * diff[j].values;
    high[column.low].values += high_weight * column.low_weight * diff[j].values;
    high[column.high].values += high_weight * column.high_weight * diff[j].values;
  }
}

// Writes dx of up to eight planes. `pixels` has room for a row of dy and two rows of dx.
template <typename T>
PROTOTXT_GEN_CLONES void pull_back(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns,
                                   int planes, const T* dy, T* dx, Eight<T>* pixels) {
  const std::ptrdiff_t in = interp_in_values(shape), out = interp_out_values(shape);
  if (shape.height != shape.in_height || shape.width != shape.in_width) {
    std::fill_n(dx, planes * in, T(0));
  }
  Eight<T>* low = pixels + shape.out_width;
  Eight<T>* high = low + shape.width;
  std::fill_n(low, 2 * static_cast<std::ptrdiff_t>(shape.width), Eight<T>{});
  // Eight planes' rows are too many and too short streams for processors to fetch ahead by themselves.
  constexpr std::ptrdiff_t kLine = 64 / sizeof(T);
  int at = 0;  // the row of dx that `low` holds; `high` holds the next one
  const auto move_to = [&](int row) PROTOTXT_GEN_INLINE_LAMBDA {
    for (; at < row; ++at) {
      write_pixels(low, shape.width, planes, in,
                   dx + interp_window(shape) + static_cast<std::ptrdiff_t>(at) * shape.in_width);
      std::swap(low, high);
      std::fill_n(high, shape.width, Eight<T>{});
    }
  };
  for (int i = 0; i < shape.out_height; ++i) {
    const InterpTap<T>& row = rows[i];
    for (std::ptrdiff_t k = 0; k < kEight * shape.out_width; k += kLine) {
      const std::ptrdiff_t ahead = kEight * (out + static_cast<std::ptrdiff_t>(i) * shape.out_width) + k;
      // As a number: after the last planes there is no such place.
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(dy) + ahead * sizeof(T)));
    }
    move_to(row.low);
    read_pixels(dy + static_cast<std::ptrdiff_t>(i) * shape.out_width, out, planes, shape.out_width, pixels);
    scatter_row(pixels, shape.out_width, columns, row.low_weight, row.high_weight, low,
                row.high == row.low ? low : high);
  }
  move_to(shape.height);
}

}  // namespace

template <typename T>
void interp_backward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* dy,
                     T* dx) {
  const std::ptrdiff_t in = interp_in_values(shape), out = interp_out_values(shape);
  if (interp_is_copy(shape)) {
    for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      for (std::ptrdiff_t p = begin; p < end; ++p) {
        std::fill_n(dx + p * in, in, T(0));
        copy_rows(shape.height, shape.width, dy + p * out, shape.out_width, dx + p * in + interp_window(shape),
                  shape.in_width);
      }
    });
    return;
  }
  for_planes(shape, (shape.planes + kEight - 1) / kEight, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::vector<Eight<T>> pixels(shape.out_width + 2 * static_cast<std::size_t>(shape.width));
    for (std::ptrdiff_t p = begin * kEight; p < std::min(shape.planes, end * kEight); p += kEight) {
      const int planes = static_cast<int>(std::min<std::ptrdiff_t>(kEight, shape.planes - p));
      pull_back(shape, rows, columns, planes, dy + p * out, dx + p * in, pixels.data());
    }
  });
}

#define PROTOTXT_GEN_INSTANTIATE(T) \
  template void interp_backward<T>(const InterpShape&, const InterpTap<T>*, const InterpTap<T>*, const T*, T*)

PROTOTXT_GEN_INSTANTIATE(float);
PROTOTXT_GEN_INSTANTIATE(double);

}  // namespace prototxt_gen
