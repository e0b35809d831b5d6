// The update of parameters by stochastic gradient descent with momentum, on all threads of the CPU.
#pragma once

#include <cstddef>

namespace prototxt_gen {

// With data w, difference g and history h, for every value:
//   d  = scale g + decay w
//   h' = momentum h + rate d
//   u  = h', or with Nesterov's momentum (1 + momentum) h' - momentum h
//   w' = w - u, and u is left in the place of g
// as SGDSolver and NesterovSolver of Caffe 1.0 compute it (there the decay may be that of L1, too). Where rate or decay
// is 0, what it would multiply is not read.
template <typename T>
struct UpdateRule {
  T scale;  // 1 / iter_size
  T decay;
  T rate;
  T momentum;
  bool nesterov;
};

template <typename T>
void update(const UpdateRule<T>& rule, std::ptrdiff_t count, T* data, T* diff, T* history);

}  // namespace prototxt_gen
