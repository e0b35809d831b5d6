#include "bn_layer.hpp"

#include "caffe/filler.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

template <typename Dtype>
void BNLayer<Dtype>::LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const BNParameter& param = this->layer_param_.bn_param();
  const std::string& name = this->layer_param_.name();
  frozen_ = param.frozen();
  momentum_ = param.momentum();
  eps_ = param.eps();
  CHECK_GE(bottom[0]->num_axes(), 2) << "layer '" << name << "': BN needs a bottom of shape (N, C, ...), not "
                                     << bottom[0]->shape_string();
  CHECK_GT(param.eps(), 0) << "layer '" << name << "': bn_param.eps must be positive";
  CHECK(param.momentum() >= 0 && param.momentum() <= 1)
      << "layer '" << name << "': bn_param.momentum must lie between 0 and 1, not " << param.momentum();
  CreateBlobs(bottom[0]->shape(1));
  ProtectStatistics();
}

template <typename Dtype>
void BNLayer<Dtype>::CreateBlobs(int channels) {
  const std::vector<int> shape = {1, channels, 1, 1};
  if (!this->blobs_.empty()) {
    CHECK_EQ(this->blobs_.size(), kBlobs) << "layer '" << this->layer_param_.name()
                                          << "': BN has four blobs (slope, bias, moving mean, moving inverse std)";
    return;
  }
  this->blobs_.resize(kBlobs);
  for (auto& blob : this->blobs_) {
    blob.reset(new Blob<Dtype>(shape));
  }
  const BNParameter& param = this->layer_param_.bn_param();
  shared_ptr<Filler<Dtype>>(GetFiller<Dtype>(param.slope_filler()))->Fill(this->blobs_[kSlope].get());
  shared_ptr<Filler<Dtype>>(GetFiller<Dtype>(param.bias_filler()))->Fill(this->blobs_[kBias].get());
  caffe_set(channels, Dtype(0), this->blobs_[kMovingMean]->mutable_cpu_data());
  caffe_set(channels, Dtype(1), this->blobs_[kMovingInvStd]->mutable_cpu_data());
}

// A solver decays every blob whose lr_mult is not 0, and the statistics' differences are not gradients: weight decay
// with momentum would shrink the statistics at each step. The net reads the settings from layer_param_ after this.
template <typename Dtype>
void BNLayer<Dtype>::ProtectStatistics() {
  const std::string& name = this->layer_param_.name();
  const bool given = this->layer_param_.param_size() > kMovingMean;
  while (this->layer_param_.param_size() < kBlobs) {
    this->layer_param_.add_param();
  }
  for (int i : {kMovingMean, kMovingInvStd}) {
    ParamSpec* const spec = this->layer_param_.mutable_param(i);
    if (!spec->has_lr_mult()) {
      spec->set_lr_mult(0);
      spec->set_decay_mult(0);
    } else if (spec->lr_mult() != 0) {
      LOG(WARNING) << "layer '" << name << "': param " << i << " is a moving statistic of BN, and with lr_mult "
                   << spec->lr_mult() << " the solver's weight decay corrupts it; "
                   << "use param { lr_mult: 0 decay_mult: 0 }";
    }
  }
  if (!given) {
    LOG_FIRST_N(INFO, 1) << "layer '" << name << "': no param for BN's moving statistics; lr_mult and decay_mult are "
                         << "set to 0 here and in every BN layer like it";
  }
}

template <typename Dtype>
void BNLayer<Dtype>::Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const int channels = bottom[0]->shape(1);
  for (const auto& blob : this->blobs_) {
    CHECK_EQ(blob->count(), channels) << "layer '" << this->layer_param_.name() << "': the bottom has " << channels
                                      << " channels, but the blobs are " << blob->shape_string();
  }
  CHECK_GT(bottom[0]->count(), 0) << "layer '" << this->layer_param_.name() << "': the bottom "
                                  << bottom[0]->shape_string() << " holds no values";
  if (bottom[0] != top[0]) {
    top[0]->ReshapeLike(*bottom[0]);
  }
  if (uses_batch()) {
    mean_.Reshape({channels, 2});
    inv_std_.Reshape({channels});
    if (bottom[0] == top[0]) {
      input_.ReshapeLike(*bottom[0]);
    }
  }
}

template <typename Dtype>
void BNLayer<Dtype>::Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const auto shape = ShapeOf(*bottom[0]);
  const Dtype* const slope = this->blobs_[kSlope]->cpu_data();
  const Dtype* const bias = this->blobs_[kBias]->cpu_data();
  const Dtype* x = bottom[0]->cpu_data();
  if (!uses_batch()) {
    prototxt_gen::bn_fixed_forward(shape, x, slope, bias, this->blobs_[kMovingMean]->cpu_data(),
                                   this->blobs_[kMovingInvStd]->cpu_data(), top[0]->mutable_cpu_data());
    return;
  }
  if (bottom[0] == top[0]) {
    caffe_copy(bottom[0]->count(), x, input_.mutable_cpu_data());
    x = input_.cpu_data();
  }
  prototxt_gen::bn_batch_forward(shape, eps_, momentum_, x, slope, bias, top[0]->mutable_cpu_data(),
                                 reinterpret_cast<prototxt_gen::BnMean<Dtype>*>(mean_.mutable_cpu_data()),
                                 inv_std_.mutable_cpu_data(), this->blobs_[kMovingMean]->mutable_cpu_data(),
                                 this->blobs_[kMovingInvStd]->mutable_cpu_data());
}

template <typename Dtype>
void BNLayer<Dtype>::Recompute(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  CHECK(bottom[0] != top[0]) << "layer '" << this->layer_param_.name() << "': in place, BN has no input to start from";
#ifndef CPU_ONLY
  if (Caffe::mode() == Caffe::GPU) {
    Recompute_gpu(bottom, top);
    return;
  }
#endif
  if (!uses_batch()) {
    Forward_cpu(bottom, top);
    return;
  }
  prototxt_gen::bn_batch_output(ShapeOf(*bottom[0]), bottom[0]->cpu_data(), this->blobs_[kSlope]->cpu_data(),
                                this->blobs_[kBias]->cpu_data(),
                                reinterpret_cast<const prototxt_gen::BnMean<Dtype>*>(mean_.cpu_data()),
                                inv_std_.cpu_data(), top[0]->mutable_cpu_data());
}

template <typename Dtype>
bool BNLayer<Dtype>::SlopeDiffWanted(bool in_place) {
  const bool wanted = !frozen_ && this->param_propagate_down(kSlope);
  if (wanted && in_place && !uses_batch()) {
    // Keeping x here would cost every net that is only being tested a copy of it.
    LOG_FIRST_N(WARNING, 1) << "layer '" << this->layer_param_.name()
                            << "': in place and in the TEST phase, BN does not compute the difference of its slope";
    return false;
  }
  return wanted;
}

// In the TEST phase, too, the differences are those of what was computed: dx = dy g v.
template <typename Dtype>
void BNLayer<Dtype>::Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                                  const std::vector<Blob<Dtype>*>& bottom) {
  const auto shape = ShapeOf(*bottom[0]);
  const bool in_place = bottom[0] == top[0];
  const Dtype* const slope = this->blobs_[kSlope]->cpu_data();
  const Dtype* const dy = top[0]->cpu_diff();
  Dtype* const dx = propagate_down[0] ? bottom[0]->mutable_cpu_diff() : nullptr;
  Dtype* const slope_diff = SlopeDiffWanted(in_place) ? this->blobs_[kSlope]->mutable_cpu_diff() : nullptr;
  Dtype* const bias_diff = BiasDiffWanted() ? this->blobs_[kBias]->mutable_cpu_diff() : nullptr;
  if (uses_batch()) {
    const Dtype* const x = in_place ? input_.cpu_data() : bottom[0]->cpu_data();
    prototxt_gen::bn_batch_backward(shape, x, dy, slope,
                                    reinterpret_cast<const prototxt_gen::BnMean<Dtype>*>(mean_.cpu_data()),
                                    inv_std_.cpu_data(), slope_diff, bias_diff, dx);
    return;
  }
  prototxt_gen::bn_fixed_backward(shape, bottom[0]->cpu_data(), dy, slope, this->blobs_[kMovingMean]->cpu_data(),
                                  this->blobs_[kMovingInvStd]->cpu_data(), slope_diff, bias_diff, dx);
}

INSTANTIATE_CLASS(BNLayer);
REGISTER_LAYER_CLASS(BN);

}  // namespace caffe
