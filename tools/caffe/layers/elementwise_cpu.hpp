#ifndef PROTOTXT_GEN_ELEMENTWISE_CPU_HPP_
#define PROTOTXT_GEN_ELEMENTWISE_CPU_HPP_

#include <cstddef>
#include <vector>

namespace prototxt_gen {

// Each value is computed as Caffe does, so that the results are the same bit by bit; only sigmoid's differ, by
// rounding.
// Outputs may be one of the inputs. Inputs stand in the order in which Caffe adds or multiplies them.

// y = max(x, 0) + slope min(x, 0)
void relu_forward(std::ptrdiff_t count, float slope, const float* x, float* y);
// dx = dy where x > 0, slope dy where x <= 0
void relu_backward(std::ptrdiff_t count, float slope, const float* x, const float* dy, float* dx);

// y = 1 / (1 + exp(-x)) with an error of at most 1e-7 of y, where y is normal.
void sigmoid_forward(std::ptrdiff_t count, const float* x, float* y);

// y = 0 + x[0] + x[1] + ...
void sum(std::ptrdiff_t count, const std::vector<const float*>& x, float* y);
// y = x[0] + x[1] + ...
void plain_sum(std::ptrdiff_t count, const std::vector<const float*>& x, float* y);
// y = x[0] x[1] ...
void product(std::ptrdiff_t count, const std::vector<const float*>& x, float* y);
void copy(std::ptrdiff_t count, const float* x, float* y);

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_ELEMENTWISE_CPU_HPP_
