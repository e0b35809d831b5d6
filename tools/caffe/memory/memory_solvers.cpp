// Solvers share the memory of their nets where $PROTOTXT_GEN_MEMORY asks for it: in place of each registered creator
// stands one that calls it and then attaches the plans. Solvers that are made without the registry, as pycaffe's
// SGDSolver(file) is, are left alone.

#include <map>
#include <string>

#include "caffe/solver.hpp"
#include "caffe/solver_factory.hpp"
#include "net_memory.hpp"

namespace prototxt_gen {

namespace {

template <typename Dtype>
using Creators = typename caffe::SolverRegistry<Dtype>::CreatorRegistry;

template <typename Dtype>
Creators<Dtype>& stock_creators() {
  static auto* const creators = new Creators<Dtype>();
  return *creators;
}

template <typename Dtype>
caffe::Solver<Dtype>* create_solver(const caffe::SolverParameter& param) {
  caffe::Solver<Dtype>* const solver = stock_creators<Dtype>().at(param.type())(param);
  Sharing sharing;
  if (sharing_from_environment(&sharing)) {
    std::size_t bytes = share_memory(solver->net(), sharing);
    LOG_IF(INFO, caffe::Caffe::root_solver())
        << "Memory is shared between blobs" << (sharing == Sharing::kLean ? ", and BN and ReLU are computed again" : "")
        << ": " << (bytes >> 20) << " MiB for net '" << solver->net()->name() << "'";
    for (const auto& net : solver->test_nets()) {
      bytes = share_memory(net, Sharing::kForwardOnly);
      LOG_IF(INFO, caffe::Caffe::root_solver()) << "... and " << (bytes >> 20) << " MiB for its test net";
    }
  }
  return solver;
}

// Our objects stand behind Caffe's in the library, and so do their initialisers: its solvers are registered by now.
template <typename Dtype>
bool replace_creators() {
  Creators<Dtype>& registry = caffe::SolverRegistry<Dtype>::Registry();
  for (const char* type : {"SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"}) {
    CHECK_EQ(registry.count(type), 1) << "solver type '" << type << "' is not registered yet: the memory plans must be "
                                      << "linked behind Caffe's solvers";
  }
  stock_creators<Dtype>() = registry;
  for (auto& entry : registry) {
    entry.second = create_solver<Dtype>;
  }
  return true;
}

const bool replaced_float = replace_creators<float>();
const bool replaced_double = replace_creators<double>();

}  // namespace

}  // namespace prototxt_gen
