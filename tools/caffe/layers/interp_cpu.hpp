// CPU driver of Interp: loops over plain arrays, for float and double. Formulas: interp_formula.hpp.
#pragma once

#include <cstddef>

#include "interp_formula.hpp"

namespace prototxt_gen {

// Planes of in_height x in_width values, of which the window from (top, left), height x width large, is resized to
// out_height x out_width.
struct InterpShape {
  std::ptrdiff_t planes;
  int in_height, in_width;
  int top, left;
  int height, width;
  int out_height, out_width;
};

PROTOTXT_GEN_HD bool interp_is_copy(const InterpShape& shape) {
  return shape.height == shape.out_height && shape.width == shape.out_width;
}

// Writes the n_out taps of one axis.
template <typename T>
void interp_taps(int n_in, int n_out, InterpTap<T>* taps);

// rows and columns are the taps of the two axes; where the sizes agree y is an exact copy and they are not read.
template <typename T>
void interp_forward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* x, T* y);

// The transpose of interp_forward: writes every value of dx.
template <typename T>
void interp_backward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* dy,
                     T* dx);

}  // namespace prototxt_gen
