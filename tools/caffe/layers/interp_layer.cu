#include "blocks_gpu.hpp"
#include "interp_kernels.hpp"
#include "interp_layer.hpp"

namespace caffe {

template <typename Dtype>
void InterpLayer<Dtype>::Forward_gpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  prototxt_gen::interp_grid_forward(prototxt_gen::GpuGrid(), shape_, bottom[0]->gpu_data(),
                                    top[0]->mutable_gpu_data());
}

template <typename Dtype>
void InterpLayer<Dtype>::Backward_gpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                                      const std::vector<Blob<Dtype>*>& bottom) {
  if (propagate_down[0]) {
    prototxt_gen::interp_grid_backward(prototxt_gen::GpuGrid(), shape_, top[0]->gpu_diff(),
                                       bottom[0]->mutable_gpu_diff());
  }
}

INSTANTIATE_LAYER_GPU_FUNCS(InterpLayer);

}  // namespace caffe
