// Which blobs of a net can stand in the same memory, from the graph alone.
//
// A step of L layers has 2 L moments: the forward pass of layer i is moment i, its backward pass moment 2 L - 1 - i. An
// Array is the data or the difference of one or several blobs that Caffe lets share it. It lives from the moment that
// writes it first to the last one that reads it; arrays whose lives do not meet may share a slot. Data that can be made
// again is given up between its last use in the forward pass and its first use in the backward pass.
//
// The arrays of a net with unknown layers stay apart where those layers touch them. prototxt_gen/spec/lean.py makes the
// same plan for its estimate.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace prototxt_gen {

// What is shared: for a net that only runs forward; for a training step; that, with BN and ReLU computed again.
enum class Sharing { kForwardOnly, kShared, kLean };

enum class Reads { kUnknown, kNothing, kBottoms, kTops, kBoth, kMetric, kByParameter };

// The rule of a layer type, kUnknown where there is none.
Reads rule_of(const std::string& type);

struct PlanLayer {
  std::string type;
  Reads reads = Reads::kUnknown;       // kByParameter resolved
  bool backward = false;               // its backward pass runs
  bool can_repeat = false;             // its forward pass can run again for the same result, from its one bottom
  std::vector<int> bottoms;            // blobs; a top in place is the same blob as the bottom
  std::vector<int> tops;
  std::vector<bool> bottom_backward;   // it propagates to this bottom
};

struct PlanBlob {
  std::size_t values = 0;
  bool loss = false;    // its difference holds the weight of a loss
  bool output = false;  // the net's result
};

using Moments = std::pair<int, int>;  // first and last

struct Array {
  bool diff = false;
  std::vector<int> blobs;
  std::size_t values = 0;
  std::vector<Moments> lives;
  int slot = -1;
  std::vector<int> writers;  // data: the layers that write it, in order
  int source = -1;           // data that is made again: the array it is made from, -1 where that has a place of its own
  bool repeated = false;
};

struct MemoryPlan {
  std::vector<Array> arrays;        // those that have a slot
  std::vector<std::size_t> slots;   // values
  std::vector<int> data_of;         // by blob: its array of data and of differences, -1 where it has its own memory
  std::vector<int> diff_of;
  std::vector<std::vector<int>> zeroed;  // by layer: blobs whose difference nobody writes, set to 0 before its backward
};

MemoryPlan plan_memory(const std::vector<PlanLayer>& layers, const std::vector<PlanBlob>& blobs, Sharing sharing);

// True where the backward pass of a layer reads the data of its bottoms, or of its tops.
inline bool reads_bottoms(const PlanLayer& layer) {
  return layer.reads == Reads::kBottoms || layer.reads == Reads::kBoth || layer.reads == Reads::kMetric;
}
inline bool reads_tops(const PlanLayer& layer) { return layer.reads == Reads::kTops || layer.reads == Reads::kBoth; }

// False for a bottom that only tells a size: its difference has nobody who writes it there.
inline bool writes_bottom_diff(const PlanLayer& layer, std::size_t bottom) {
  return bottom == 0 || (layer.type != "Interp" && layer.type != "Crop");
}

}  // namespace prototxt_gen
