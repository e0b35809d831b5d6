// What the programs of tools/check-native share.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

// A wrong result ends the program with status 1.
inline void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "wrong: %s\n", what);
    std::exit(1);
  }
}

// Values in [-1, 1], in an array of exactly the size that is asked for.
template <typename T>
std::vector<T> drawn(std::ptrdiff_t count, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::vector<T> values(count);
  for (T& value : values) {
    value = static_cast<T>(random() % 2001) / T(1000) - T(1);
  }
  return values;
}
