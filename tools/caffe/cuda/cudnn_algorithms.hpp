// Put before every file of a build with cuDNN: the choice of an algorithm within a limit of memory, which cuDNN 8 took
// out. The order of preference is cuDNN's own.
#pragma once

#include <cudnn.h>

#include <cstddef>

#if CUDNN_VERSION >= 8000

enum { CUDNN_CONVOLUTION_FWD_SPECIFY_WORKSPACE_LIMIT = 2 };
enum { CUDNN_CONVOLUTION_BWD_FILTER_SPECIFY_WORKSPACE_LIMIT = 2 };
enum { CUDNN_CONVOLUTION_BWD_DATA_SPECIFY_WORKSPACE_LIMIT = 2 };

namespace prototxt_gen {

// The first of the algorithms that `list` gives, best first, which works within so many bytes.
template <typename Performance, typename Algorithm, typename List>
cudnnStatus_t first_algorithm(std::size_t bytes, Algorithm* algorithm, const List& list) {
  Performance found[16];
  int count = 0;
  const cudnnStatus_t status = list(static_cast<int>(sizeof(found) / sizeof(found[0])), &count, found);
  if (status != CUDNN_STATUS_SUCCESS) {
    return status;
  }
  for (int i = 0; i < count; ++i) {
    if (found[i].status == CUDNN_STATUS_SUCCESS && found[i].memory <= bytes) {
      *algorithm = found[i].algo;
      return CUDNN_STATUS_SUCCESS;
    }
  }
  return CUDNN_STATUS_NOT_SUPPORTED;
}

}  // namespace prototxt_gen

inline cudnnStatus_t cudnnGetConvolutionForwardAlgorithm(cudnnHandle_t handle, cudnnTensorDescriptor_t x,
                                                         cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t how,
                                                         cudnnTensorDescriptor_t y, int, std::size_t bytes,
                                                         cudnnConvolutionFwdAlgo_t* algorithm) {
  return prototxt_gen::first_algorithm<cudnnConvolutionFwdAlgoPerf_t>(
      bytes, algorithm, [&](int most, int* count, cudnnConvolutionFwdAlgoPerf_t* found) {
        return cudnnGetConvolutionForwardAlgorithm_v7(handle, x, w, how, y, most, count, found);
      });
}

inline cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm(
    cudnnHandle_t handle, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t how,
    cudnnFilterDescriptor_t dw, int, std::size_t bytes, cudnnConvolutionBwdFilterAlgo_t* algorithm) {
  return prototxt_gen::first_algorithm<cudnnConvolutionBwdFilterAlgoPerf_t>(
      bytes, algorithm, [&](int most, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* found) {
        return cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x, dy, how, dw, most, count, found);
      });
}

inline cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm(
    cudnnHandle_t handle, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t how,
    cudnnTensorDescriptor_t dx, int, std::size_t bytes, cudnnConvolutionBwdDataAlgo_t* algorithm) {
  return prototxt_gen::first_algorithm<cudnnConvolutionBwdDataAlgoPerf_t>(
      bytes, algorithm, [&](int most, int* count, cudnnConvolutionBwdDataAlgoPerf_t* found) {
        return cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, w, dy, how, dx, most, count, found);
      });
}

#endif
