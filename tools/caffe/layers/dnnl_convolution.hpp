#ifndef PROTOTXT_GEN_DNNL_CONVOLUTION_HPP_
#define PROTOTXT_GEN_DNNL_CONVOLUTION_HPP_

#include <memory>

#include "convolution_shape.hpp"

namespace prototxt_gen {

// A convolution of one shape by oneDNN, whose kernels each run on one thread: the threads are parallel.hpp's, and each
// has a fixed share of the images or of the channels. oneDNN's own blocked layouts live in scratch memory of a few MB
// that all convolutions of a thread use in turn. Small groups are left to grouped_convolution_cpu.hpp. With the same
// number of threads the results are the same, bit by bit.
class DnnlConvolution {
 public:
  explicit DnnlConvolution(const ConvolutionShape& shape);
  ~DnnlConvolution();

  const ConvolutionShape& shape() const;

  // False where oneDNN cannot do it. To be asked before the pass itself.
  bool can_forward(bool bias);
  bool can_backward(bool weights, bool data);

  // `bias` (C') may be null.
  void forward(const float* x, const float* weights, const float* bias, float* y);
  void backward_data(const float* dy, const float* weights, float* dx);
  // Adds to dweights.
  void backward_weights(const float* x, const float* dy, float* dweights);
  // Adds to dbias (C').
  void backward_bias(const float* dy, float* dbias) const;

 private:
  class Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_DNNL_CONVOLUTION_HPP_
