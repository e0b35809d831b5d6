#include "dnnl_convolution_layer.hpp"

#include <algorithm>

#include "engine.hpp"

namespace caffe {

template <typename Dtype>
void DnnlConvolutionLayer<Dtype>::Reshape(const std::vector<Blob<Dtype>*>& bottom,
                                          const std::vector<Blob<Dtype>*>& top) {
  ConvolutionLayer<Dtype>::Reshape(bottom, top);
  const bool fits = this->num_spatial_axes_ == 2 && this->channel_axis_ == 1 && !this->force_nd_im2col_ &&
                    bottom[0]->count() > 0 && top[0]->count() > 0;
  if (!fits) {
    own_.reset();
    return;
  }
  prototxt_gen::ConvolutionShape shape;
  shape.images = this->num_;
  shape.channels_in = this->channels_;
  shape.channels_out = this->num_output_;
  shape.groups = this->group_;
  for (int i = 0; i < 2; ++i) {
    shape.size_in[i] = bottom[0]->shape(2 + i);
    shape.size_out[i] = top[0]->shape(2 + i);
    shape.kernel[i] = this->kernel_shape_.cpu_data()[i];
    shape.stride[i] = this->stride_.cpu_data()[i];
    shape.pad[i] = this->pad_.cpu_data()[i];
    shape.dilation[i] = this->dilation_.cpu_data()[i];
  }
  // Caffe reshapes before each forward pass, and the kernels of a shape take time to build.
  if (!own_ || !(own_->shape() == shape)) {
    own_.reset(new prototxt_gen::DnnlConvolution(shape));
  }
}

template <typename Dtype>
void DnnlConvolutionLayer<Dtype>::Forward_cpu(const std::vector<Blob<Dtype>*>& bottom,
                                              const std::vector<Blob<Dtype>*>& top) {
  if (!own_ || !own_->can_forward(this->bias_term_)) {
    ConvolutionLayer<Dtype>::Forward_cpu(bottom, top);
    return;
  }
  const Dtype* const weights = this->blobs_[0]->cpu_data();
  const Dtype* const bias = this->bias_term_ ? this->blobs_[1]->cpu_data() : nullptr;
  for (std::size_t i = 0; i < bottom.size(); ++i) {
    own_->forward(bottom[i]->cpu_data(), weights, bias, top[i]->mutable_cpu_data());
  }
}

template <typename Dtype>
void DnnlConvolutionLayer<Dtype>::Backward_cpu(const std::vector<Blob<Dtype>*>& top,
                                               const std::vector<bool>& propagate_down,
                                               const std::vector<Blob<Dtype>*>& bottom) {
  const bool data_wanted = std::find(propagate_down.begin(), propagate_down.end(), true) != propagate_down.end();
  if (!own_ || !own_->can_backward(this->param_propagate_down_[0], data_wanted)) {
    ConvolutionLayer<Dtype>::Backward_cpu(top, propagate_down, bottom);
    return;
  }
  for (std::size_t i = 0; i < top.size(); ++i) {
    const Dtype* const dy = top[i]->cpu_diff();
    if (this->bias_term_ && this->param_propagate_down_[1]) {
      own_->backward_bias(dy, this->blobs_[1]->mutable_cpu_diff());
    }
    if (this->param_propagate_down_[0]) {
      own_->backward_weights(bottom[i]->cpu_data(), dy, this->blobs_[0]->mutable_cpu_diff());
    }
    if (propagate_down[i]) {
      own_->backward_data(dy, this->blobs_[0]->cpu_data(), bottom[i]->mutable_cpu_diff());
    }
  }
}

namespace {

bool Fits(const LayerParameter& param) {
  return param.convolution_param().engine() == ConvolutionParameter_Engine_DEFAULT;
}

}  // namespace

template class DnnlConvolutionLayer<float>;
PROTOTXT_GEN_REPLACE_LAYER(Convolution, DnnlConvolutionLayer, float, Fits)

}  // namespace caffe
