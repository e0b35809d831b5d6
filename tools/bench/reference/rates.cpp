// What the floors of a bench are made of: how fast this machine copies and multiplies with all threads.
#include <cstring>

#include "caffe/util/math_functions.hpp"
#include "parallel.hpp"

// Moves ``bytes`` altogether: half of them read, half of them written.
extern "C" void copy_bytes(char* to, const char* from, long bytes) {
  prototxt_gen::parallel_ranges(bytes / 2, [=](std::ptrdiff_t begin, std::ptrdiff_t end) {
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  });
}

// c = a b, all size x size.
extern "C" void multiply(float* c, const float* a, const float* b, int size) {
  caffe::caffe_cpu_gemm<float>(CblasNoTrans, CblasNoTrans, size, size, size, 1.0f, a, b, 0.0f, c);
}
