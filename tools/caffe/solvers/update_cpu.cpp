#include "update_cpu.hpp"

#include "../layers/parallel.hpp"
#include "../layers/simd_cpu.hpp"

namespace prototxt_gen {

namespace {

// Below this many values a team of threads costs more than it saves.
constexpr std::ptrdiff_t kParallelValues = 32768;

// Terms with the factor 0 are left out, as in Caffe: what is infinite stays so.
template <bool learns, bool decays, bool nesterov, typename T>
PROTOTXT_GEN_INLINE void update_values(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history) {
  const T scale = rule.scale, decay = rule.decay, rate = rule.rate, momentum = rule.momentum;
#pragma omp simd
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const T before = history[i];
    T after = momentum * before;
    if (learns) {
      const T own = scale * diff[i];
      after += rate * (decays ? own + decay * data[i] : own);
    }
    const T step = nesterov ? (T(1) + momentum) * after - momentum * before : after;
    history[i] = after;
    diff[i] = step;
    data[i] -= step;
  }
}

template <bool nesterov, typename T>
PROTOTXT_GEN_CLONES void update_range(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history) {
  if (rule.rate == 0) {
    update_values<false, false, nesterov>(rule, count, data, diff, history);
  } else if (rule.decay == 0) {
    update_values<true, false, nesterov>(rule, count, data, diff, history);
  } else {
    update_values<true, true, nesterov>(rule, count, data, diff, history);
  }
}

}  // namespace

template <typename T>
void update(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history) {
  const auto range = rule.nesterov ? update_range<true, T> : update_range<false, T>;
  parallel_ranges_if(count >= kParallelValues, count, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    range(rule, end - begin, data + begin, diff + begin, history + begin);
  });
}

template void update<float>(const UpdateRule<float>&, std::ptrdiff_t, float*, float*, float*);
template void update<double>(const UpdateRule<double>&, std::ptrdiff_t, double*, double*, double*);

}  // namespace prototxt_gen
