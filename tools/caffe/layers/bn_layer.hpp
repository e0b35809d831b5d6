// Caffe's side of BN: merged batch normalisation, (N, C, ...) -> same. Formulas: bn_formula.hpp.
#pragma once

#include <vector>

#include "bn_formula.hpp"
#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// Blobs, each (1, C, 1, 1): slope, bias, moving mean, moving inverse standard deviation.
//
// TRAIN and not frozen uses the batch's statistics and moves the averages; TEST or frozen uses the moving statistics as
// constants, in the backward pass too. Frozen, slope and bias are constants as well, and their differences stay
// untouched. Differences of the statistics are never written.
//
// Without Forward_gpu and Backward_gpu, Caffe runs the CPU functions in GPU mode too; bn_layer.cu is their place.
template <typename Dtype>
class BNLayer : public Layer<Dtype> {
 public:
  explicit BNLayer(const LayerParameter& param) : Layer<Dtype>(param) {}
  void LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;

  // Writes the top of the last forward pass again, bit by bit the same, from the same bottom. Averages stay as they are.
  void Recompute(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top);

  const char* type() const override { return "BN"; }
  int ExactNumBottomBlobs() const override { return 1; }
  int ExactNumTopBlobs() const override { return 1; }

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override;

 private:
  void CreateBlobs(int channels);
  void ProtectStatistics();
  bool uses_batch() const { return this->phase_ == TRAIN && !frozen_; }

  bool frozen_ = false;
  double momentum_ = 0;
  double eps_ = 0;
  // Statistics of the last batch, for the backward pass: C values each.
  std::vector<prototxt_gen::BnMean<Dtype>> mean_;
  std::vector<Dtype> inv_std_;
  // The input, kept only where this layer's own output takes its place.
  Blob<Dtype> input_;
};

}  // namespace caffe
