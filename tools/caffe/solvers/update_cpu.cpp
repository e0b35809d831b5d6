#include "update_cpu.hpp"

#include "../layers/parallel.hpp"
#include "../layers/vector_clones.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;

template <typename T>
PROTOTXT_GEN_CLONES void update_range(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history) {
  const T scale = rule.scale, decay = rule.decay, rate = rule.rate, momentum = rule.momentum;
  const T step_on = rule.nesterov ? T(1) + momentum : T(1), step_back = rule.nesterov ? momentum : T(0);
#pragma omp simd
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const T before = history[i];
    const T after = momentum * before + rate * (scale * diff[i] + decay * data[i]);
    const T step = step_on * after - step_back * before;
    history[i] = after;
    diff[i] = step;
    data[i] -= step;
  }
}

}  // namespace

template <typename T>
void update(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history) {
  const auto range = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    update_range(rule, end - begin, data + begin, diff + begin, history + begin);
  };
  if (count < kParallelValues) {
    range(0, count);
  } else {
    parallel_ranges(count, range);
  }
}

template void update<float>(const UpdateRule<float>&, std::ptrdiff_t, float*, float*, float*);
template void update<double>(const UpdateRule<double>&, std::ptrdiff_t, double*, double*, double*);

}  // namespace prototxt_gen
