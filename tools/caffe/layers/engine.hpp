#ifndef PROTOTXT_GEN_ENGINE_HPP_
#define PROTOTXT_GEN_ENGINE_HPP_

#include <string>

#include "caffe/layer_factory.hpp"

namespace prototxt_gen {

// True unless $PROTOTXT_GEN_ENGINE is `caffe`, which leaves every layer and solver that Caffe itself has to Caffe.
// `own`, and nothing, stand for ours. Any other value ends the process.
bool own_engine();

// Puts a creator in the place of the one that Caffe registered for a type, which it returns. Caffe's objects come first
// in libcaffe, so that theirs are registered when this runs; the other order ends the process here or there.
template <typename Dtype>
typename caffe::LayerRegistry<Dtype>::Creator replace_creator(const std::string& type,
                                                              typename caffe::LayerRegistry<Dtype>::Creator creator) {
  auto& registry = caffe::LayerRegistry<Dtype>::Registry();
  const auto found = registry.find(type);
  CHECK(found != registry.end()) << "no layer of the type " << type << " to take the place of";
  const auto replaced = found->second;
  found->second = creator;
  return replaced;
}

}  // namespace prototxt_gen

// In namespace caffe: layers of a type that `Fits` are made by Class##Layer, which has the engine's name, all others as
// Caffe would. A GPU has its own layers.
#define PROTOTXT_GEN_REPLACE_LAYER(Type, Class, Dtype, Fits)                                            \
  namespace {                                                                                           \
  shared_ptr<Layer<Dtype>> Creator_##Class##_##Dtype(const LayerParameter& param);                      \
  const LayerRegistry<Dtype>::Creator kReplaced##Class##_##Dtype =                                      \
      prototxt_gen::replace_creator<Dtype>(#Type, Creator_##Class##_##Dtype);                           \
  shared_ptr<Layer<Dtype>> Creator_##Class##_##Dtype(const LayerParameter& param) {                     \
    if (prototxt_gen::own_engine() && Caffe::mode() == Caffe::CPU && Fits(param)) {                     \
      return shared_ptr<Layer<Dtype>>(new Class<Dtype>(param));                                         \
    }                                                                                                   \
    return kReplaced##Class##_##Dtype(param);                                                           \
  }                                                                                                     \
  }

#endif  // PROTOTXT_GEN_ENGINE_HPP_
