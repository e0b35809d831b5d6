#ifndef PROTOTXT_GEN_VECTOR_CLONES_HPP_
#define PROTOTXT_GEN_VECTOR_CLONES_HPP_

// A function compiled once for each kind of vector registers; the loader picks by what the processor has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define PROTOTXT_GEN_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PROTOTXT_GEN_VECTOR_CLONES
#endif

#endif  // PROTOTXT_GEN_VECTOR_CLONES_HPP_
