#include <vector>

#include "caffe/layers/eltwise_layer.hpp"
#include "caffe/layers/relu_layer.hpp"
#include "caffe/layers/sigmoid_layer.hpp"
#include "caffe/layers/split_layer.hpp"
#include "elementwise_cpu.hpp"
#include "engine.hpp"

// Caffe's layers with the CPU's work on floats done by elementwise_cpu.hpp, on all threads.

namespace caffe {

namespace {

template <typename Dtype>
class OwnReLULayer : public ReLULayer<Dtype> {
 public:
  using ReLULayer<Dtype>::ReLULayer;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    prototxt_gen::relu_forward(bottom[0]->count(), slope(), bottom[0]->cpu_data(), top[0]->mutable_cpu_data());
  }
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    if (propagate_down[0]) {
      prototxt_gen::relu_backward(bottom[0]->count(), slope(), bottom[0]->cpu_data(), top[0]->cpu_diff(),
                                  bottom[0]->mutable_cpu_diff());
    }
  }

 private:
  Dtype slope() const { return this->layer_param_.relu_param().negative_slope(); }
};

// Its backward pass does not pay: three such layers in a net, and Caffe's is limited by memory already.
template <typename Dtype>
class OwnSigmoidLayer : public SigmoidLayer<Dtype> {
 public:
  using SigmoidLayer<Dtype>::SigmoidLayer;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    prototxt_gen::sigmoid_forward(bottom[0]->count(), bottom[0]->cpu_data(), top[0]->mutable_cpu_data());
  }
};

// Sums without coefficients, and products with the stable gradient.
template <typename Dtype>
class OwnEltwiseLayer : public EltwiseLayer<Dtype> {
 public:
  using EltwiseLayer<Dtype>::EltwiseLayer;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    std::vector<const Dtype*> x;
    for (const auto* blob : bottom) {
      x.push_back(blob->cpu_data());
    }
    const auto fold = is_sum() ? prototxt_gen::sum : prototxt_gen::product;
    fold(top[0]->count(), x, top[0]->mutable_cpu_data());
  }
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    const int count = top[0]->count();
    const Dtype* const dy = top[0]->cpu_diff();
    for (std::size_t i = 0; i < bottom.size(); ++i) {
      if (!propagate_down[i]) {
        continue;
      }
      Dtype* const dx = bottom[i]->mutable_cpu_diff();
      if (is_sum()) {
        prototxt_gen::copy(count, dy, dx);
        continue;
      }
      std::vector<const Dtype*> factors;
      for (std::size_t j = 0; j < bottom.size(); ++j) {
        if (j != i) {
          factors.push_back(bottom[j]->cpu_data());
        }
      }
      factors.push_back(dy);
      prototxt_gen::product(count, factors, dx);
    }
  }

 private:
  bool is_sum() const { return this->op_ == EltwiseParameter_EltwiseOp_SUM; }
};

template <typename Dtype>
class OwnSplitLayer : public SplitLayer<Dtype> {
 public:
  using SplitLayer<Dtype>::SplitLayer;

 protected:
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    if (!propagate_down[0]) {
      return;
    }
    std::vector<const Dtype*> dy;
    for (const auto* blob : top) {
      dy.push_back(blob->cpu_diff());
    }
    Dtype* const dx = bottom[0]->mutable_cpu_diff();
    if (dy.size() == 1) {
      prototxt_gen::copy(this->count_, dy[0], dx);
    } else {
      prototxt_gen::plain_sum(this->count_, dy, dx);
    }
  }
};

bool ReLUFits(const LayerParameter& param) { return param.relu_param().engine() == ReLUParameter_Engine_DEFAULT; }

bool SigmoidFits(const LayerParameter& param) {
  return param.sigmoid_param().engine() == SigmoidParameter_Engine_DEFAULT;
}

bool EltwiseFits(const LayerParameter& param) {
  const EltwiseParameter& eltwise = param.eltwise_param();
  const bool product = eltwise.operation() == EltwiseParameter_EltwiseOp_PROD && eltwise.stable_prod_grad();
  return eltwise.coeff_size() == 0 && (product || eltwise.operation() == EltwiseParameter_EltwiseOp_SUM);
}

bool SplitFits(const LayerParameter&) { return true; }

}  // namespace

PROTOTXT_GEN_REPLACE_LAYER(ReLU, OwnReLULayer, float, ReLUFits)
PROTOTXT_GEN_REPLACE_LAYER(Sigmoid, OwnSigmoidLayer, float, SigmoidFits)
PROTOTXT_GEN_REPLACE_LAYER(Eltwise, OwnEltwiseLayer, float, EltwiseFits)
PROTOTXT_GEN_REPLACE_LAYER(Split, OwnSplitLayer, float, SplitFits)

}  // namespace caffe
