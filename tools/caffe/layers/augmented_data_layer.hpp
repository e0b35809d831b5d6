// Caffe's side of AugmentedData: images from a source, augmented and made ahead by several threads.
// Formulas: augmented_data_formula.hpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "augmented_data_cpu.hpp"
#include "augmented_data_decode.hpp"
#include "augmented_data_queue.hpp"
#include "augmented_data_source.hpp"
#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

// Item i of solver r's batch k takes position skip + r + (k batch_size + i) n of an endless order, n the number of
// solvers (in TEST, where one solver runs, r = 0 and n = 1): place p of epoch e, position = e size + p. A position
// depends on no image before it, so that `skip` resumes a run exactly. Where an image cannot be read, the one at the
// next position that can be takes its place as well as its own.
//
// Its threads use neither CUDA nor Caffe's state; they are not Caffe's InternalThread, which wants a GPU in GPU builds.
// In GPU mode the batches lie in page-locked memory, and the next one goes to the GPU while it computes with this one.
template <typename Dtype>
class AugmentedDataLayer : public Layer<Dtype> {
 public:
  explicit AugmentedDataLayer(const LayerParameter& param) : Layer<Dtype>(param) {}
  void LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  // The shape is fixed.
  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {}

  const char* type() const override { return "AugmentedData"; }
  int ExactNumBottomBlobs() const override { return 0; }
  int MinTopBlobs() const override { return 1; }
  int MaxTopBlobs() const override { return 2; }

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {}
#ifndef CPU_ONLY
  void Forward_gpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override;
  void Backward_gpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {}
#endif

 private:
  struct Batch {
    Blob<Dtype> data;
    Blob<Dtype> label;
    // The same memory, fetched on the thread that owns the net.
    Dtype* values;
    Dtype* labels;
  };
  // What one thread works with.
  struct Worker {
    explicit Worker(int channels) : decoder(channels) {}
    prototxt_gen::ImageDecoder decoder;
    prototxt_gen::ImageRecord record;
    prototxt_gen::ResizePlan rows;
    prototxt_gen::ResizePlan columns;
    std::vector<float> row;
  };

  void CheckParameters() const;
  void OpenSource();
  void ReadMean();
  void MakeItem(Worker* worker, std::uint64_t batch, int item);
  // Throws a std::exception when the image cannot be read.
  void MakeImage(Worker* worker, std::uint64_t epoch, std::uint64_t index, Dtype* values, Dtype* label);
  prototxt_gen::CropWindow Window(int width, int height, std::uint32_t epoch, std::uint64_t index) const;
  void Skipped(std::uint64_t index, const char* why);

  AugmentedDataParameter param_;
  bool train_ = false;
  bool changes_colour_ = false;
  int solvers_ = 1;
  int rank_ = 0;
  std::vector<Dtype> mean_;
  prototxt_gen::OutputSettings<Dtype> output_ = {};
  std::unique_ptr<prototxt_gen::ImageSource> source_;
  std::mutex skipped_mutex_;  // guards skipped_
  std::set<std::uint64_t> skipped_;
  std::vector<std::unique_ptr<Batch>> batches_;
  std::vector<std::unique_ptr<Worker>> workers_;
#ifndef CPU_ONLY
  class Transfer;
  std::shared_ptr<Transfer> transfer_;  // made by the first Forward_gpu
#endif
  // Last, so that its threads end before what they use.
  std::unique_ptr<prototxt_gen::BatchQueue> queue_;
};

}  // namespace caffe
