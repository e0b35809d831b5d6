// Runs the kernels of blocks.hpp on the GPU, on CUDA's default stream as all of Caffe does. For .cu files.
#pragma once

#include <cstddef>

#include "blocks.hpp"
#include "caffe/common.hpp"

namespace prototxt_gen {

class GpuBlock {
 public:
  __device__ std::ptrdiff_t index() const { return blockIdx.x; }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  template <typename Step>
  __device__ void each(const Step& step) const {
    step(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};

template <typename Kernel>
__global__ void run_block(const Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  kernel(GpuBlock(), &shared);
}

class GpuGrid {
 public:
  int threads() const { return kMaxThreads; }
  template <typename Kernel>
  void run(std::ptrdiff_t blocks, const Kernel& kernel) const {
    run_block<<<static_cast<unsigned>(blocks), kMaxThreads>>>(kernel);
    CUDA_POST_KERNEL_CHECK;
  }
};

}  // namespace prototxt_gen
