// Drivers of Interp over a grid of thread blocks (blocks.hpp). They compute what the CPU drivers do (interp_cpu.hpp
// says what the arguments mean; here they are pointers that the kernels can use). Formulas: interp_formula.hpp.
//
// A thread makes whole values: of y from its four neighbours, of dx from all dy that it went into. Nothing is added to
// memory that another thread adds to, so that the result is the same every time.
#pragma once

#include <cstddef>

#include "blocks.hpp"
#include "interp_cpu.hpp"
#include "interp_formula.hpp"

namespace prototxt_gen {

struct InterpNothing {};

// The outputs begin <= i < end along one axis, among which are all that read input `position`. Output i reads near
// step i; two more at either end cover what float rounds away, as long as an axis has fewer than 2^20 values.
struct InterpReaders {
  int begin, end;

  PROTOTXT_GEN_KERNEL InterpReaders(int position, float step, int n_out) : begin(0), end(n_out) {
    if (step > 0) {
      const float first = static_cast<float>(position - 1) / step - 2;
      const float last = static_cast<float>(position + 1) / step + 3;
      begin = first > 0 ? static_cast<int>(first) : 0;
      end = last < static_cast<float>(n_out) ? static_cast<int>(last) : n_out;
    }
  }
};

// What of input `position` a tap takes.
template <typename T>
PROTOTXT_GEN_KERNEL T interp_share(const InterpTap<T>& tap, int position) {
  return (tap.low == position ? tap.low_weight : T(0)) + (tap.high == position ? tap.high_weight : T(0));
}

template <typename T>
struct InterpForward {
  using Shared = InterpNothing;
  InterpShape shape;
  std::ptrdiff_t blocks;
  float row_step, column_step;
  const T* x;
  T* y;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    const std::ptrdiff_t values = shape.planes * shape.out_height * shape.out_width;
    block.each([&](int t) {
      for (std::ptrdiff_t i = block.index() * block.threads() + t; i < values; i += blocks * block.threads()) {
        y[i] = value(i);
      }
    });
  }

 private:
  PROTOTXT_GEN_KERNEL T value(std::ptrdiff_t i) const {
    const std::ptrdiff_t line = i / shape.out_width;
    const int w = static_cast<int>(i % shape.out_width);
    const int h = static_cast<int>(line % shape.out_height);
    const T* const window =
        x + ((line / shape.out_height) * shape.in_height + shape.top) * shape.in_width + shape.left;
    if (interp_is_copy(shape)) {
      return window[static_cast<std::ptrdiff_t>(h) * shape.in_width + w];
    }
    const InterpTap<T> row = interp_tap<T>(h, row_step, shape.height);
    const InterpTap<T> column = interp_tap<T>(w, column_step, shape.width);
    const T* const low = window + static_cast<std::ptrdiff_t>(row.low) * shape.in_width;
    const T* const high = window + static_cast<std::ptrdiff_t>(row.high) * shape.in_width;
    return interp_value(low[column.low], low[column.high], high[column.low], high[column.high], row, column);
  }
};

template <typename T>
struct InterpBackward {
  using Shared = InterpNothing;
  InterpShape shape;
  std::ptrdiff_t blocks;
  float row_step, column_step;
  const T* dy;
  T* dx;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    const std::ptrdiff_t values = shape.planes * shape.in_height * shape.in_width;
    block.each([&](int t) {
      for (std::ptrdiff_t i = block.index() * block.threads() + t; i < values; i += blocks * block.threads()) {
        dx[i] = value(i);
      }
    });
  }

 private:
  PROTOTXT_GEN_KERNEL T value(std::ptrdiff_t i) const {
    const std::ptrdiff_t line = i / shape.in_width;
    const int w = static_cast<int>(i % shape.in_width) - shape.left;
    const int h = static_cast<int>(line % shape.in_height) - shape.top;
    if (h < 0 || h >= shape.height || w < 0 || w >= shape.width) {
      return T(0);
    }
    const T* const plane = dy + (line / shape.in_height) * shape.out_height * shape.out_width;
    if (interp_is_copy(shape)) {
      return plane[static_cast<std::ptrdiff_t>(h) * shape.out_width + w];
    }
    const InterpReaders rows(h, row_step, shape.out_height);
    const InterpReaders columns(w, column_step, shape.out_width);
    T sum = 0;
    for (int r = rows.begin; r < rows.end; ++r) {
      const T row_share = interp_share(interp_tap<T>(r, row_step, shape.height), h);
      if (row_share == T(0)) {
        continue;
      }
      const T* const diff = plane + static_cast<std::ptrdiff_t>(r) * shape.out_width;
      T part = 0;
      for (int c = columns.begin; c < columns.end; ++c) {
        const T share = interp_share(interp_tap<T>(c, column_step, shape.width), w);
        if (share != T(0)) {
          part += share * diff[c];
        }
      }
      sum += row_share * part;
    }
    return sum;
  }
};

constexpr std::ptrdiff_t kInterpMaxBlocks = 65535;

template <typename Grid>
std::ptrdiff_t interp_blocks(const Grid& grid, std::ptrdiff_t values) {
  const std::ptrdiff_t wanted = (values + grid.threads() - 1) / grid.threads();
  return wanted < kInterpMaxBlocks ? wanted : kInterpMaxBlocks;
}

template <typename Grid, typename T>
void interp_grid_forward(const Grid& grid, const InterpShape& shape, const T* x, T* y) {
  const std::ptrdiff_t blocks = interp_blocks(grid, shape.planes * shape.out_height * shape.out_width);
  if (blocks > 0) {
    grid.run(blocks, InterpForward<T>{shape, blocks, interp_step(shape.height, shape.out_height),
                                      interp_step(shape.width, shape.out_width), x, y});
  }
}

template <typename Grid, typename T>
void interp_grid_backward(const Grid& grid, const InterpShape& shape, const T* dy, T* dx) {
  const std::ptrdiff_t blocks = interp_blocks(grid, shape.planes * shape.in_height * shape.in_width);
  if (blocks > 0) {
    grid.run(blocks, InterpBackward<T>{shape, blocks, interp_step(shape.height, shape.out_height),
                                       interp_step(shape.width, shape.out_width), dy, dx});
  }
}

}  // namespace prototxt_gen
