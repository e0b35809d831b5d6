#ifndef PROTOTXT_GEN_POOLING_CPU_HPP_
#define PROTOTXT_GEN_POOLING_CPU_HPP_

#include <cstddef>

namespace prototxt_gen {

// Planes of height and width size_in, pooled to size_out; pairs are height, width.
struct PoolingShape {
  std::ptrdiff_t planes;
  std::ptrdiff_t size_in[2], size_out[2], kernel[2], stride[2], pad[2];
};

// Windows with so many positions have no mask of bytes.
constexpr std::ptrdiff_t kManyPositions = 255;

// The mask tells where the first largest value is. Of bytes: by its position in the window, row by row, kManyPositions
// where no value is larger than the least finite one. Of int, or of float where it is a top: by its place in the plane,
// -1 for none.
template <typename Mask>
void max_pooling_forward(const PoolingShape& shape, const float* x, float* y, Mask* mask);
template <typename Mask>
void max_pooling_backward(const PoolingShape& shape, const float* dy, const Mask* mask, float* dx);

// A mean's divisor counts the padding, but not what a last window has beyond it.
void mean_pooling_forward(const PoolingShape& shape, const float* x, float* y);
void mean_pooling_backward(const PoolingShape& shape, const float* dy, float* dx);

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_POOLING_CPU_HPP_
