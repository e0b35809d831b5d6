#include "blocks_gpu.hpp"
#include "bn_kernels.hpp"
#include "bn_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

template <typename Dtype>
double* BNLayer<Dtype>::Scratch(std::size_t values) {
  if (!scratch_ || scratch_->size() < values * sizeof(double)) {
    scratch_.reset(new SyncedMemory(values * sizeof(double)));
  }
  return static_cast<double*>(scratch_->mutable_gpu_data());
}

template <typename Dtype>
void BNLayer<Dtype>::Forward_gpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const prototxt_gen::GpuGrid grid;
  const auto shape = ShapeOf(*bottom[0]);
  const auto slices = prototxt_gen::bn_slices(shape);
  const Dtype* const slope = this->blobs_[kSlope]->gpu_data();
  const Dtype* const bias = this->blobs_[kBias]->gpu_data();
  const Dtype* x = bottom[0]->gpu_data();
  if (!uses_batch()) {
    prototxt_gen::bn_grid_fixed_forward(grid, shape, slices, x, slope, bias, this->blobs_[kMovingMean]->gpu_data(),
                                        this->blobs_[kMovingInvStd]->gpu_data(), top[0]->mutable_gpu_data());
    return;
  }
  if (bottom[0] == top[0]) {
    caffe_copy(bottom[0]->count(), x, input_.mutable_gpu_data());
    x = input_.gpu_data();
  }
  prototxt_gen::bn_grid_batch_forward(grid, shape, slices, Scratch(prototxt_gen::bn_scratch(shape, slices)), eps_,
                                      momentum_, x, slope, bias, top[0]->mutable_gpu_data(),
                                      reinterpret_cast<prototxt_gen::BnMean<Dtype>*>(mean_.mutable_gpu_data()),
                                      inv_std_.mutable_gpu_data(), this->blobs_[kMovingMean]->mutable_gpu_data(),
                                      this->blobs_[kMovingInvStd]->mutable_gpu_data());
}

template <typename Dtype>
void BNLayer<Dtype>::Recompute_gpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  if (!uses_batch()) {
    Forward_gpu(bottom, top);
    return;
  }
  const auto shape = ShapeOf(*bottom[0]);
  prototxt_gen::bn_grid_batch_output(prototxt_gen::GpuGrid(), shape, prototxt_gen::bn_slices(shape),
                                     bottom[0]->gpu_data(), this->blobs_[kSlope]->gpu_data(),
                                     this->blobs_[kBias]->gpu_data(),
                                     reinterpret_cast<const prototxt_gen::BnMean<Dtype>*>(mean_.gpu_data()),
                                     inv_std_.gpu_data(), top[0]->mutable_gpu_data());
}

template <typename Dtype>
void BNLayer<Dtype>::Backward_gpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                                  const std::vector<Blob<Dtype>*>& bottom) {
  const prototxt_gen::GpuGrid grid;
  const auto shape = ShapeOf(*bottom[0]);
  const auto slices = prototxt_gen::bn_slices(shape);
  const bool in_place = bottom[0] == top[0];
  double* const scratch = Scratch(prototxt_gen::bn_scratch(shape, slices));
  const Dtype* const slope = this->blobs_[kSlope]->gpu_data();
  const Dtype* const dy = top[0]->gpu_diff();
  Dtype* const dx = propagate_down[0] ? bottom[0]->mutable_gpu_diff() : nullptr;
  Dtype* const slope_diff = SlopeDiffWanted(in_place) ? this->blobs_[kSlope]->mutable_gpu_diff() : nullptr;
  Dtype* const bias_diff = BiasDiffWanted() ? this->blobs_[kBias]->mutable_gpu_diff() : nullptr;
  if (uses_batch()) {
    const Dtype* const x = in_place ? input_.gpu_data() : bottom[0]->gpu_data();
    prototxt_gen::bn_grid_batch_backward(grid, shape, slices, scratch, x, dy, slope,
                                         reinterpret_cast<const prototxt_gen::BnMean<Dtype>*>(mean_.gpu_data()),
                                         inv_std_.gpu_data(), slope_diff, bias_diff, dx);
    return;
  }
  prototxt_gen::bn_grid_fixed_backward(grid, shape, slices, scratch, bottom[0]->gpu_data(), dy, slope,
                                       this->blobs_[kMovingMean]->gpu_data(), this->blobs_[kMovingInvStd]->gpu_data(),
                                       slope_diff, bias_diff, dx);
}

INSTANTIATE_LAYER_GPU_FUNCS(BNLayer);
template void BNLayer<float>::Recompute_gpu(const std::vector<Blob<float>*>&, const std::vector<Blob<float>*>&);
template void BNLayer<double>::Recompute_gpu(const std::vector<Blob<double>*>&, const std::vector<Blob<double>*>&);

}  // namespace caffe
