#include "bn_cpu.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "parallel.hpp"
#include "simd_cpu.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;
// What one array holds of a group of channels at most, where it is more than one channel: of two such arrays, a second
// read finds most in a core's cache.
constexpr std::ptrdiff_t kGroupBytes = 512 * 1024;
constexpr std::ptrdiff_t kGroupChannels = 64;
// At least so many groups, where there are so many channels: work for that many threads.
constexpr std::ptrdiff_t kGroups = 32;

// Neighbouring channels, [begin, end), that one thread takes together, because they lie side by side in every image.
// Sums are those of each channel alone and in a fixed order: the result depends neither on groups nor on threads.
template <typename T>
struct Group {
  const BnShape& shape;
  std::ptrdiff_t begin;
  std::ptrdiff_t end;

  std::ptrdiff_t offset(std::ptrdiff_t image, std::ptrdiff_t c) const {
    return (image * shape.channels + c) * shape.spatial;
  }
  double values() const { return static_cast<double>(shape.batch) * static_cast<double>(shape.spatial); }
  bool streams() const {
    return outgrows_caches(shape.batch * shape.channels * shape.spatial * static_cast<std::ptrdiff_t>(sizeof(T)));
  }
};

// Calls run(group) for groups that cover all channels, side by side.
template <typename T, typename Run>
void for_groups(const BnShape& shape, const Run& run) {
  const std::ptrdiff_t channel_bytes = shape.batch * shape.spatial * static_cast<std::ptrdiff_t>(sizeof(T));
  const std::ptrdiff_t fitting = std::min(kGroupBytes / channel_bytes, shape.channels / kGroups);
  const std::ptrdiff_t size = std::max<std::ptrdiff_t>(1, std::min(fitting, kGroupChannels));
  const std::ptrdiff_t groups = (shape.channels + size - 1) / size;
  parallel_for(groups, shape.batch * shape.channels * shape.spatial >= kParallelValues, [&](std::ptrdiff_t i) {
    run(Group<T>{shape, i * size, std::min(shape.channels, (i + 1) * size)});
  });
}

// Calls make(image, c, begin, count, out) for all values of a group, the last images first: of what was read for sums
// just before, they are the likeliest to be in the cache still.
template <typename T, typename Make>
void write_group(const Group<T>& group, T* to, const Make& make) {
  for (std::ptrdiff_t n = group.shape.batch - 1; n >= 0; --n) {
    Writer<T> writer(to + group.offset(n, group.begin), group.streams());
    for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
      writer.write(group.shape.spatial, [&](std::ptrdiff_t begin, std::ptrdiff_t count, T* out) {
        make(group.offset(n, c) + begin, c, count, out);
      });
    }
    writer.flush();
  }
  fence_streams();
}

// sum (x - shift), sum (x - shift)^2
template <typename T>
PROTOTXT_GEN_CLONES void add_shifted(const T* x, std::ptrdiff_t count, T shift, LaneSums* sums) {
  add_terms<T>(count, [=](std::ptrdiff_t i, T* one, T* square) PROTOTXT_GEN_INLINE_LAMBDA {
    *one = x[i] - shift;
    *square = *one * *one;
  }, sums);
}

// sum dy, sum dy (x - mean)
template <typename T>
PROTOTXT_GEN_CLONES void add_products(const T* x, const T* dy, std::ptrdiff_t count, BnMean<T> mean, LaneSums* sums) {
  add_terms<T>(count, [=](std::ptrdiff_t i, T* one, T* product) PROTOTXT_GEN_INLINE_LAMBDA {
    *one = dy[i];
    *product = dy[i] * bn_centre(x[i], mean);
  }, sums);
}

// sum dy
template <typename T>
PROTOTXT_GEN_CLONES void add_values(const T* dy, std::ptrdiff_t count, LaneSums* sums) {
  add_terms<T>(count, [=](std::ptrdiff_t i, T* one, T* none) PROTOTXT_GEN_INLINE_LAMBDA {
    *one = dy[i];
    *none = T(0);
  }, sums);
}

template <typename T>
PROTOTXT_GEN_CLONES void write_output(const T* x, std::ptrdiff_t count, BnMean<T> mean, T scale, T bias, T* y) {
  write_values(count, [=](std::ptrdiff_t i) PROTOTXT_GEN_INLINE_LAMBDA { return bn_output(x[i], mean, scale, bias); },
               y);
}

template <typename T>
PROTOTXT_GEN_CLONES void write_input_diff(const T* x, const T* dy, std::ptrdiff_t count, BnMean<T> mean, T scale,
                                          T mean_dy, T pull, T* dx) {
  write_values(count, [=](std::ptrdiff_t i) PROTOTXT_GEN_INLINE_LAMBDA {
    return bn_input_diff(x[i], dy[i], mean, scale, mean_dy, pull);
  }, dx);
}

template <typename T>
PROTOTXT_GEN_CLONES void write_scaled(const T* dy, std::ptrdiff_t count, T scale, T* dx) {
  write_values(count, [=](std::ptrdiff_t i) PROTOTXT_GEN_INLINE_LAMBDA { return scale * dy[i]; }, dx);
}

struct Moments {
  double mean;
  double variance;  // biased
};

// All in double and in two passes, each value's distance from the first one, then from the mean: costs no digits.
template <typename T>
Moments exact_moments(const Group<T>& group, std::ptrdiff_t c, const T* x) {
  const double first = static_cast<double>(x[group.offset(0, c)]);
  const auto mean_of = [&](const auto& term) {
    double sum = 0;
    for (std::ptrdiff_t n = 0; n < group.shape.batch; ++n) {
      const T* const run = x + group.offset(n, c);
      double part = 0;
#pragma omp simd reduction(+ : part)
      for (std::ptrdiff_t i = 0; i < group.shape.spatial; ++i) {
        part += term(static_cast<double>(run[i]));
      }
      sum += part;
    }
    return sum / group.values();
  };
  const double mean = first + mean_of([=](double value) { return value - first; });
  return {mean, mean_of([=](double value) { return (value - mean) * (value - mean); })};
}

// Mean and variance from one pass over x. Values are taken from a shift near the mean, that of the first image, so that
// an offset common to all costs no digits: the variance is mean(d^2) - mean(d)^2 with d = x - shift. Where the shift
// turns out to be further from the mean than two standard deviations, or a square overflows, the pass was in vain.
template <typename T>
void group_moments(const Group<T>& group, const T* x, Moments* moments) {
  std::array<LaneSums, kGroupChannels> sums;
  std::array<T, kGroupChannels> shift;
  const std::ptrdiff_t spatial = group.shape.spatial;
  for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
    const T* const run = x + group.offset(0, c);
    LaneSums first;
    add_shifted(run, spatial, run[0], &first);
    shift[c - group.begin] = run[0] + static_cast<T>(lane_total(first.first) / static_cast<double>(spatial));
  }
  for (std::ptrdiff_t n = 0; n < group.shape.batch; ++n) {
    for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
      add_shifted(x + group.offset(n, c), spatial, shift[c - group.begin], &sums[c - group.begin]);
    }
  }
  for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
    const std::ptrdiff_t k = c - group.begin;
    const double distance = lane_total(sums[k].first) / group.values();
    const double variance = lane_total(sums[k].second) / group.values() - distance * distance;
    const bool kept_digits = distance * distance <= 4 * variance && variance <= std::numeric_limits<double>::max();
    moments[k] = kept_digits ? Moments{static_cast<double>(shift[k]) + distance, variance}
                             : exact_moments(group, c, x);
  }
}

// sum dy and sum dy (x - mean), the latter 0 where x is null.
template <typename T, typename Mean>
void group_sums(const Group<T>& group, const T* x, const T* dy, const Mean& mean_of, LaneSums* sums) {
  for (std::ptrdiff_t n = 0; n < group.shape.batch; ++n) {
    for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
      const std::ptrdiff_t at = group.offset(n, c);
      if (x) {
        add_products(x + at, dy + at, group.shape.spatial, mean_of(c), &sums[c - group.begin]);
      } else {
        add_values(dy + at, group.shape.spatial, &sums[c - group.begin]);
      }
    }
  }
}

}  // namespace

template <typename T>
void bn_batch_forward(const BnShape& shape, double eps, double momentum, const T* x, const T* slope, const T* bias,
                      T* y, BnMean<T>* mean, T* inv_std, T* moving_mean, T* moving_inv_std) {
  for_groups<T>(shape, [&](const Group<T>& group) {
    std::array<Moments, kGroupChannels> moments;
    group_moments(group, x, moments.data());
    for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
      const double mu = moments[c - group.begin].mean;
      const double s = bn_inv_std(moments[c - group.begin].variance, eps);
      mean[c] = bn_mean<T>(mu);
      inv_std[c] = static_cast<T>(s);
      moving_mean[c] = bn_moving(moving_mean[c], mu, momentum);
      moving_inv_std[c] = bn_moving(moving_inv_std[c], s, momentum);
    }
    write_group(group, y, [&](std::ptrdiff_t at, std::ptrdiff_t c, std::ptrdiff_t count, T* out) {
      write_output(x + at, count, mean[c], slope[c] * inv_std[c], bias[c], out);
    });
  });
}

template <typename T>
void bn_batch_output(const BnShape& shape, const T* x, const T* slope, const T* bias, const BnMean<T>* mean,
                     const T* inv_std, T* y) {
  for_groups<T>(shape, [&](const Group<T>& group) {
    write_group(group, y, [&](std::ptrdiff_t at, std::ptrdiff_t c, std::ptrdiff_t count, T* out) {
      write_output(x + at, count, mean[c], slope[c] * inv_std[c], bias[c], out);
    });
  });
}

template <typename T>
void bn_batch_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const BnMean<T>* mean,
                       const T* inv_std, T* slope_diff, T* bias_diff, T* dx) {
  for_groups<T>(shape, [&](const Group<T>& group) {
    std::array<LaneSums, kGroupChannels> sums;
    group_sums(group, dx || slope_diff ? x : nullptr, dy, [=](std::ptrdiff_t c) { return mean[c]; }, sums.data());
    std::array<T, kGroupChannels> mean_dy, pull;
    for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
      const std::ptrdiff_t k = c - group.begin;
      const double s = static_cast<double>(inv_std[c]);
      const double sum = lane_total(sums[k].first);
      const double product = lane_total(sums[k].second) * s;
      if (slope_diff) {
        slope_diff[c] += static_cast<T>(product);
      }
      if (bias_diff) {
        bias_diff[c] += static_cast<T>(sum);
      }
      mean_dy[k] = static_cast<T>(sum / group.values());
      pull[k] = static_cast<T>(s * product / group.values());
    }
    if (dx) {
      write_group(group, dx, [&](std::ptrdiff_t at, std::ptrdiff_t c, std::ptrdiff_t count, T* out) {
        const std::ptrdiff_t k = c - group.begin;
        write_input_diff(x + at, dy + at, count, mean[c], slope[c] * inv_std[c], mean_dy[k], pull[k], out);
      });
    }
  });
}

template <typename T>
void bn_fixed_forward(const BnShape& shape, const T* x, const T* slope, const T* bias, const T* moving_mean,
                      const T* moving_inv_std, T* y) {
  for_groups<T>(shape, [&](const Group<T>& group) {
    write_group(group, y, [&](std::ptrdiff_t at, std::ptrdiff_t c, std::ptrdiff_t count, T* out) {
      const BnMean<T> mean{moving_mean[c], T(0)};
      write_output(x + at, count, mean, slope[c] * moving_inv_std[c], bias[c], out);
    });
  });
}

template <typename T>
void bn_fixed_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const T* moving_mean,
                       const T* moving_inv_std, T* slope_diff, T* bias_diff, T* dx) {
  for_groups<T>(shape, [&](const Group<T>& group) {
    if (slope_diff || bias_diff) {
      const auto mean_of = [=](std::ptrdiff_t c) { return BnMean<T>{moving_mean[c], T(0)}; };
      std::array<LaneSums, kGroupChannels> sums;
      group_sums(group, slope_diff ? x : nullptr, dy, mean_of, sums.data());
      for (std::ptrdiff_t c = group.begin; c < group.end; ++c) {
        const LaneSums& sum = sums[c - group.begin];
        if (slope_diff) {
          slope_diff[c] += static_cast<T>(lane_total(sum.second) * static_cast<double>(moving_inv_std[c]));
        }
        if (bias_diff) {
          bias_diff[c] += static_cast<T>(lane_total(sum.first));
        }
      }
    }
    if (dx) {
      write_group(group, dx, [&](std::ptrdiff_t at, std::ptrdiff_t c, std::ptrdiff_t count, T* out) {
        write_scaled(dy + at, count, slope[c] * moving_inv_std[c], out);
      });
    }
  });
}

#define PROTOTXT_GEN_INSTANTIATE(T)                                                                                   \
  template void bn_batch_forward<T>(const BnShape&, double, double, const T*, const T*, const T*, T*, BnMean<T>*, T*, \
                                    T*, T*);                                                                          \
  template void bn_batch_output<T>(const BnShape&, const T*, const T*, const T*, const BnMean<T>*, const T*, T*);      \
  template void bn_batch_backward<T>(const BnShape&, const T*, const T*, const T*, const BnMean<T>*, const T*, T*,    \
                                     T*, T*);                                                                         \
  template void bn_fixed_forward<T>(const BnShape&, const T*, const T*, const T*, const T*, const T*, T*);            \
  template void bn_fixed_backward<T>(const BnShape&, const T*, const T*, const T*, const T*, const T*, T*, T*, T*)

PROTOTXT_GEN_INSTANTIATE(float);
PROTOTXT_GEN_INSTANTIATE(double);

}  // namespace prototxt_gen
