// In place of each registered creator of solvers stands one that makes our own solver, where there is one for the type,
// and lets the nets share their memory where $PROTOTXT_GEN_MEMORY asks for it. Solvers that are made without the
// registry, as pycaffe's SGDSolver(file) is, are left alone.

#include <map>
#include <string>

#include "../memory/net_memory.hpp"
#include "caffe/solver_factory.hpp"
#include "own_solvers.hpp"

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
  caffe::Solver<Dtype>* const own = own_solver<Dtype>(param);
  caffe::Solver<Dtype>* const solver = own ? own : stock_creators<Dtype>().at(param.type())(param);
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
    CHECK_EQ(registry.count(type), 1) << "solver type '" << type << "' is not registered yet: ours must be "
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
