// Marks a formula that CPU and GPU drivers share.
#pragma once

#ifdef __CUDACC__
#define PROTOTXT_GEN_HD __host__ __device__ inline
#else
#define PROTOTXT_GEN_HD inline
#endif
