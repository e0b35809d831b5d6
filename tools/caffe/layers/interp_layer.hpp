// Caffe's side of Interp: bilinear resize with aligned corners, (N, C, H, W) -> (N, C, H', W').
// Formulas: interp_formula.hpp.
#pragma once

#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"
#include "interp_cpu.hpp"

namespace caffe {

// The output size comes from exactly one of: a second bottom (its height and width only; its difference is never
// written), zoom_factor, shrink_factor, height and width. pad_beg and pad_end, zero or negative, crop the input first.
template <typename Dtype>
class InterpLayer : public Layer<Dtype> {
 public:
  explicit InterpLayer(const LayerParameter& param) : Layer<Dtype>(param) {}
  void LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;

  const char* type() const override { return "Interp"; }
  int MinBottomBlobs() const override { return 1; }
  int MaxBottomBlobs() const override { return 2; }
  int ExactNumTopBlobs() const override { return 1; }
  bool AllowForceBackward(int bottom_index) const override { return bottom_index == 0; }

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override;
#ifndef CPU_ONLY
  void Forward_gpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_gpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override;
#endif

 private:
  prototxt_gen::InterpShape shape_;
  std::vector<prototxt_gen::InterpTap<Dtype>> rows_;
  std::vector<prototxt_gen::InterpTap<Dtype>> columns_;
};

}  // namespace caffe
