// Put before Caffe's internal_thread.cpp: a thread that prefetches data takes over the current device, in CPU mode as
// well, and would end the process where there is none.
#pragma once

#include <cuda_runtime.h>

namespace prototxt_gen {

inline cudaError_t unless_no_gpu(cudaError_t status) {
  switch (status) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
      cudaGetLastError();  // or the next check would find it
      return cudaSuccess;
    default:
      return status;
  }
}

inline cudaError_t current_device(int* device) { return unless_no_gpu(cudaGetDevice(device)); }
inline cudaError_t use_device(int device) { return unless_no_gpu(cudaSetDevice(device)); }

}  // namespace prototxt_gen

#define cudaGetDevice(device) prototxt_gen::current_device(device)
#define cudaSetDevice(device) prototxt_gen::use_device(device)
