// A function with PROTOTXT_GEN_CLONES is compiled for three generations of x86-64, and the loader picks one; what it
// calls must be inlined. Without contraction to fused operations (-ffp-contract=off) all give the same bits. The loader
// picks before ThreadSanitizer is ready for it: there, and elsewhere, the plain function is all there is.
#pragma once

#include <cstddef>  // tells of glibc

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)
#define PROTOTXT_GEN_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define PROTOTXT_GEN_CLONES
#endif
