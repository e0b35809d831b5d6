#include "bn_cpu.hpp"

#include "parallel.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;

bool worth_threads(const BnShape& shape) {
  return shape.batch * shape.channels * shape.spatial >= kParallelValues;
}

// Sums of one channel are taken in double, one image after the other, by one thread: the result does not depend on how
// many threads there are.
struct Channel {
  const BnShape& shape;
  std::ptrdiff_t index;

  std::ptrdiff_t offset(std::ptrdiff_t image) const { return (image * shape.channels + index) * shape.spatial; }
  double values() const { return static_cast<double>(shape.batch) * static_cast<double>(shape.spatial); }
};

// The mean, summed from the first value on, so that an offset common to all values costs no digits.
template <typename T>
double channel_mean(const Channel& channel, const T* x) {
  const double first = static_cast<double>(x[channel.offset(0)]);
  double sum = 0;
  for (std::ptrdiff_t n = 0; n < channel.shape.batch; ++n) {
    const T* const image = x + channel.offset(n);
    double part = 0;
#pragma omp simd reduction(+ : part)
    for (std::ptrdiff_t i = 0; i < channel.shape.spatial; ++i) {
      part += static_cast<double>(image[i]) - first;
    }
    sum += part;
  }
  return first + sum / channel.values();
}

template <typename T>
double channel_variance(const Channel& channel, const T* x, double mean) {
  double sum = 0;
  for (std::ptrdiff_t n = 0; n < channel.shape.batch; ++n) {
    const T* const image = x + channel.offset(n);
    double part = 0;
#pragma omp simd reduction(+ : part)
    for (std::ptrdiff_t i = 0; i < channel.shape.spatial; ++i) {
      const double centred = static_cast<double>(image[i]) - mean;
      part += centred * centred;
    }
    sum += part;
  }
  return sum / channel.values();
}

template <typename T>
void channel_output(const Channel& channel, const T* x, BnMean<T> mean, T scale, T bias, T* y) {
  for (std::ptrdiff_t n = 0; n < channel.shape.batch; ++n) {
    const T* const from = x + channel.offset(n);
    T* const to = y + channel.offset(n);
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < channel.shape.spatial; ++i) {
      to[i] = bn_output(from[i], mean, scale, bias);
    }
  }
}

template <typename T>
double channel_sum(const Channel& channel, const T* dy) {
  double sum = 0;
  for (std::ptrdiff_t n = 0; n < channel.shape.batch; ++n) {
    const T* const image = dy + channel.offset(n);
    double part = 0;
#pragma omp simd reduction(+ : part)
    for (std::ptrdiff_t i = 0; i < channel.shape.spatial; ++i) {
      part += static_cast<double>(image[i]);
    }
    sum += part;
  }
  return sum;
}

// sum dy (x - mean)
template <typename T>
double channel_product(const Channel& channel, const T* x, const T* dy, BnMean<T> mean) {
  double sum = 0;
  for (std::ptrdiff_t n = 0; n < channel.shape.batch; ++n) {
    const T* const image = x + channel.offset(n);
    const T* const diff = dy + channel.offset(n);
    double part = 0;
#pragma omp simd reduction(+ : part)
    for (std::ptrdiff_t i = 0; i < channel.shape.spatial; ++i) {
      part += static_cast<double>(diff[i]) * static_cast<double>(bn_centre(image[i], mean));
    }
    sum += part;
  }
  return sum;
}

}  // namespace

template <typename T>
void bn_batch_forward(const BnShape& shape, double eps, double momentum, const T* x, const T* slope, const T* bias,
                      T* y, BnMean<T>* mean, T* inv_std, T* moving_mean, T* moving_inv_std) {
  parallel_for(shape.channels, worth_threads(shape), [&](std::ptrdiff_t c) {
    const Channel channel{shape, c};
    const double mu = channel_mean(channel, x);
    const double s = bn_inv_std(channel_variance(channel, x, mu), eps);
    mean[c] = bn_mean<T>(mu);
    inv_std[c] = static_cast<T>(s);
    moving_mean[c] = bn_moving(moving_mean[c], mu, momentum);
    moving_inv_std[c] = bn_moving(moving_inv_std[c], s, momentum);
    channel_output(channel, x, mean[c], slope[c] * inv_std[c], bias[c], y);
  });
}

template <typename T>
void bn_batch_output(const BnShape& shape, const T* x, const T* slope, const T* bias, const BnMean<T>* mean,
                     const T* inv_std, T* y) {
  parallel_for(shape.channels, worth_threads(shape), [&](std::ptrdiff_t c) {
    channel_output(Channel{shape, c}, x, mean[c], slope[c] * inv_std[c], bias[c], y);
  });
}

template <typename T>
void bn_batch_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const BnMean<T>* mean,
                       const T* inv_std, T* slope_diff, T* bias_diff, T* dx) {
  parallel_for(shape.channels, worth_threads(shape), [&](std::ptrdiff_t c) {
    const Channel channel{shape, c};
    const double s = static_cast<double>(inv_std[c]);
    const bool sum_wanted = dx || bias_diff;
    const bool product_wanted = dx || slope_diff;
    const double sum = sum_wanted ? channel_sum(channel, dy) : 0;
    const double product = product_wanted ? channel_product(channel, x, dy, mean[c]) * s : 0;
    if (slope_diff) {
      slope_diff[c] += static_cast<T>(product);
    }
    if (bias_diff) {
      bias_diff[c] += static_cast<T>(sum);
    }
    if (!dx) {
      return;
    }
    const T scale = slope[c] * inv_std[c];
    const T mean_dy = static_cast<T>(sum / channel.values());
    const T pull = static_cast<T>(s * product / channel.values());
    const BnMean<T> mu = mean[c];
    for (std::ptrdiff_t n = 0; n < shape.batch; ++n) {
      const T* const image = x + channel.offset(n);
      const T* const from = dy + channel.offset(n);
      T* const to = dx + channel.offset(n);
#pragma omp simd
      for (std::ptrdiff_t i = 0; i < shape.spatial; ++i) {
        to[i] = bn_input_diff(image[i], from[i], mu, scale, mean_dy, pull);
      }
    }
  });
}

template <typename T>
void bn_fixed_forward(const BnShape& shape, const T* x, const T* slope, const T* bias, const T* moving_mean,
                      const T* moving_inv_std, T* y) {
  parallel_for(shape.channels, worth_threads(shape), [&](std::ptrdiff_t c) {
    const BnMean<T> mean{moving_mean[c], T(0)};
    channel_output(Channel{shape, c}, x, mean, slope[c] * moving_inv_std[c], bias[c], y);
  });
}

template <typename T>
void bn_fixed_backward(const BnShape& shape, const T* x, const T* dy, const T* slope, const T* moving_mean,
                       const T* moving_inv_std, T* slope_diff, T* bias_diff, T* dx) {
  parallel_for(shape.channels, worth_threads(shape), [&](std::ptrdiff_t c) {
    const Channel channel{shape, c};
    if (slope_diff) {
      const BnMean<T> mean{moving_mean[c], T(0)};
      const double v = static_cast<double>(moving_inv_std[c]);
      slope_diff[c] += static_cast<T>(channel_product(channel, x, dy, mean) * v);
    }
    if (bias_diff) {
      bias_diff[c] += static_cast<T>(channel_sum(channel, dy));
    }
    if (!dx) {
      return;
    }
    const T scale = slope[c] * moving_inv_std[c];
    for (std::ptrdiff_t n = 0; n < shape.batch; ++n) {
      const T* const from = dy + channel.offset(n);
      T* const to = dx + channel.offset(n);
#pragma omp simd
      for (std::ptrdiff_t i = 0; i < shape.spatial; ++i) {
        to[i] = scale * from[i];
      }
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
