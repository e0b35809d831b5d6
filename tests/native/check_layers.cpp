// Runs the CPU drivers of the project's own layers over many shapes and from several threads, for tools/check-native:
// compiled with a sanitizer, it must end silently. Arrays have exactly the size they need.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <thread>
#include <vector>

#include "augmented_data_cpu.hpp"
#include "augmented_data_queue.hpp"
#include "bn_cpu.hpp"
#include "check_native.hpp"
#include "interp_cpu.hpp"
#include "update_cpu.hpp"

using namespace prototxt_gen;

namespace {

template <typename T>
struct Results {
  std::vector<T> y, dx, slope_diff, bias_diff;
  bool operator==(const Results& other) const {
    return y == other.y && dx == other.dx && slope_diff == other.slope_diff && bias_diff == other.bias_diff;
  }
};

// Forward and backward, with the statistics of the batch or with fixed ones; the backward pass in place of dy.
template <typename T>
Results<T> run_bn(const BnShape& shape, bool fixed) {
  const std::ptrdiff_t channels = shape.channels, count = shape.batch * channels * shape.spatial;
  const std::vector<T> x = drawn<T>(count, 1), slope = drawn<T>(channels, 2), bias = drawn<T>(channels, 3);
  std::vector<T> moving_mean = drawn<T>(channels, 4), moving_inv_std = drawn<T>(channels, 5), inv_std(channels);
  std::vector<BnMean<T>> mean(channels);
  Results<T> out{std::vector<T>(count), drawn<T>(count, 6), std::vector<T>(channels), std::vector<T>(channels)};
  if (fixed) {
    bn_fixed_forward(shape, x.data(), slope.data(), bias.data(), moving_mean.data(), moving_inv_std.data(),
                     out.y.data());
    bn_fixed_backward(shape, x.data(), out.dx.data(), slope.data(), moving_mean.data(), moving_inv_std.data(),
                      out.slope_diff.data(), out.bias_diff.data(), out.dx.data());
    return out;
  }
  bn_batch_forward(shape, 1e-5, 0.9, x.data(), slope.data(), bias.data(), out.y.data(), mean.data(), inv_std.data(),
                   moving_mean.data(), moving_inv_std.data());
  bn_batch_backward(shape, x.data(), out.dx.data(), slope.data(), mean.data(), inv_std.data(), out.slope_diff.data(),
                    out.bias_diff.data(), out.dx.data());
  for (std::ptrdiff_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (std::ptrdiff_t n = 0; n < shape.batch; ++n) {
      for (std::ptrdiff_t i = 0; i < shape.spatial; ++i) {
        sum += static_cast<double>(out.y[(n * channels + c) * shape.spatial + i] - bias[c]);
      }
    }
    require(std::abs(sum) <= 1e-5 * static_cast<double>(shape.batch * shape.spatial), "BN's output has another mean");
  }
  return out;
}

template <typename T>
Results<T> run_interp(const InterpShape& shape) {
  const std::ptrdiff_t in = shape.planes * shape.in_height * shape.in_width;
  const std::ptrdiff_t out = shape.planes * shape.out_height * shape.out_width;
  const std::vector<T> x = drawn<T>(in, 1), dy = drawn<T>(out, 2);
  Results<T> results{std::vector<T>(out), std::vector<T>(in), {}, {}};
  std::vector<InterpTap<T>> rows(shape.out_height), columns(shape.out_width);
  interp_taps(shape.height, shape.out_height, rows.data());
  interp_taps(shape.width, shape.out_width, columns.data());
  interp_forward(shape, rows.data(), columns.data(), x.data(), results.y.data());
  interp_backward(shape, rows.data(), columns.data(), dy.data(), results.dx.data());
  double forward = 0, backward = 0;
  for (std::ptrdiff_t i = 0; i < out; ++i) {
    forward += static_cast<double>(results.y[i]) * static_cast<double>(dy[i]);
  }
  for (std::ptrdiff_t i = 0; i < in; ++i) {
    backward += static_cast<double>(results.dx[i]) * static_cast<double>(x[i]);
  }
  require(std::abs(forward - backward) <= 1e-5 * std::sqrt(static_cast<double>(in + out)),
          "Interp's backward pass is not the transpose");
  return results;
}

template <typename T>
void bn_of_all_sizes() {
  for (const bool fixed : {false, true}) {
    for (const std::ptrdiff_t spatial : {1, 2, 15, 16, 17, 49, 511, 512, 513, 1040}) {
      for (const std::ptrdiff_t channels : {1, 3, 70}) {
        for (const std::ptrdiff_t batch : {1, 3}) {
          run_bn<T>({batch, channels, spatial}, fixed);
        }
      }
    }
  }
}

template <typename T>
void interp_of_all_sizes() {
  for (const int from : {1, 2, 7, 14, 19}) {
    for (const int to : {1, 2, 7, 14, 33}) {
      for (const std::ptrdiff_t planes : {1, 16, 37}) {
        run_interp<T>({planes, from, from + 1, 0, 0, from, from + 1, to, to + 2});
        run_interp<T>({planes, from + 3, from + 4, 1, 2, from, from + 1, to, to + 2});
      }
    }
  }
}

template <typename T>
void updates_of_all_sizes() {
  for (const std::ptrdiff_t count : {0, 1, 15, 16, 17, 1000, 40001}) {
    for (const bool nesterov : {false, true}) {
      for (const UpdateRule<T>& rule : {UpdateRule<T>{1, 0, T(0.5), T(0.9), nesterov}, {T(0.5), T(0.1), 1, 0, nesterov},
                                        {1, 1, 0, T(0.5), nesterov}}) {
        const std::vector<T> data = drawn<T>(count, 1), diff = drawn<T>(count, 2), history = drawn<T>(count, 3);
        std::vector<T> w = data, g = diff, h = history;
        update(rule, count, w.data(), g.data(), h.data());
        for (std::ptrdiff_t i = 0; i < count; ++i) {
          const double after = rule.momentum * history[i] + rule.rate * (rule.scale * diff[i] + rule.decay * data[i]);
          const double step = nesterov ? (1 + rule.momentum) * after - rule.momentum * history[i] : after;
          require(std::abs(h[i] - after) <= 1e-6 && std::abs(g[i] - step) <= 1e-6 &&
                      std::abs(w[i] - (data[i] - step)) <= 1e-6,
                  "an update");
        }
      }
    }
  }
}

// Two nets at once: the team has one job at a time, and what it cannot take runs on the calling thread.
void both_from_several_threads() {
  const BnShape shape{4, 70, 196};
  const InterpShape planes{80, 14, 14, 0, 0, 14, 14, 28, 28};
  const Results<float> bn = run_bn<float>(shape, false), interp = run_interp<float>(planes);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 5; ++k) {
        require(run_bn<float>(shape, false) == bn, "BN depends on other threads");
        require(run_interp<float>(planes) == interp, "Interp depends on other threads");
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const pid_t child = fork();
  if (child == 0) {
    _exit(run_bn<float>(shape, false) == bn ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  require(status == 0, "BN in a forked child");
}

// Batches of augmented images from several threads, read while the next ones are made.
void images_from_several_threads() {
  constexpr int kSize = 24, kWidth = 40, kItems = 6, kBuffers = 2;
  const std::vector<std::uint8_t> pixels(kWidth * kWidth * 3, 100);
  const ImageView image{pixels.data(), kWidth * 3, 3, 1, 3, 0, 0};
  const float mean[3] = {1, 2, 3};
  const std::size_t values = kSize * kSize * 3;
  std::vector<std::vector<float>> buffers(kBuffers, std::vector<float>(kItems * values));
  BatchQueue queue(3, kBuffers, kItems, [&](int, std::uint64_t batch, int item) {
    DrawStream draw{7, 0, batch * kItems + item, DrawPurpose::kCrop};
    const CropWindow window = random_resized_crop(kWidth, kWidth, kSize, {0.2, 1, 0.75, 1.33}, &draw);
    ResizePlan rows, columns;
    rows.set(window.rows, Interpolate::kLinear, kSize, false);
    columns.set(window.columns, Interpolate::kLinear, kSize, item % 2 == 1);
    std::vector<float> row;
    const OutputSettings<float> settings{kSize, 3, Interpolate::kLinear, mean, false, 1};
    augment(image, rows, columns, nullptr, settings, &row, buffers[batch % kBuffers].data() + item * values);
  });
  for (int batch = 0; batch < 20; ++batch) {
    const std::vector<float>& made = buffers[queue.next() % kBuffers];
    for (std::size_t i = 0; i < made.size(); ++i) {
      const float expected = 100 - mean[i / (kSize * kSize) % 3];
      require(std::abs(made[i] - expected) < 1e-3f, "an augmented image");
    }
  }
}

}  // namespace

int main() {
  bn_of_all_sizes<float>();
  bn_of_all_sizes<double>();
  interp_of_all_sizes<float>();
  interp_of_all_sizes<double>();
  updates_of_all_sizes<float>();
  updates_of_all_sizes<double>();
  // Large enough to be written past the caches.
  run_bn<float>({2, 3, 700001}, false);
  run_bn<float>({2, 3, 700001}, true);
  both_from_several_threads();
  images_from_several_threads();
  return 0;
}
