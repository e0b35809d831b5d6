// Runs the CPU drivers behind Caffe's own layers over many shapes and from several threads, for tools/check-native:
// convolutions, pooling and the elementwise layers. What is read has exactly the size it needs; what is
// written lies between guards, since no sanitizer sees the stores of oneDNN's kernels.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include "check_native.hpp"
#include "dnnl_convolution.hpp"
#include "elementwise_cpu.hpp"
#include "pooling_cpu.hpp"

using namespace prototxt_gen;

namespace {

using Size = std::ptrdiff_t;

class Guarded {
 public:
  explicit Guarded(Size count) : values_(count + 2 * kGuard, kUntouched) {
    std::fill_n(data(), count, 0.0f);
  }

  float* data() { return values_.data() + kGuard; }

  std::vector<float> checked() const {
    const auto untouched = [](float value) { return value == kUntouched; };
    require(std::all_of(values_.begin(), values_.begin() + kGuard, untouched) &&
                std::all_of(values_.end() - kGuard, values_.end(), untouched),
            "a value beside the array was written");
    return {values_.begin() + kGuard, values_.end() - kGuard};
  }

 private:
  static constexpr Size kGuard = 256;
  static constexpr float kUntouched = 12345.0f;
  std::vector<float> values_;
};

// ---- Convolution ---------------------------------------------------------------------------------------------------

struct Passes {
  std::vector<float> y, dx, dweights, dbias;
  bool operator==(const Passes& other) const {
    return y == other.y && dx == other.dx && dweights == other.dweights && dbias == other.dbias;
  }
};

struct Arrays {
  explicit Arrays(const ConvolutionShape& s)
      : x(drawn<float>(s.images * s.channels_in * s.size_in[0] * s.size_in[1], 1)),
        weights(drawn<float>(s.channels_out * (s.channels_in / s.groups) * s.kernel[0] * s.kernel[1], 2)),
        bias(drawn<float>(s.channels_out, 3)),
        dy(drawn<float>(s.images * s.channels_out * s.size_out[0] * s.size_out[1], 4)) {}
  const std::vector<float> x, weights, bias, dy;
};

Passes by_engine(const ConvolutionShape& shape, const Arrays& given) {
  DnnlConvolution engine(shape);
  require(engine.can_forward(true) && engine.can_backward(true, true), "oneDNN refuses a convolution");
  Guarded y(given.dy.size()), dx(given.x.size()), dweights(given.weights.size()), dbias(given.bias.size());
  engine.forward(given.x.data(), given.weights.data(), given.bias.data(), y.data());
  engine.backward_data(given.dy.data(), given.weights.data(), dx.data());
  engine.backward_weights(given.x.data(), given.dy.data(), dweights.data());
  engine.backward_bias(given.dy.data(), dbias.data());
  return {y.checked(), dx.checked(), dweights.checked(), dbias.checked()};
}

// y[n, o, i, j] = bias[o] + sum over c, k, l of weights[o, c, k, l] x[n, c, i stride - pad + k dilation, ...], and its
// derivatives, term by term in double.
class ByDefinition {
 public:
  ByDefinition(const ConvolutionShape& s, const Arrays& given)
      : y(given.dy.size()), dx(given.x.size()), dweights(given.weights.size()), dbias(given.bias.size()) {
    const Size in = s.channels_in / s.groups, out = s.channels_out / s.groups;
    for (Size n = 0; n < s.images; ++n) {
      for (Size o = 0; o < s.channels_out; ++o) {
        for (Size i = 0; i < s.size_out[0]; ++i) {
          for (Size j = 0; j < s.size_out[1]; ++j) {
            const Size at = ((n * s.channels_out + o) * s.size_out[0] + i) * s.size_out[1] + j;
            const double diff = given.dy[at];
            y[at] += given.bias[o];
            dbias[o] += diff;
            for (Size c = 0; c < in; ++c) {
              for (Size k = 0; k < s.kernel[0]; ++k) {
                for (Size l = 0; l < s.kernel[1]; ++l) {
                  const Size row = i * s.stride[0] - s.pad[0] + k * s.dilation[0];
                  const Size column = j * s.stride[1] - s.pad[1] + l * s.dilation[1];
                  if (row < 0 || row >= s.size_in[0] || column < 0 || column >= s.size_in[1]) {
                    continue;
                  }
                  const Size plane = n * s.channels_in + o / out * in + c;
                  const Size from = (plane * s.size_in[0] + row) * s.size_in[1] + column;
                  const Size w = ((o * in + c) * s.kernel[0] + k) * s.kernel[1] + l;
                  y[at] += static_cast<double>(given.weights[w]) * given.x[from];
                  dx[from] += given.weights[w] * diff;
                  dweights[w] += given.x[from] * diff;
                }
              }
            }
          }
        }
      }
    }
  }

  std::vector<double> y, dx, dweights, dbias;
};

// The values are sums of at most a few thousand terms up to 1.
void require_near(const std::vector<float>& found, const std::vector<double>& expected, const char* what) {
  double largest = 1;
  for (const double value : expected) {
    largest = std::max(largest, std::abs(value));
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    require(std::abs(found[i] - expected[i]) <= 1e-5 * largest, what);
  }
}

Size size_out(Size in, Size kernel, Size stride, Size pad, Size dilation) {
  return (in + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

ConvolutionShape convolution(Size images, Size in, Size out, Size groups, Size height, Size width, Size kernel,
                             Size stride, Size pad, Size dilation) {
  return {images, in, out, groups, {height, width},
          {size_out(height, kernel, stride, pad, dilation), size_out(width, kernel, stride, pad, dilation)},
          {kernel, kernel}, {stride, stride}, {pad, pad}, {dilation, dilation}};
}

const ConvolutionShape kConvolutions[] = {
    convolution(1, 3, 8, 1, 15, 17, 7, 2, 3, 1),     // a stem
    convolution(3, 16, 24, 1, 9, 8, 3, 1, 1, 1),     // a number of images that threads do not share evenly
    convolution(2, 5, 7, 1, 6, 5, 3, 2, 0, 1),       // channels that fill no block; rows beyond the last window
    convolution(2, 8, 16, 1, 11, 11, 3, 1, 2, 2),    // dilated
    convolution(4, 20, 12, 1, 7, 7, 1, 1, 0, 1),     // one tap: small planes side by side
    convolution(5, 12, 20, 1, 14, 13, 1, 2, 0, 1),   // with a stride
    convolution(1, 9, 33, 1, 24, 24, 1, 1, 0, 1),    // large planes
    convolution(2, 6, 6, 1, 5, 5, 1, 1, 1, 1),       // one tap with padding
    convolution(3, 32, 32, 4, 7, 7, 3, 1, 1, 1),     // groups of eight
    convolution(2, 16, 16, 4, 9, 9, 3, 2, 1, 1),     // of four, with a stride
    convolution(4, 64, 128, 32, 6, 6, 3, 1, 1, 1),   // of two and four
    convolution(1, 15, 33, 3, 19, 40, 5, 3, 2, 1),   // of five and eleven; more columns than two vectors have
    convolution(2, 9, 6, 3, 17, 16, 1, 2, 0, 1),     // a stride longer than the kernel
    convolution(2, 6, 6, 3, 5, 2, 2, 3, 1, 1),       // fewer columns than the stride is long
    convolution(1, 6, 4, 2, 8, 18, 7, 1, 6, 1),      // windows that begin wholly in the padding
    convolution(2, 26, 28, 2, 6, 9, 3, 1, 1, 1),     // of thirteen
    convolution(2, 8, 8, 2, 9, 9, 3, 1, 2, 2),       // dilated
    convolution(2, 6, 6, 6, 8, 8, 5, 1, 2, 1),       // each channel by itself
};

void convolutions() {
  for (const ConvolutionShape& shape : kConvolutions) {
    const Arrays given(shape);
    const Passes found = by_engine(shape, given);
    const ByDefinition expected(shape, given);
    require_near(found.y, expected.y, "a convolution");
    require_near(found.dx, expected.dx, "a convolution's difference");
    require_near(found.dweights, expected.dweights, "the difference of a convolution's weights");
    require_near(found.dbias, expected.dbias, "the difference of a convolution's bias");
  }
}

// Several nets at once, each with kernels of its own; the team has one job at a time.
void convolutions_from_several_threads() {
  std::vector<Passes> alone;
  for (const ConvolutionShape& shape : kConvolutions) {
    alone.push_back(by_engine(shape, Arrays(shape)));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (std::size_t k = 0; k < alone.size(); ++k) {
        require(by_engine(kConvolutions[k], Arrays(kConvolutions[k])) == alone[k],
                "a convolution depends on other threads");
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

// ---- Pooling -------------------------------------------------------------------------------------------------------

// Caffe's rule: rounded up, but no window may begin in the padding after the plane.
Size pooled(Size in, Size kernel, Size stride, Size pad) {
  const Size out = (in + 2 * pad - kernel + stride - 1) / stride + 1;
  return pad && (out - 1) * stride >= in + pad ? out - 1 : out;
}

// What was taken or shared out forward comes back: sum (dy y) = sum (dx x), as both are linear where the places of the
// largest values stay.
void require_transposed(const std::vector<float>& x, const std::vector<float>& y, const std::vector<float>& dx,
                        const std::vector<float>& dy) {
  double forward = 0, backward = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    forward += static_cast<double>(y[i]) * dy[i];
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    backward += static_cast<double>(x[i]) * dx[i];
  }
  require(std::abs(forward - backward) <= 1e-6 * static_cast<double>(x.size()), "a pooling is not its transpose");
}

// Whatever the mask: the largest values by the definition, and what comes back at the first place of each.
template <typename Mask>
void max_pooling(const PoolingShape& s, const std::vector<float>& x, const std::vector<float>& dy) {
  Guarded y(dy.size()), dx(x.size());
  std::vector<Mask> mask(dy.size());
  max_pooling_forward(s, x.data(), y.data(), mask.data());
  max_pooling_backward(s, dy.data(), mask.data(), dx.data());
  std::vector<float> largest(dy.size(), -FLT_MAX), back(x.size());
  for (Size at = 0; at < static_cast<Size>(dy.size()); ++at) {
    const Size column = at % s.size_out[1], row = at / s.size_out[1] % s.size_out[0];
    const Size plane = at / s.size_out[1] / s.size_out[0] * s.size_in[0] * s.size_in[1];
    Size place = -1;
    for (Size k = 0; k < s.kernel[0] * s.kernel[1]; ++k) {
      const Size i = row * s.stride[0] - s.pad[0] + k / s.kernel[1];
      const Size j = column * s.stride[1] - s.pad[1] + k % s.kernel[1];
      if (i >= 0 && i < s.size_in[0] && j >= 0 && j < s.size_in[1] && x[plane + i * s.size_in[1] + j] > largest[at]) {
        place = plane + i * s.size_in[1] + j;
        largest[at] = x[place];
      }
    }
    if (place >= 0) {
      back[place] += dy[at];
    }
  }
  require(y.checked() == largest && dx.checked() == back, "a largest value");
}

void poolings() {
  for (const Size in : {1, 4, 7, 28}) {
    for (const Size kernel : {1, 2, 3, 7}) {
      for (const Size stride : {1, 2, 3}) {
        for (const Size pad : {Size{0}, (kernel - 1) / 2}) {
          if (kernel > in + 2 * pad) {
            continue;
          }
          for (const Size planes : {1, 45}) {
            const Size height = pooled(in, kernel, stride, pad), width = pooled(in + 1, kernel, stride, pad);
            const PoolingShape shape{planes, {in, in + 1}, {height, width}, {kernel, kernel}, {stride, stride},
                                     {pad, pad}};
            const Size count_in = planes * in * (in + 1), count = planes * height * width;
            const std::vector<float> x = drawn<float>(count_in, 1), dy = drawn<float>(count, 2);
            max_pooling<std::uint8_t>(shape, x, dy);
            max_pooling<int>(shape, x, dy);
            max_pooling<float>(shape, x, dy);
            if (stride > kernel) {
              continue;  // the last window may hold nothing, of which there is no mean
            }
            Guarded mean(count), mean_dx(count_in);
            mean_pooling_forward(shape, x.data(), mean.data());
            mean_pooling_backward(shape, dy.data(), mean_dx.data());
            require_transposed(x, mean.checked(), mean_dx.checked(), dy);
          }
        }
      }
    }
  }
}

// ---- Elementwise ---------------------------------------------------------------------------------------------------

void elementwise_layers() {
  for (const Size count : {1, 7, 16, 1000, 300001}) {
    const std::vector<float> x = drawn<float>(count, 1), other = drawn<float>(count, 2), third = drawn<float>(count, 3);
    Guarded relu(count), relu_diff(count), sigmoid(count), summed(count), plain(count), multiplied(count);
    Guarded copied(count);
    relu_forward(count, 0.25f, x.data(), relu.data());
    relu_backward(count, 0.25f, x.data(), other.data(), relu_diff.data());
    sigmoid_forward(count, x.data(), sigmoid.data());
    sum(count, {x.data(), other.data(), third.data()}, summed.data());
    plain_sum(count, {x.data(), other.data(), third.data()}, plain.data());
    product(count, {x.data(), other.data(), third.data()}, multiplied.data());
    copy(count, x.data(), copied.data());
    const auto made = {relu.checked(), relu_diff.checked(), sigmoid.checked(), summed.checked(), plain.checked(),
                       multiplied.checked(), copied.checked()};
    for (Size i = 0; i < count; ++i) {
      const float a = x[i], b = other[i], c = third[i];
      const float expected[] = {a > 0 ? a : 0.25f * a, a > 0 ? b : 0.25f * b, 1 / (1 + std::exp(-a)), a + b + c,
                                a + b + c, a * b * c, a};
      int which = 0;
      for (const std::vector<float>& one : made) {
        require(std::abs(one[i] - expected[which++]) <= 1e-6f, "an elementwise layer");
      }
    }
  }
}

}  // namespace

int main() {
  convolutions();
  convolutions_from_several_threads();
  poolings();
  elementwise_layers();
  return 0;
}
