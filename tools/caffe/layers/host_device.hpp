// Marks what CPU and GPU share.
#pragma once

// A formula, for both.
#ifdef __CUDACC__
#define PROTOTXT_GEN_HD __host__ __device__ inline
#else
#define PROTOTXT_GEN_HD inline
#endif

// A part of a kernel (blocks.hpp), for the GPU; other compilers make it for the host, to test it.
#ifdef __CUDACC__
#define PROTOTXT_GEN_KERNEL __device__ inline
#else
#define PROTOTXT_GEN_KERNEL inline
#endif
