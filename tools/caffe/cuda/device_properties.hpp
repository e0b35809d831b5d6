// Put before Caffe's common.cpp: three properties of a device that CUDA 13 took out of cudaDeviceProp.
#pragma once

#include <cuda_runtime.h>

#if CUDART_VERSION >= 13000

namespace prototxt_gen {

struct DeviceProperties : cudaDeviceProp {
  int clockRate;  // kHz
  int deviceOverlap;
  int kernelExecTimeoutEnabled;
};

inline cudaError_t device_properties(DeviceProperties* properties, int device) {
  cudaError_t status = cudaGetDeviceProperties(properties, device);
  const auto attribute = [&](int* value, cudaDeviceAttr which) {
    if (status == cudaSuccess) {
      status = cudaDeviceGetAttribute(value, which, device);
    }
  };
  attribute(&properties->clockRate, cudaDevAttrClockRate);
  attribute(&properties->deviceOverlap, cudaDevAttrAsyncEngineCount);
  attribute(&properties->kernelExecTimeoutEnabled, cudaDevAttrKernelExecTimeout);
  return status;
}

}  // namespace prototxt_gen

#define cudaDeviceProp prototxt_gen::DeviceProperties
#define cudaGetDeviceProperties(properties, device) prototxt_gen::device_properties(properties, device)

#endif
