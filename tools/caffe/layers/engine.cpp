#include "engine.hpp"

#include <cstdlib>

namespace prototxt_gen {

bool own_engine() {
  const char* const value = std::getenv("PROTOTXT_GEN_ENGINE");
  const std::string engine = value ? value : "";
  CHECK(engine.empty() || engine == "own" || engine == "caffe")
      << "PROTOTXT_GEN_ENGINE is '" << engine << "'; it can be own or caffe";
  return engine != "caffe";
}

}  // namespace prototxt_gen
