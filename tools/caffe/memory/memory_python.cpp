// The module caffe.lean: for pycaffe's users, who make nets and solvers without the registry.

#include <boost/python.hpp>

#include "net_memory.hpp"

namespace {

namespace bp = boost::python;

// By reference to the pointer that Python's object holds: a copy made for the call would count for itself.
std::size_t apply(caffe::shared_ptr<caffe::Net<float>>& net, bool recompute, bool forward_only) {
  using prototxt_gen::Sharing;
  const Sharing training = recompute ? Sharing::kLean : Sharing::kShared;
  return prototxt_gen::share_memory(net, forward_only ? Sharing::kForwardOnly : training);
}

}  // namespace

BOOST_PYTHON_MODULE(lean) {
  bp::scope().attr("__doc__") = "Lean memory for nets: blobs share memory where their lives do not meet.";
  bp::def("apply", &apply, (bp::arg("net"), bp::arg("recompute") = true, bp::arg("forward_only") = false),
          "Let the blobs of a Net share memory, and return the bytes they share.\n\n"
          "Gradients and outputs stay the same to the last bit. Data and differences of blobs that are neither inputs "
          "nor outputs are overwritten during a pass. recompute: BN and ReLU are computed again in the backward pass, "
          "which needs less memory and more time. forward_only: for a net that never runs backward. A pass over part "
          "of the net that needs overwritten data raises RuntimeError. What a net's first call asks for stays. Arrays "
          "taken from inner blobs before the call must not be used after it: their memory is gone.");
}
