// Lets the blobs of a net share memory as memory_plan.hpp plans it. Caffe itself stays as it is: the blobs of a net get
// each other's memory (Blob::ShareData, Blob::ShareDiff), and callbacks of the net compute again what was given up.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "caffe/net.hpp"
#include "memory_plan.hpp"

namespace prototxt_gen {

// What $PROTOTXT_GEN_MEMORY says; false for "plain" and where it is not set. Aborts at words it cannot be.
bool sharing_from_environment(Sharing* sharing);

// Shares the memory of a net from now on; the values in its blobs are lost. Returns the bytes of the shared slots.
// A net that shares already keeps to what it was given first.
//
// Afterwards data and differences of blobs that are neither inputs nor outputs hold, between passes, whatever was
// written to their memory last. Parameters, inputs, outputs and losses are as always. A forward or backward pass over
// part of the net that needs data which is gone throws std::runtime_error.
template <typename Dtype>
std::size_t share_memory(const caffe::shared_ptr<caffe::Net<Dtype>>& net, Sharing sharing);

// The plan of one net and what its slots hold at the moment.
template <typename Dtype>
class NetMemory {
 public:
  NetMemory(caffe::Net<Dtype>* net, Sharing sharing);
  NetMemory(const NetMemory&) = delete;
  NetMemory& operator=(const NetMemory&) = delete;
  std::size_t bytes() const;

 private:
  class Callback : public caffe::Net<Dtype>::Callback {
   public:
    Callback(NetMemory* memory, void (NetMemory::*run)(int)) : memory_(memory), run_(run) {}

   protected:
    void run(int layer) override { (memory_->*run_)(layer); }

   private:
    NetMemory* const memory_;
    void (NetMemory::*const run_)(int);
  };

  void BeforeForward(int layer);
  void BeforeBackward(int layer);
  void Plan();
  void Share();
  bool InputsChanged() const;
  bool Stale() const;
  std::size_t Capacity(int blob) const;
  void Need(int blob);
  void Repeat(const Array& array);

  caffe::Net<Dtype>* const net_;
  const Sharing sharing_;
  std::vector<PlanLayer> layers_;
  std::vector<PlanBlob> blobs_;
  MemoryPlan plan_;
  // By slot: its memory, which the blobs own, and the array whose values it holds, -1 for none.
  std::vector<const caffe::SyncedMemory*> memory_;
  std::vector<int> holds_;
  std::vector<std::vector<int>> input_shapes_;
  Callback before_forward_;
  Callback before_backward_;
};

}  // namespace prototxt_gen
