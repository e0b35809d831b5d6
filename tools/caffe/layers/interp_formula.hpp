// The formulas of Interp, bilinear with aligned corners; every driver, CPU or GPU, loops over these.
//
// Along one axis of n_in values (after cropping) and n_out values, output i reads position
//   p = i (n_in - 1) / (n_out - 1), 0 when n_out is 1, in float whatever the type of the data,
// which lies between low = floor(p) and high = min(low + 1, n_in - 1) with weights 1 - (p - low) and p - low.
#pragma once

#include "host_device.hpp"

namespace prototxt_gen {

template <typename T>
struct InterpTap {
  int low;
  int high;
  T low_weight;
  T high_weight;
};

PROTOTXT_GEN_HD float interp_step(int n_in, int n_out) {
  return n_out > 1 ? static_cast<float>(n_in - 1) / static_cast<float>(n_out - 1) : 0.0f;
}

template <typename T>
PROTOTXT_GEN_HD InterpTap<T> interp_tap(int i, float step, int n_in) {
  const float position = step * static_cast<float>(i);
  const int floor = static_cast<int>(position);
  // Rounding may carry the last position past the last value.
  const int low = floor < n_in - 1 ? floor : n_in - 1;
  const int high = low < n_in - 1 ? low + 1 : low;
  const T weight = static_cast<T>(position - static_cast<float>(low));
  return {low, high, T(1) - weight, weight};
}

template <typename T>
PROTOTXT_GEN_HD T interp_between(T low, T high, T low_weight, T high_weight) {
  return low_weight * low + high_weight * high;
}

// The value between four neighbours; the first letter is the row.
template <typename T>
PROTOTXT_GEN_HD T interp_value(T low_low, T low_high, T high_low, T high_high, const InterpTap<T>& row,
                               const InterpTap<T>& column) {
  return interp_between(interp_between(low_low, low_high, column.low_weight, column.high_weight),
                        interp_between(high_low, high_high, column.low_weight, column.high_weight), row.low_weight,
                        row.high_weight);
}

// Sizes along one axis for the forms of interp_param.
PROTOTXT_GEN_HD int interp_zoomed(int n, int factor) { return n + (n - 1) * (factor - 1); }
PROTOTXT_GEN_HD int interp_shrunk(int n, int factor) { return (n - 1) / factor + 1; }

}  // namespace prototxt_gen
