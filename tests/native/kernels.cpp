// The GPU's drivers on the host, with C names: thread blocks one after the other, and within each step the threads of a
// block, in an order that the test sets. What the GPU would leave undefined is filled with NaN.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "bn_kernels.hpp"
#include "interp_kernels.hpp"

using namespace prototxt_gen;

namespace {

enum Order { kForwards, kBackwards, kShuffled };

std::vector<std::ptrdiff_t> in_order(Order order, std::ptrdiff_t count, unsigned seed) {
  std::vector<std::ptrdiff_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  if (order == kBackwards) {
    std::reverse(all.begin(), all.end());
  } else if (order == kShuffled) {
    std::shuffle(all.begin(), all.end(), std::mt19937(seed));
  }
  return all;
}

class HostBlock {
 public:
  HostBlock(std::ptrdiff_t index, int threads, Order order) : index_(index), threads_(threads), order_(order) {}
  std::ptrdiff_t index() const { return index_; }
  int threads() const { return threads_; }
  template <typename Step>
  void each(const Step& step) const {
    for (std::ptrdiff_t t : in_order(order_, threads_, ++steps_)) {
      step(static_cast<int>(t));
    }
  }

 private:
  std::ptrdiff_t index_;
  int threads_;
  Order order_;
  mutable unsigned steps_ = 0;
};

struct HostGrid {
  int threads_ = kMaxThreads;
  Order order = kForwards;
  mutable long blocks_run = 0;

  int threads() const { return threads_; }
  template <typename Kernel>
  void run(std::ptrdiff_t blocks, const Kernel& kernel) const {
    for (std::ptrdiff_t index : in_order(order, blocks, 1)) {
      typename Kernel::Shared shared;
      std::memset(static_cast<void*>(&shared), 0xff, sizeof(shared));
      kernel(HostBlock(index, threads_, order), &shared);
      ++blocks_run;
    }
  }
};

HostGrid grid;
std::ptrdiff_t slices_asked = 0;

std::ptrdiff_t slices_of(const BnShape& shape) { return slices_asked > 0 ? slices_asked : bn_slices(shape); }

std::vector<double> scratch_of(const BnShape& shape) {
  return std::vector<double>(bn_scratch(shape, slices_of(shape)), std::numeric_limits<double>::quiet_NaN());
}

}  // namespace

// slices 0 leaves their number to the driver. Returns how many blocks have run since the last call.
extern "C" long set_grid(int threads, int slices, int order) {
  const long before = grid.blocks_run;
  grid = HostGrid{threads, static_cast<Order>(order), 0};
  slices_asked = slices;
  return before;
}

extern "C" int max_threads() { return kMaxThreads; }

#define DRIVERS(T, suffix)                                                                                             \
  extern "C" void grid_bn_batch_forward_##suffix(const long* n, double eps, double momentum, const T* x,               \
                                                 const T* slope, const T* bias, T* y, T* mean, T* inv_std,             \
                                                 T* moving_mean, T* moving_inv_std) {                                  \
    const BnShape shape{n[0], n[1], n[2]};                                                                             \
    bn_grid_batch_forward(grid, shape, slices_of(shape), scratch_of(shape).data(), eps, momentum, x, slope, bias, y,   \
                          reinterpret_cast<BnMean<T>*>(mean), inv_std, moving_mean, moving_inv_std);                   \
  }                                                                                                                    \
  extern "C" void grid_bn_batch_backward_##suffix(const long* n, const T* x, const T* dy, const T* slope,              \
                                                  const T* mean, const T* inv_std, T* slope_diff, T* bias_diff,        \
                                                  T* dx) {                                                             \
    const BnShape shape{n[0], n[1], n[2]};                                                                             \
    bn_grid_batch_backward(grid, shape, slices_of(shape), scratch_of(shape).data(), x, dy, slope,                      \
                           reinterpret_cast<const BnMean<T>*>(mean), inv_std, slope_diff, bias_diff, dx);              \
  }                                                                                                                    \
  extern "C" void grid_bn_fixed_forward_##suffix(const long* n, const T* x, const T* slope, const T* bias,             \
                                                 const T* moving_mean, const T* moving_inv_std, T* y) {                \
    const BnShape shape{n[0], n[1], n[2]};                                                                             \
    bn_grid_fixed_forward(grid, shape, slices_of(shape), x, slope, bias, moving_mean, moving_inv_std, y);              \
  }                                                                                                                    \
  extern "C" void grid_bn_fixed_backward_##suffix(const long* n, const T* x, const T* dy, const T* slope,              \
                                                  const T* moving_mean, const T* moving_inv_std, T* slope_diff,        \
                                                  T* bias_diff, T* dx) {                                               \
    const BnShape shape{n[0], n[1], n[2]};                                                                             \
    bn_grid_fixed_backward(grid, shape, slices_of(shape), scratch_of(shape).data(), x, dy, slope, moving_mean,         \
                           moving_inv_std, slope_diff, bias_diff, dx);                                                 \
  }                                                                                                                    \
  extern "C" void grid_interp_##suffix(const long* n, int top, int bottom, int backward, const T* from, T* to) {       \
    const auto size = [&](int i) { return static_cast<int>(n[i]); };                                                   \
    const InterpShape shape{n[0],    size(1), size(2), top,    top,                                                    \
                            size(1) - top - bottom, size(2) - top - bottom, size(3), size(4)};                         \
    backward ? interp_grid_backward(grid, shape, from, to) : interp_grid_forward(grid, shape, from, to);               \
  }

DRIVERS(float, f)
DRIVERS(double, d)
