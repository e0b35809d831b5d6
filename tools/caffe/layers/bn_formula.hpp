// The formulas of BN, per channel and per element; every driver, CPU or GPU, loops over these.
//
//   x, y   input and output                     g, b   slope and bias
//   mu, s  the batch's mean and 1 / sqrt(biased variance + eps), over all axes but the channel's
//   m, v   their moving averages, as stored in the third and fourth blob (v is not a variance)
//
//   batch statistics   y = g s (x - mu) + b       m <- momentum m + (1 - momentum) mu, v likewise from s
//                      dg = sum dy xhat, db = sum dy, dx = g s (dy - mean(dy) - xhat mean(dy xhat)), xhat = (x - mu) s
//   fixed statistics   y = g v (x - m) + b,  dg = sum dy (x - m) v,  db = sum dy,  dx = g v dy
#pragma once

#include <cmath>

#include "host_device.hpp"

namespace prototxt_gen {

// A mean as the sum of two T: subtracting both in turn keeps the digits that a large offset would take from one.
template <typename T>
struct BnMean {
  T high;
  T low;
};

template <typename T>
PROTOTXT_GEN_HD BnMean<T> bn_mean(double mean) {
  const T high = static_cast<T>(mean);
  return {high, static_cast<T>(mean - static_cast<double>(high))};
}

template <typename T>
PROTOTXT_GEN_HD T bn_centre(T x, BnMean<T> mean) {
  return (x - mean.high) - mean.low;
}

PROTOTXT_GEN_HD double bn_inv_std(double biased_variance, double eps) {
  return 1.0 / std::sqrt(biased_variance + eps);
}

template <typename T>
PROTOTXT_GEN_HD T bn_moving(T old, double batch, double momentum) {
  return static_cast<T>(momentum * static_cast<double>(old) + (1.0 - momentum) * batch);
}

// y. scale is g s or g v.
template <typename T>
PROTOTXT_GEN_HD T bn_output(T x, BnMean<T> mean, T scale, T bias) {
  return scale * bn_centre(x, mean) + bias;
}

// dx under batch statistics. scale is g s, mean_dy is mean(dy), pull is s mean(dy xhat).
template <typename T>
PROTOTXT_GEN_HD T bn_input_diff(T x, T dy, BnMean<T> mean, T scale, T mean_dy, T pull) {
  return scale * ((dy - mean_dy) - bn_centre(x, mean) * pull);
}

}  // namespace prototxt_gen
