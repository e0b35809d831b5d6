#ifndef PROTOTXT_GEN_DNNL_PRODUCT_HPP_
#define PROTOTXT_GEN_DNNL_PRODUCT_HPP_

#include <dnnl.h>
#include <omp.h>

#include <cstddef>

namespace prototxt_gen {

// oneDNN asks OpenMP how many threads it may use, both where it builds a kernel and where it runs one.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// c (m, n) = a (m, k) b (k, n) + beta c, by rows; a transposed matrix is stored as (k, m) or (n, k). lda, ldb and ldc
// are the distances between stored rows.
inline void sgemm(bool transpose_a, bool transpose_b, std::ptrdiff_t m, std::ptrdiff_t n, std::ptrdiff_t k,
                  const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb, float beta, float* c,
                  std::ptrdiff_t ldc) {
  dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_DNNL_PRODUCT_HPP_
