// The CPU drivers with C names, float (_f) and double (_d), so that a test can call them without Caffe.
#include <vector>

#include "bn_cpu.hpp"
#include "interp_cpu.hpp"

using namespace prototxt_gen;

#define DRIVERS(T, suffix)                                                                                            \
  extern "C" void bn_batch_forward_##suffix(const long* n, double eps, double momentum, const T* x, const T* slope,   \
                                            const T* bias, T* y, T* mean, T* inv_std, T* moving_mean,                 \
                                            T* moving_inv_std) {                                                      \
    bn_batch_forward<T>({n[0], n[1], n[2]}, eps, momentum, x, slope, bias, y, reinterpret_cast<BnMean<T>*>(mean),     \
                        inv_std, moving_mean, moving_inv_std);                                                        \
  }                                                                                                                   \
  extern "C" void bn_batch_backward_##suffix(const long* n, const T* x, const T* dy, const T* slope, const T* mean,   \
                                             const T* inv_std, T* slope_diff, T* bias_diff, T* dx) {                  \
    bn_batch_backward<T>({n[0], n[1], n[2]}, x, dy, slope, reinterpret_cast<const BnMean<T>*>(mean), inv_std,         \
                         slope_diff, bias_diff, dx);                                                                  \
  }                                                                                                                   \
  extern "C" void bn_fixed_forward_##suffix(const long* n, const T* x, const T* slope, const T* bias, const T* mean,  \
                                            const T* inv_std, T* y) {                                                 \
    bn_fixed_forward<T>({n[0], n[1], n[2]}, x, slope, bias, mean, inv_std, y);                                        \
  }                                                                                                                   \
  extern "C" void bn_fixed_backward_##suffix(const long* n, const T* x, const T* dy, const T* slope, const T* mean,   \
                                             const T* inv_std, T* slope_diff, T* bias_diff, T* dx) {                  \
    bn_fixed_backward<T>({n[0], n[1], n[2]}, x, dy, slope, mean, inv_std, slope_diff, bias_diff, dx);                 \
  }                                                                                                                   \
  extern "C" void interp_##suffix(const long* n, int crop_top, int crop_bottom, int backward, const T* from, T* to) { \
    const int cropped = crop_top + crop_bottom;                                                                       \
    const InterpShape shape{n[0], static_cast<int>(n[1]), static_cast<int>(n[2]), crop_top, crop_top,                 \
                            static_cast<int>(n[1]) - cropped, static_cast<int>(n[2]) - cropped,                       \
                            static_cast<int>(n[3]), static_cast<int>(n[4])};                                          \
    std::vector<InterpTap<T>> rows(shape.out_height), columns(shape.out_width);                                       \
    interp_taps(shape.height, shape.out_height, rows.data());                                                         \
    interp_taps(shape.width, shape.out_width, columns.data());                                                        \
    (backward ? interp_backward<T> : interp_forward<T>)(shape, rows.data(), columns.data(), from, to);                \
  }

DRIVERS(float, f)
DRIVERS(double, d)
