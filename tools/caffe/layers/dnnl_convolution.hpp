#ifndef PROTOTXT_GEN_DNNL_CONVOLUTION_HPP_
#define PROTOTXT_GEN_DNNL_CONVOLUTION_HPP_

#include <cstddef>
#include <memory>

namespace prototxt_gen {

// y (N, C', H', W') from x (N, C, H, W) with weights (C', C / groups, kernel height, kernel width), all plain. Pairs
// are height, width; a dilation of 1 leaves no gaps.
struct ConvolutionShape {
  std::ptrdiff_t images, channels_in, channels_out, groups;
  std::ptrdiff_t size_in[2], size_out[2], kernel[2], stride[2], pad[2], dilation[2];

  bool operator==(const ConvolutionShape& other) const;
};

// A convolution of one shape by oneDNN, whose kernels each run on one thread: the threads are parallel.hpp's, and each
// has a fixed share of the images or of the channels. oneDNN's own blocked layouts live in scratch memory of a few MB
// that all convolutions of a thread use in turn. With the same number of threads the results are the same, bit by bit.
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
