#include "net_memory.hpp"

#include <algorithm>
#include <boost/weak_ptr.hpp>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "../layers/bn_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace prototxt_gen {

namespace {

using caffe::Blob;
using caffe::Caffe;
using caffe::Layer;
using caffe::Net;

// A blob whose data and difference are one memory, so that either of another blob can stand in it.
template <typename Dtype>
class Slot : public Blob<Dtype> {
 public:
  explicit Slot(std::size_t values) : Blob<Dtype>(std::vector<int>(1, static_cast<int>(values))) {
    this->diff_ = this->data_;
  }
};

template <typename Dtype>
Reads reads_of(const Layer<Dtype>& layer, std::size_t tops) {
  const std::string type = layer.type();
  const caffe::LayerParameter& param = layer.layer_param();
  const Reads rule = rule_of(type);
#ifdef USE_CUDNN
  // cuDNN's engines take both for most types.
  if (rule != Reads::kUnknown && rule != Reads::kMetric && type != "Split") {
    return Reads::kBoth;
  }
#endif
  if (type == "BN") {
    return param.bn_param().frozen() ? Reads::kNothing : Reads::kBottoms;
  }
  if (type == "Pooling") {
    return tops > 1 ? Reads::kTops : Reads::kNothing;  // the second top is the mask
  }
  if (type == "Eltwise") {
    if (param.eltwise_param().operation() != caffe::EltwiseParameter::PROD) {
      return Reads::kNothing;
    }
    return param.eltwise_param().stable_prod_grad() ? Reads::kBottoms : Reads::kBoth;
  }
  return rule;
}

}  // namespace

bool sharing_from_environment(Sharing* sharing) {
  const char* const value = std::getenv("PROTOTXT_GEN_MEMORY");
  const std::string word = value ? value : "plain";
  CHECK(word == "plain" || word == "shared" || word == "lean")
      << "PROTOTXT_GEN_MEMORY is '" << word << "'; it may be plain, shared or lean";
  *sharing = word == "lean" ? Sharing::kLean : Sharing::kShared;
  return word != "plain";
}

template <typename Dtype>
NetMemory<Dtype>::NetMemory(Net<Dtype>* net, Sharing sharing)
    : net_(net),
      sharing_(sharing),
      before_forward_(this, &NetMemory::BeforeForward),
      before_backward_(this, &NetMemory::BeforeBackward) {
  Plan();
  net->add_before_forward(&before_forward_);
  net->add_before_backward(&before_backward_);
}

template <typename Dtype>
std::size_t NetMemory<Dtype>::bytes() const {
  std::size_t values = 0;
  for (std::size_t slot : plan_.slots) {
    values += slot;
  }
  return values * sizeof(Dtype);
}

// Makes the plan from the net as it is now.
template <typename Dtype>
void NetMemory<Dtype>::Plan() {
  std::vector<PlanBlob> blobs(net_->blobs().size());
  for (std::size_t blob = 0; blob < blobs.size(); ++blob) {
    blobs[blob].values = Capacity(static_cast<int>(blob));
    blobs[blob].loss = net_->blob_loss_weights()[blob] != Dtype(0);
  }
  for (int blob : net_->output_blob_indices()) {
    blobs[blob].output = true;
  }
  blobs_ = blobs;
  layers_.assign(net_->layers().size(), PlanLayer());
  input_shapes_.clear();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer<Dtype>& layer = *net_->layers()[i];
    PlanLayer& one = layers_[i];
    one.type = layer.type();
    one.bottoms = net_->bottom_ids(static_cast<int>(i));
    one.tops = net_->top_ids(static_cast<int>(i));
    one.reads = reads_of(layer, one.tops.size());
    one.backward = net_->layer_need_backward()[i];
    one.bottom_backward = net_->bottom_need_backward()[i];
    const bool in_place = !one.bottoms.empty() && !one.tops.empty() && one.bottoms[0] == one.tops[0];
    one.can_repeat = one.type == "ReLU" || (one.type == "BN" && !in_place);
    if (one.bottoms.empty()) {
      for (const Blob<Dtype>* top : net_->top_vecs()[i]) {
        input_shapes_.push_back(top->shape());
      }
    }
  }
  plan_ = plan_memory(layers_, blobs_, sharing_);
  Share();
}

template <typename Dtype>
void NetMemory<Dtype>::Share() {
  memory_.assign(plan_.slots.size(), nullptr);
  holds_.assign(plan_.slots.size(), -1);
  for (std::size_t slot = 0; slot < plan_.slots.size(); ++slot) {
    Slot<Dtype> memory(plan_.slots[slot]);
    memory_[slot] = memory.data().get();
    for (const Array& array : plan_.arrays) {
      if (array.slot != static_cast<int>(slot)) {
        continue;
      }
      for (int id : array.blobs) {
        Blob<Dtype>* const blob = net_->blobs()[id].get();
        memory.Reshape(blob->shape());
        if (array.diff) {
          blob->ShareDiff(memory);
        } else {
          blob->ShareData(memory);
        }
      }
    }
  }
}

// The most values that a blob takes without new memory of its own.
template <typename Dtype>
std::size_t NetMemory<Dtype>::Capacity(int id) const {
  const Blob<Dtype>& blob = *net_->blobs()[id];
  std::size_t values = static_cast<std::size_t>(blob.count());
  if (!blobs_.empty()) {
    values = std::max(values, blobs_[id].values);
  }
  for (const auto& memory : {blob.data(), blob.diff()}) {
    if (memory && std::find(memory_.begin(), memory_.end(), memory.get()) == memory_.end()) {
      values = std::max(values, memory->size() / sizeof(Dtype));
    }
  }
  return values;
}

template <typename Dtype>
bool NetMemory<Dtype>::InputsChanged() const {
  std::size_t number = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].bottoms.empty()) {
      for (const Blob<Dtype>* top : net_->top_vecs()[i]) {
        if (top->shape() != input_shapes_[number++]) {
          return true;
        }
      }
    }
  }
  return false;
}

// True where a blob has grown, and with that has got memory of its own. That is right, and not lean.
template <typename Dtype>
bool NetMemory<Dtype>::Stale() const {
  for (const Array& array : plan_.arrays) {
    for (int id : array.blobs) {
      const Blob<Dtype>& blob = *net_->blobs()[id];
      if ((array.diff ? blob.diff() : blob.data()).get() != memory_[array.slot]) {
        return true;
      }
    }
  }
  return false;
}

template <typename Dtype>
void NetMemory<Dtype>::BeforeForward(int i) {
  if (i == 0) {
    if (InputsChanged()) {
      net_->Reshape();
    }
    if (InputsChanged() || Stale()) {
      Plan();
    }
  }
  for (int bottom : layers_[i].bottoms) {
    Need(bottom);
  }
  for (int top : layers_[i].tops) {
    const int array = plan_.data_of[top];
    if (array >= 0) {
      holds_[plan_.arrays[array].slot] = array;
    }
  }
}

template <typename Dtype>
void NetMemory<Dtype>::BeforeBackward(int i) {
  const PlanLayer& layer = layers_[i];
  if (!layer.backward) {
    return;
  }
  if (reads_bottoms(layer)) {
    for (int bottom : layer.bottoms) {
      Need(bottom);
    }
  }
  if (reads_tops(layer)) {
    for (int top : layer.tops) {
      Need(top);
    }
  }
  for (int id : plan_.zeroed[i]) {
    Blob<Dtype>* const blob = net_->blobs()[id].get();
    holds_[plan_.arrays[plan_.diff_of[id]].slot] = plan_.diff_of[id];
#ifndef CPU_ONLY
    if (Caffe::mode() == Caffe::GPU) {
      caffe::caffe_gpu_set(blob->count(), Dtype(0), blob->mutable_gpu_diff());
      continue;
    }
#endif
    caffe::caffe_set(blob->count(), Dtype(0), blob->mutable_cpu_diff());
  }
  for (std::size_t k = 0; k < layer.bottoms.size(); ++k) {
    const int array = plan_.diff_of[layer.bottoms[k]];
    if (array >= 0 && layer.bottom_backward[k] && writes_bottom_diff(layer, k)) {
      holds_[plan_.arrays[array].slot] = array;
    }
  }
}

// Sees to it that the data of a blob is there, by computing it again if it has been given up.
template <typename Dtype>
void NetMemory<Dtype>::Need(int blob) {
  std::vector<int> missing;
  int index = plan_.data_of[blob];
  while (index >= 0 && holds_[plan_.arrays[index].slot] != index) {
    const Array& array = plan_.arrays[index];
    if (!array.repeated) {
      throw std::runtime_error("the data of blob '" + net_->blob_names()[array.blobs[0]] +
                               "' is gone: its memory is shared, and only a whole forward pass and then one backward "
                               "pass find what they need");
    }
    missing.push_back(index);
    index = array.source;
  }
  for (auto one = missing.rbegin(); one != missing.rend(); ++one) {
    Repeat(plan_.arrays[*one]);
    holds_[plan_.arrays[*one].slot] = *one;
  }
}

template <typename Dtype>
void NetMemory<Dtype>::Repeat(const Array& array) {
  for (int writer : array.writers) {
    Layer<Dtype>* const layer = net_->layers()[writer].get();
    const auto& bottom = net_->bottom_vecs()[writer];
    const auto& top = net_->top_vecs()[writer];
    if (auto* const bn = dynamic_cast<caffe::BNLayer<Dtype>*>(layer)) {
      bn->Recompute(bottom, top);
    } else {
      layer->Forward(bottom, top);
    }
  }
}

template <typename Dtype>
std::size_t share_memory(const caffe::shared_ptr<Net<Dtype>>& net, Sharing sharing) {
  using Shared = std::pair<boost::weak_ptr<Net<Dtype>>, std::unique_ptr<NetMemory<Dtype>>>;
  // A net knows its callbacks and does not own them. They are dropped some time after it.
  static std::mutex mutex;
  static auto* const all = new std::vector<Shared>();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto gone = [](const Shared& one) { return one.first.expired(); };
  all->erase(std::remove_if(all->begin(), all->end(), gone), all->end());
  for (const Shared& one : *all) {
    if (one.first.lock() == net) {
      return one.second->bytes();
    }
  }
  std::unique_ptr<NetMemory<Dtype>> memory(new NetMemory<Dtype>(net.get(), sharing));
  const std::size_t bytes = memory->bytes();
  all->emplace_back(net, std::move(memory));
  return bytes;
}

template class NetMemory<float>;
template class NetMemory<double>;
template std::size_t share_memory(const caffe::shared_ptr<Net<float>>& net, Sharing sharing);
template std::size_t share_memory(const caffe::shared_ptr<Net<double>>& net, Sharing sharing);

}  // namespace prototxt_gen
