#ifndef PROTOTXT_GEN_POOLING_CPU_HPP_
#define PROTOTXT_GEN_POOLING_CPU_HPP_

#include <cstddef>

namespace prototxt_gen {

// Planes of height and width size_in, pooled to size_out; pairs are height, width.
struct PoolingShape {
  std::ptrdiff_t planes;
  std::ptrdiff_t size_in[2], size_out[2], kernel[2], stride[2], pad[2];
};

// Mask is int, or float where it is a top: the place of the first largest value in its plane, -1 where none is larger
// than the least finite value.
template <typename Mask>
void max_pooling_forward(const PoolingShape& shape, const float* x, float* y, Mask* mask);
template <typename Mask>
void max_pooling_backward(const PoolingShape& shape, const float* dy, const Mask* mask, float* dx);

// A mean's divisor counts the padding, but not what a last window has beyond it.
void mean_pooling_forward(const PoolingShape& shape, const float* x, float* y);
void mean_pooling_backward(const PoolingShape& shape, const float* dy, float* dx);

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_POOLING_CPU_HPP_
