#ifndef PROTOTXT_GEN_DNNL_CONVOLUTION_LAYER_HPP_
#define PROTOTXT_GEN_DNNL_CONVOLUTION_LAYER_HPP_

#include <memory>
#include <vector>

#include "caffe/layers/conv_layer.hpp"
#include "dnnl_convolution.hpp"

namespace caffe {

// Caffe's convolution with the CPU's work done by DnnlConvolution, where the bottoms are (N, C, H, W) blobs of floats;
// anything else, and the GPU's work, is Caffe's own.
template <typename Dtype>
class DnnlConvolutionLayer : public ConvolutionLayer<Dtype> {
 public:
  explicit DnnlConvolutionLayer(const LayerParameter& param) : ConvolutionLayer<Dtype>(param) {}
  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override;

 private:
  // Null where Caffe's own has to do it.
  std::unique_ptr<prototxt_gen::DnnlConvolution> own_;
};

}  // namespace caffe

#endif  // PROTOTXT_GEN_DNNL_CONVOLUTION_LAYER_HPP_
