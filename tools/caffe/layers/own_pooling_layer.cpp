#include <cstdint>
#include <vector>

#include "caffe/layers/pooling_layer.hpp"
#include "engine.hpp"
#include "pooling_cpu.hpp"

namespace caffe {

namespace {

// Caffe's pooling with the CPU's work on floats done by pooling_cpu.hpp.
template <typename Dtype>
class OwnPoolingLayer : public PoolingLayer<Dtype> {
 public:
  using PoolingLayer<Dtype>::PoolingLayer;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const auto shape = Shape(*bottom[0]);
    const Dtype* const x = bottom[0]->cpu_data();
    Dtype* const y = top[0]->mutable_cpu_data();
    if (!is_max()) {
      prototxt_gen::mean_pooling_forward(shape, x, y);
    } else if (top.size() > 1) {
      prototxt_gen::max_pooling_forward(shape, x, y, top[1]->mutable_cpu_data());
    } else if (in_bytes()) {
      positions_.resize(top[0]->count());
      prototxt_gen::max_pooling_forward(shape, x, y, positions_.data());
    } else {
      prototxt_gen::max_pooling_forward(shape, x, y, this->max_idx_.mutable_cpu_data());
    }
  }
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    if (!propagate_down[0]) {
      return;
    }
    const auto shape = Shape(*bottom[0]);
    const Dtype* const dy = top[0]->cpu_diff();
    Dtype* const dx = bottom[0]->mutable_cpu_diff();
    if (!is_max()) {
      prototxt_gen::mean_pooling_backward(shape, dy, dx);
    } else if (top.size() > 1) {
      prototxt_gen::max_pooling_backward(shape, dy, top[1]->cpu_data(), dx);
    } else if (in_bytes()) {
      prototxt_gen::max_pooling_backward(shape, dy, positions_.data(), dx);
    } else {
      prototxt_gen::max_pooling_backward(shape, dy, this->max_idx_.cpu_data(), dx);
    }
  }

 private:
  bool is_max() const { return this->layer_param_.pooling_param().pool() == PoolingParameter_PoolMethod_MAX; }
  bool in_bytes() const { return this->kernel_h_ * this->kernel_w_ < prototxt_gen::kManyPositions; }
  prototxt_gen::PoolingShape Shape(const Blob<Dtype>& bottom) const {
    return {static_cast<std::ptrdiff_t>(bottom.shape(0)) * this->channels_,
            {this->height_, this->width_},
            {this->pooled_height_, this->pooled_width_},
            {this->kernel_h_, this->kernel_w_},
            {this->stride_h_, this->stride_w_},
            {this->pad_h_, this->pad_w_}};
  }

  // Of the largest values, in the windows. The GPU's passes use max_idx_.
  std::vector<std::uint8_t> positions_;
};

bool Fits(const LayerParameter& param) {
  const PoolingParameter& pooling = param.pooling_param();
  return pooling.engine() == PoolingParameter_Engine_DEFAULT &&
         pooling.pool() != PoolingParameter_PoolMethod_STOCHASTIC;
}

}  // namespace

PROTOTXT_GEN_REPLACE_LAYER(Pooling, OwnPoolingLayer, float, Fits)

}  // namespace caffe
