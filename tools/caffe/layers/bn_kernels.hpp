// Drivers of BN over a grid of thread blocks (blocks.hpp). They compute what the CPU drivers do (bn_cpu.hpp says what
// the arguments mean; here they are pointers that the kernels can use). Formulas: bn_formula.hpp.
//
// The values of a channel are cut into slices, a block for each. Sums are taken in double: each thread's, each block's,
// then each channel's over its slices; the order depends on the shape alone.
#pragma once

#include <cstddef>

#include "blocks.hpp"
#include "bn_cpu.hpp"
#include "bn_formula.hpp"

namespace prototxt_gen {

// Values that one thread has, where a channel has so many; and the most slices of a channel.
constexpr std::ptrdiff_t kBnThreadValues = 16;
constexpr std::ptrdiff_t kBnMaxSlices = 64;

inline std::ptrdiff_t bn_slices(const BnShape& shape) {
  const std::ptrdiff_t block = kBnThreadValues * kMaxThreads;
  const std::ptrdiff_t wanted = (shape.batch * shape.spatial + block - 1) / block;
  return wanted < kBnMaxSlices ? wanted : kBnMaxSlices;
}

// Doubles that the drivers need as scratch memory.
inline std::ptrdiff_t bn_scratch(const BnShape& shape, std::ptrdiff_t slices) { return 2 * shape.channels * slices; }

// Goes through every threads-th value of a slice without dividing at each: begin <= number < end counts the channel's
// values, offset is where the value lies in the array.
struct BnWalk {
  std::ptrdiff_t number, end, offset;

  PROTOTXT_GEN_KERNEL BnWalk(const BnShape& shape, std::ptrdiff_t slices, std::ptrdiff_t block, int threads, int thread)
      : step_(threads),
        position_step_(threads % shape.spatial),
        spatial_(shape.spatial),
        gap_((shape.channels - 1) * shape.spatial) {
    const std::ptrdiff_t channel = block / slices;
    const std::ptrdiff_t slice = block % slices;
    const std::ptrdiff_t values = shape.batch * shape.spatial;
    number = values * slice / slices + thread;
    end = values * (slice + 1) / slices;
    position_ = number % spatial_;
    offset = (number / spatial_ * shape.channels + channel) * spatial_ + position_;
    offset_step_ = threads / spatial_ * shape.channels * spatial_ + position_step_;
  }

  PROTOTXT_GEN_KERNEL bool more() const { return number < end; }

  PROTOTXT_GEN_KERNEL void next() {
    number += step_;
    offset += offset_step_;
    position_ += position_step_;
    if (position_ >= spatial_) {
      position_ -= spatial_;
      offset += gap_;
    }
  }

 private:
  std::ptrdiff_t step_, position_step_, offset_step_, spatial_, gap_, position_;
};

struct BnSums {
  double first[kMaxThreads];
  double second[kMaxThreads];
};

struct BnNothing {};

template <typename T>
PROTOTXT_GEN_KERNEL BnMean<T> bn_whole(BnMean<T> mean) {
  return mean;
}

template <typename T>
PROTOTXT_GEN_KERNEL BnMean<T> bn_whole(T mean) {
  return {mean, T(0)};
}

// Writes the two sums of a block's slice, of what add(offset, &first, &second) adds for each of its values.
template <typename Block, typename Add>
PROTOTXT_GEN_KERNEL void bn_slice_sums(const Block& block, const BnShape& shape, std::ptrdiff_t slices, BnSums* shared,
                                       double* sums, const Add& add) {
  block.each([&](int t) {
    double first = 0, second = 0;
    for (BnWalk walk(shape, slices, block.index(), block.threads(), t); walk.more(); walk.next()) {
      add(walk.offset, &first, &second);
    }
    shared->first[t] = first;
    shared->second[t] = second;
  });
  block_sum(block, shared->first);
  block_sum(block, shared->second);
  block.each([&](int t) {
    if (t == 0) {
      sums[2 * block.index()] = shared->first[0];
      sums[2 * block.index() + 1] = shared->second[0];
    }
  });
}

// Sums of d and of d^2 over each slice, d = x - the channel's first value. That value is one of those summed, so that
// the variance is at least (its distance from the mean)^2 / values: what cancels in mean(d^2) - mean(d)^2 costs at most
// a factor of the number of values in double precision, whatever the data.
template <typename T>
struct BnMoments {
  using Shared = BnSums;
  BnShape shape;
  std::ptrdiff_t slices;
  const T* x;
  double* sums;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared* shared) const {
    const double start = static_cast<double>(x[block.index() / slices * shape.spatial]);
    bn_slice_sums(block, shape, slices, shared, sums, [&](std::ptrdiff_t at, double* sum, double* squares) {
      const double d = static_cast<double>(x[at]) - start;
      *sum += d;
      *squares += d * d;
    });
  }
};

// The statistics of each channel, from BnMoments' sums; a thread for each channel.
template <typename T>
struct BnStatistics {
  using Shared = BnNothing;
  BnShape shape;
  std::ptrdiff_t slices;
  double eps, momentum;
  const T* x;
  const double* sums;
  BnMean<T>* mean;
  T *inv_std, *moving_mean, *moving_inv_std;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    block.each([&](int t) {
      const std::ptrdiff_t c = block.index() * block.threads() + t;
      if (c >= shape.channels) {
        return;
      }
      double sum = 0, squares = 0;
      for (std::ptrdiff_t i = c * slices; i < (c + 1) * slices; ++i) {
        sum += sums[2 * i];
        squares += sums[2 * i + 1];
      }
      const double values = static_cast<double>(shape.batch) * static_cast<double>(shape.spatial);
      const double from_first = sum / values;
      const double variance = squares / values - from_first * from_first;
      const double mu = static_cast<double>(x[c * shape.spatial]) + from_first;
      const double s = bn_inv_std(variance < 0 ? 0 : variance, eps);
      mean[c] = bn_mean<T>(mu);
      inv_std[c] = static_cast<T>(s);
      moving_mean[c] = bn_moving(moving_mean[c], mu, momentum);
      moving_inv_std[c] = bn_moving(moving_inv_std[c], s, momentum);
    });
  }
};

// y. The mean is a BnMean or, of moving statistics, a T.
template <typename T, typename Mean>
struct BnOutput {
  using Shared = BnNothing;
  BnShape shape;
  std::ptrdiff_t slices;
  const T *x, *slope, *bias;
  const Mean* mean;
  const T* inv_std;
  T* y;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    const std::ptrdiff_t c = block.index() / slices;
    const BnMean<T> mu = bn_whole(mean[c]);
    const T scale = slope[c] * inv_std[c];
    const T shift = bias[c];
    block.each([&](int t) {
      for (BnWalk walk(shape, slices, block.index(), block.threads(), t); walk.more(); walk.next()) {
        y[walk.offset] = bn_output(x[walk.offset], mu, scale, shift);
      }
    });
  }
};

// Sums of dy and, unless x is null, of dy (x - mean) over each slice.
template <typename T, typename Mean>
struct BnDiffSums {
  using Shared = BnSums;
  BnShape shape;
  std::ptrdiff_t slices;
  const T *x, *dy;
  const Mean* mean;
  double* sums;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared* shared) const {
    const BnMean<T> mu = bn_whole(mean[block.index() / slices]);
    bn_slice_sums(block, shape, slices, shared, sums, [&](std::ptrdiff_t at, double* sum, double* product) {
      const double diff = static_cast<double>(dy[at]);
      *sum += diff;
      *product += x ? diff * static_cast<double>(bn_centre(x[at], mu)) : 0;
    });
  }
};

// dg and db from BnDiffSums' sums, those that are not null, and for dx the channel's sum dy and sum dy xhat in its
// first two sums; a thread for each channel.
template <typename T>
struct BnParameterDiffs {
  using Shared = BnNothing;
  BnShape shape;
  std::ptrdiff_t slices;
  const T* inv_std;
  double* sums;
  T *slope_diff, *bias_diff;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    block.each([&](int t) {
      const std::ptrdiff_t c = block.index() * block.threads() + t;
      if (c >= shape.channels) {
        return;
      }
      double sum = 0, product = 0;
      for (std::ptrdiff_t i = c * slices; i < (c + 1) * slices; ++i) {
        sum += sums[2 * i];
        product += sums[2 * i + 1];
      }
      product *= static_cast<double>(inv_std[c]);
      if (slope_diff) {
        slope_diff[c] += static_cast<T>(product);
      }
      if (bias_diff) {
        bias_diff[c] += static_cast<T>(sum);
      }
      sums[2 * c * slices] = sum;
      sums[2 * c * slices + 1] = product;
    });
  }
};

// dx under batch statistics, from the sums that BnParameterDiffs left.
template <typename T>
struct BnInputDiff {
  using Shared = BnNothing;
  BnShape shape;
  std::ptrdiff_t slices;
  const T *x, *dy, *slope;
  const BnMean<T>* mean;
  const T* inv_std;
  const double* sums;
  T* dx;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    const std::ptrdiff_t c = block.index() / slices;
    const double values = static_cast<double>(shape.batch) * static_cast<double>(shape.spatial);
    const BnMean<T> mu = mean[c];
    const T scale = slope[c] * inv_std[c];
    const T mean_dy = static_cast<T>(sums[2 * c * slices] / values);
    const T pull = static_cast<T>(static_cast<double>(inv_std[c]) * sums[2 * c * slices + 1] / values);
    block.each([&](int t) {
      for (BnWalk walk(shape, slices, block.index(), block.threads(), t); walk.more(); walk.next()) {
        dx[walk.offset] = bn_input_diff(x[walk.offset], dy[walk.offset], mu, scale, mean_dy, pull);
      }
    });
  }
};

// dx under fixed statistics.
template <typename T>
struct BnFixedInputDiff {
  using Shared = BnNothing;
  BnShape shape;
  std::ptrdiff_t slices;
  const T *dy, *slope, *inv_std;
  T* dx;

  template <typename Block>
  PROTOTXT_GEN_KERNEL void operator()(const Block& block, Shared*) const {
    const std::ptrdiff_t c = block.index() / slices;
    const T scale = slope[c] * inv_std[c];
    block.each([&](int t) {
      for (BnWalk walk(shape, slices, block.index(), block.threads(), t); walk.more(); walk.next()) {
        dx[walk.offset] = scale * dy[walk.offset];
      }
    });
  }
};

// The drivers, each with the slices of a channel and bn_scratch() doubles. In and out arrays may be the same where
// bn_cpu.hpp allows it.

template <typename Grid>
std::ptrdiff_t bn_channel_blocks(const Grid& grid, const BnShape& shape) {
  return (shape.channels + grid.threads() - 1) / grid.threads();
}

// y alone, from the statistics that bn_grid_batch_forward left.
template <typename Grid, typename T>
void bn_grid_batch_output(const Grid& grid, const BnShape& shape, std::ptrdiff_t slices, const T* x, const T* slope,
                          const T* bias, const BnMean<T>* mean, const T* inv_std, T* y) {
  grid.run(shape.channels * slices, BnOutput<T, BnMean<T>>{shape, slices, x, slope, bias, mean, inv_std, y});
}

template <typename Grid, typename T>
void bn_grid_batch_forward(const Grid& grid, const BnShape& shape, std::ptrdiff_t slices, double* scratch, double eps,
                           double momentum, const T* x, const T* slope, const T* bias, T* y, BnMean<T>* mean,
                           T* inv_std, T* moving_mean, T* moving_inv_std) {
  grid.run(shape.channels * slices, BnMoments<T>{shape, slices, x, scratch});
  grid.run(bn_channel_blocks(grid, shape), BnStatistics<T>{shape, slices, eps, momentum, x, scratch, mean, inv_std,
                                                           moving_mean, moving_inv_std});
  bn_grid_batch_output(grid, shape, slices, x, slope, bias, mean, inv_std, y);
}

template <typename Grid, typename T>
void bn_grid_batch_backward(const Grid& grid, const BnShape& shape, std::ptrdiff_t slices, double* scratch, const T* x,
                            const T* dy, const T* slope, const BnMean<T>* mean, const T* inv_std, T* slope_diff,
                            T* bias_diff, T* dx) {
  if (!slope_diff && !bias_diff && !dx) {
    return;
  }
  grid.run(shape.channels * slices, BnDiffSums<T, BnMean<T>>{shape, slices, x, dy, mean, scratch});
  grid.run(bn_channel_blocks(grid, shape),
           BnParameterDiffs<T>{shape, slices, inv_std, scratch, slope_diff, bias_diff});
  if (dx) {
    grid.run(shape.channels * slices, BnInputDiff<T>{shape, slices, x, dy, slope, mean, inv_std, scratch, dx});
  }
}

template <typename Grid, typename T>
void bn_grid_fixed_forward(const Grid& grid, const BnShape& shape, std::ptrdiff_t slices, const T* x, const T* slope,
                           const T* bias, const T* moving_mean, const T* moving_inv_std, T* y) {
  grid.run(shape.channels * slices,
           BnOutput<T, T>{shape, slices, x, slope, bias, moving_mean, moving_inv_std, y});
}

template <typename Grid, typename T>
void bn_grid_fixed_backward(const Grid& grid, const BnShape& shape, std::ptrdiff_t slices, double* scratch, const T* x,
                            const T* dy, const T* slope, const T* moving_mean, const T* moving_inv_std, T* slope_diff,
                            T* bias_diff, T* dx) {
  if (slope_diff || bias_diff) {
    grid.run(shape.channels * slices,
             BnDiffSums<T, T>{shape, slices, slope_diff ? x : nullptr, dy, moving_mean, scratch});
    grid.run(bn_channel_blocks(grid, shape),
             BnParameterDiffs<T>{shape, slices, moving_inv_std, scratch, slope_diff, bias_diff});
  }
  if (dx) {
    grid.run(shape.channels * slices, BnFixedInputDiff<T>{shape, slices, dy, slope, moving_inv_std, dx});
  }
}

}  // namespace prototxt_gen
