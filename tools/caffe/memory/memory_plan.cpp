#include "memory_plan.hpp"

#include <algorithm>
#include <map>

namespace prototxt_gen {

namespace {

// The tops of these stand in the memory of their first bottom.
bool shares_data(const PlanLayer& layer) {
  const bool alone = layer.bottoms.size() == 1 && layer.tops.size() == 1;
  return layer.type == "Split" || layer.type == "Reshape" || layer.type == "Flatten" ||
         (alone && (layer.type == "Concat" || layer.type == "Slice"));
}

bool shares_diff(const PlanLayer& layer) { return shares_data(layer) && layer.type != "Split"; }

// Sources of data borrow the memory of their tops or keep it for ever, and losses share theirs.
bool keeps_tops(const PlanLayer& layer) {
  return layer.reads == Reads::kUnknown || layer.reads == Reads::kMetric || layer.bottoms.empty();
}

bool meet(const std::vector<Moments>& a, const std::vector<Moments>& b) {
  for (const Moments& one : a) {
    for (const Moments& other : b) {
      if (one.first <= other.second && other.first <= one.second) {
        return true;
      }
    }
  }
  return false;
}

class Planner {
 public:
  Planner(const std::vector<PlanLayer>& layers, const std::vector<PlanBlob>& blobs, Sharing sharing)
      : layers_(layers), blobs_(blobs), sharing_(sharing), layer_count_(static_cast<int>(layers.size())) {}

  MemoryPlan plan() {
    plan_.data_of.assign(blobs_.size(), -1);
    plan_.diff_of.assign(blobs_.size(), -1);
    plan_.zeroed.resize(layers_.size());
    add_data();
    if (sharing_ != Sharing::kForwardOnly) {
      add_diffs();
    }
    place();
    return std::move(plan_);
  }

 private:
  // The layers that touch an array, and why it must keep to itself.
  struct Touches {
    std::vector<int> blobs, writers, readers, backward_readers;
    int first_alias = -1;
    bool apart = false;
  };

  int backward(int layer) const { return 2 * layer_count_ - 1 - layer; }

  // By blob, the blob whose memory it stands in.
  std::vector<int> roots(bool (*shares)(const PlanLayer&)) const {
    std::vector<int> root(blobs_.size());
    for (std::size_t blob = 0; blob < root.size(); ++blob) {
      root[blob] = static_cast<int>(blob);
    }
    for (const PlanLayer& layer : layers_) {
      if (shares(layer)) {
        for (int top : layer.tops) {
          root[top] = root[layer.bottoms[0]];
        }
      }
    }
    return root;
  }

  void add_data() {
    const std::vector<int> root = roots(shares_data);
    std::vector<Touches> touches(blobs_.size());
    for (int i = 0; i < layer_count_; ++i) {
      touch_data(i, root, &touches);
    }
    for (std::size_t blob = 0; blob < blobs_.size(); ++blob) {
      Touches& group = touches[root[blob]];
      group.blobs.push_back(static_cast<int>(blob));
      group.apart |= blobs_[blob].loss || blobs_[blob].output;
    }
    std::vector<int> order;  // roots by the layer that writes them first
    for (const PlanLayer& layer : layers_) {
      for (int top : layer.tops) {
        if (root[top] == top && std::find(order.begin(), order.end(), top) == order.end()) {
          order.push_back(top);
        }
      }
    }
    // Data that is made again must be there when what is made from it is wanted: later layers come first.
    std::map<int, std::vector<int>> wanted;  // by root: moments of the backward pass
    for (int one : order) {
      for (int layer : touches[one].backward_readers) {
        wanted[one].push_back(backward(layer));
      }
    }
    std::map<int, int> sources;
    for (auto one = order.rbegin(); one != order.rend(); ++one) {
      const int source = repeated_from(*one, root, touches);
      if (source >= 0) {
        sources[*one] = source;
        wanted[source].push_back(*std::min_element(wanted[*one].begin(), wanted[*one].end()));
      }
    }
    for (int one : order) {
      const Touches& group = touches[one];
      if (group.apart) {
        continue;
      }
      Array array;
      array.blobs = group.blobs;
      array.writers = group.writers;
      int last = group.writers.back();
      last = std::max(last, *std::max_element(group.readers.begin(), group.readers.end()));
      const int first = group.writers.front();
      const std::vector<int>& moments = wanted[one];
      array.repeated = sources.count(one) > 0;
      if (array.repeated) {
        array.lives = {{first, last},
                       {*std::min_element(moments.begin(), moments.end()),
                        *std::max_element(moments.begin(), moments.end())}};
      } else {
        for (int moment : moments) {
          last = std::max(last, moment);
        }
        array.lives = {{first, last}};
      }
      add(array);
    }
    for (const auto& one : sources) {
      plan_.arrays[plan_.data_of[one.first]].source = plan_.data_of[one.second];
    }
  }

  void touch_data(int i, const std::vector<int>& root, std::vector<Touches>* touches) const {
    const PlanLayer& layer = layers_[i];
    const bool trains = layer.backward && sharing_ != Sharing::kForwardOnly;
    for (int bottom : layer.bottoms) {
      Touches& group = (*touches)[root[bottom]];
      group.readers.push_back(i);
      group.apart |= layer.reads == Reads::kUnknown;
      if (trains && reads_bottoms(layer)) {
        group.backward_readers.push_back(i);
      }
    }
    for (int top : layer.tops) {
      Touches& group = (*touches)[root[top]];
      group.apart |= keeps_tops(layer);
      if (shares_data(layer)) {
        group.first_alias = group.first_alias < 0 ? i : group.first_alias;
        continue;
      }
      group.writers.push_back(i);
      // What works in place on memory that stands under several names is not understood here.
      group.apart |= group.first_alias >= 0;
      if (trains && reads_tops(layer)) {
        group.backward_readers.push_back(i);
      }
    }
  }

  // The root of the data that an array can be made from again at no cost of memory, -1 where there is none.
  int repeated_from(int one, const std::vector<int>& root, const std::vector<Touches>& touches) const {
    const Touches& group = touches[one];
    if (sharing_ != Sharing::kLean || group.apart || group.backward_readers.empty()) {
      return -1;
    }
    for (int writer : group.writers) {
      if (!layers_[writer].can_repeat) {
        return -1;
      }
    }
    const int first = group.writers.front();
    const int source = root[layers_[first].bottoms[0]];
    const std::vector<int>& kept = touches[source].backward_readers;
    const bool there = touches[source].apart || std::find(kept.begin(), kept.end(), first) != kept.end();
    return source != one && there ? source : -1;
  }

  void add_diffs() {
    const std::vector<int> root = roots(shares_diff);
    struct Group {
      std::vector<int> blobs;
      int born = -1;  // the last layer that has it as a bottom
      int dies = -1;  // the first layer that has it as a top
      int tops = 0;
      bool apart = false;
      bool zero = false;
    };
    std::vector<Group> groups(blobs_.size());
    for (int i = 0; i < layer_count_; ++i) {
      const PlanLayer& layer = layers_[i];
      for (std::size_t k = 0; k < layer.bottoms.size(); ++k) {
        Group& group = groups[root[layer.bottoms[k]]];
        const bool understood = layer.reads != Reads::kUnknown && layer.reads != Reads::kMetric;
        // Backward passes may use a difference that they do not write as scratch.
        const bool scratch = layer.backward && !layer.bottom_backward[k];
        group.apart |= !understood || scratch;
        // The last word is that of the last reader.
        group.zero = !layer.backward || !writes_bottom_diff(layer, k);
        group.born = i;
      }
      for (std::size_t k = 0; k < layer.tops.size(); ++k) {
        Group& group = groups[root[layer.tops[k]]];
        const bool in_place = k < layer.bottoms.size() && layer.bottoms[k] == layer.tops[k];
        group.apart |= keeps_tops(layer) || (in_place && !layer.backward);
        ++group.tops;
        if (group.dies < 0) {
          group.dies = i;
          group.apart |= !layer.backward;  // nobody reads it
        }
      }
    }
    for (std::size_t blob = 0; blob < blobs_.size(); ++blob) {
      Group& group = groups[root[blob]];
      group.blobs.push_back(static_cast<int>(blob));
      group.apart |= blobs_[blob].loss || blobs_[blob].output;
    }
    for (const Group& group : groups) {
      if (group.blobs.empty() || group.apart || group.born < 0 || group.dies < 0) {
        continue;
      }
      if (group.zero) {
        // Several layers between the reader that writes nothing and the first one would see what is not there yet.
        if (group.blobs.size() > 1 || group.tops > 1) {
          continue;
        }
        plan_.zeroed[group.dies].push_back(group.blobs[0]);
      }
      Array array;
      array.diff = true;
      array.blobs = group.blobs;
      array.lives = {{backward(group.zero ? group.dies : group.born), backward(group.dies)}};
      add(array);
    }
  }

  void add(const Array& array) {
    for (int blob : array.blobs) {
      (array.diff ? plan_.diff_of : plan_.data_of)[blob] = static_cast<int>(plan_.arrays.size());
    }
    plan_.arrays.push_back(array);
    for (int blob : array.blobs) {
      plan_.arrays.back().values = std::max(plan_.arrays.back().values, blobs_[blob].values);
    }
  }

  // The largest first, each into the first slot that is free in all its lives.
  void place() {
    std::vector<int> order(plan_.arrays.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<int>(i);
    }
    std::stable_sort(order.begin(), order.end(), [this](int a, int b) {
      const Array& one = plan_.arrays[a];
      const Array& other = plan_.arrays[b];
      return one.values != other.values ? one.values > other.values : one.lives[0].first < other.lives[0].first;
    });
    std::vector<std::vector<int>> members;
    for (int index : order) {
      Array& array = plan_.arrays[index];
      for (std::size_t slot = 0; slot < members.size() && array.slot < 0; ++slot) {
        const bool taken = std::any_of(members[slot].begin(), members[slot].end(), [&](int other) {
          return meet(array.lives, plan_.arrays[other].lives);
        });
        if (!taken) {
          array.slot = static_cast<int>(slot);
        }
      }
      if (array.slot < 0) {
        array.slot = static_cast<int>(members.size());
        members.emplace_back();
        plan_.slots.push_back(array.values);
      }
      members[array.slot].push_back(index);
    }
  }

  const std::vector<PlanLayer>& layers_;
  const std::vector<PlanBlob>& blobs_;
  const Sharing sharing_;
  const int layer_count_;
  MemoryPlan plan_;
};

}  // namespace

Reads rule_of(const std::string& type) {
  using Rules = std::map<std::string, Reads>;
  static const Rules rules = {
#define LAYER_RULE(name, reads) {#name, Reads::reads},
#include "layer_rules.hpp"
#undef LAYER_RULE
  };
  const auto found = rules.find(type);
  return found == rules.end() ? Reads::kUnknown : found->second;
}

MemoryPlan plan_memory(const std::vector<PlanLayer>& layers, const std::vector<PlanBlob>& blobs, Sharing sharing) {
  return Planner(layers, blobs, sharing).plan();
}

}  // namespace prototxt_gen
