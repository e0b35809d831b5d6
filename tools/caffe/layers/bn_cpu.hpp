// CPU driver of BN: loops over plain arrays, for float and double. Formulas: bn_formula.hpp.
#pragma once

#include <cstddef>

#include "bn_formula.hpp"

namespace prototxt_gen {

// An array of batch x channels x spatial values, spatial innermost. Other arrays hold one value for each channel.
struct BnShape {
  std::ptrdiff_t batch;
  std::ptrdiff_t channels;
  std::ptrdiff_t spatial;
};

// Batch statistics. Writes y, the statistics of this batch (mean, inv_std) and updates the moving averages.
template <typename T>
void bn_batch_forward(const BnShape& shape, double eps, double momentum, const T* x, const T* slope, const T* bias,
                      T* y, BnMean<T>* mean, T* inv_std, T* moving_mean, T* moving_inv_std);

// Writes the y of bn_batch_forward, bit by bit the same, from the statistics that it left in mean and inv_std.
template <typename T>
void bn_batch_output(const BnShape& shape, const T* x, const T* slope, const T* bias, const BnMean<T>* mean,
                     const T* inv_std, T* y);

// Batch statistics, as bn_batch_forward left them in mean and inv_std. Adds to slope_diff and bias_diff and writes dx;
// each of the three may be null, and is then not computed. dx may be dy.
template <typename T>
void bn_batch_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const BnMean<T>* mean,
                       const T* inv_std, T* slope_diff, T* bias_diff, T* dx);

// Fixed statistics. y may be x.
template <typename T>
void bn_fixed_forward(const BnShape& shape, const T* x, const T* slope, const T* bias, const T* moving_mean,
                      const T* moving_inv_std, T* y);

// Fixed statistics. Adds to slope_diff and bias_diff and writes dx; each of the three may be null, and x where
// slope_diff is. dx may be dy.
template <typename T>
void bn_fixed_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const T* moving_mean,
                       const T* moving_inv_std, T* slope_diff, T* bias_diff, T* dx);

}  // namespace prototxt_gen
