#include "augmented_data_layer.hpp"

namespace caffe {

// Copies batches to the GPU on a stream of its own, each only after everything that the net was given to do until then:
// what it still computes may be with the batch that lay in this place before.
template <typename Dtype>
class AugmentedDataLayer<Dtype>::Transfer {
 public:
  Transfer() {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&given_, cudaEventDisableTiming));
  }

  // Its GPU may be gone by now, so that no status counts.
  ~Transfer() {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(given_);
    cudaStreamDestroy(stream_);
  }

  void Begin(std::uint64_t number, Batch* batch, bool labels) {
    CUDA_CHECK(cudaEventRecord(given_, cudaStreamLegacy));
    CUDA_CHECK(cudaStreamWaitEvent(stream_, given_, 0));
    Copy(batch->values, &batch->data);
    if (labels) {
      Copy(batch->labels, &batch->label);
    }
    begun_ = number + 1;
  }

  bool HasBegun(std::uint64_t number) const { return begun_ > number; }

  void Wait() { CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  // The blob's own host memory is what the threads write behind its back: it must not be copied here as well.
  void Copy(const Dtype* values, Blob<Dtype>* blob) {
    CUDA_CHECK(cudaMemcpyAsync(blob->mutable_gpu_data(), values, blob->count() * sizeof(Dtype),
                               cudaMemcpyHostToDevice, stream_));
  }

  cudaStream_t stream_;
  cudaEvent_t given_;
  std::uint64_t begun_ = 0;  // batches
};

template <typename Dtype>
void AugmentedDataLayer<Dtype>::Forward_gpu(const std::vector<Blob<Dtype>*>& bottom,
                                            const std::vector<Blob<Dtype>*>& top) {
  if (!transfer_) {
    transfer_.reset(new Transfer);
  }
  const bool labels = top.size() > 1;
  const auto place = [this](std::uint64_t number) { return batches_[number % batches_.size()].get(); };
  const std::uint64_t number = queue_->next();
  Batch* const batch = place(number);
  if (!transfer_->HasBegun(number)) {
    transfer_->Begin(number, batch, labels);
  }
  transfer_->Wait();
  top[0]->ReshapeLike(batch->data);
  top[0]->set_gpu_data(batch->data.mutable_gpu_data());
  if (labels) {
    top[1]->ReshapeLike(batch->label);
    top[1]->set_gpu_data(batch->label.mutable_gpu_data());
  }
  if (queue_->ready()) {
    transfer_->Begin(number + 1, place(number + 1), labels);
  }
}

template void AugmentedDataLayer<float>::Forward_gpu(const std::vector<Blob<float>*>& bottom,
                                                     const std::vector<Blob<float>*>& top);
template void AugmentedDataLayer<double>::Forward_gpu(const std::vector<Blob<double>*>& bottom,
                                                      const std::vector<Blob<double>*>& top);

}  // namespace caffe
