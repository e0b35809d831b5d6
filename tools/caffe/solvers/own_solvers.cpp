// Python's headers come before all others.
#include <boost/python.hpp>

#include "own_solvers.hpp"

#include "../layers/engine.hpp"
#include "caffe/sgd_solvers.hpp"
#include "update_cpu.hpp"

namespace prototxt_gen {

namespace {

template <typename Dtype, template <typename> class Base, bool nesterov>
class OwnSolver : public Base<Dtype> {
 public:
  using Base<Dtype>::Base;

 protected:
  void ApplyUpdate() override {
    if (caffe::Caffe::mode() != caffe::Caffe::CPU || this->param_.regularization_type() != "L2") {
      Base<Dtype>::ApplyUpdate();
      return;
    }
    const Dtype rate = this->GetLearningRate();
    LOG_IF(INFO, this->param_.display() && this->iter_ % this->param_.display() == 0 &&
                     caffe::Caffe::root_solver())
        << "Iteration " << this->iter_ << ", lr = " << rate;
    this->ClipGradients();
    const caffe::Net<Dtype>& net = *this->net_;
    for (std::size_t i = 0; i < net.learnable_params().size(); ++i) {
      caffe::Blob<Dtype>* const blob = net.learnable_params()[i];
      const Dtype decay = Dtype(this->param_.weight_decay()) * net.params_weight_decay()[i];
      const UpdateRule<Dtype> rule{Dtype(1) / this->param_.iter_size(), decay, rate * net.params_lr()[i],
                                   Dtype(this->param_.momentum()), nesterov};
      update(rule, blob->count(), blob->mutable_cpu_data(), blob->mutable_cpu_diff(),
             this->history_[i]->mutable_cpu_data());
    }
    ++this->iter_;
  }
};

// pycaffe shows a solver as what its class is registered for. Ours stands for the class that it derives from, with all
// that pycaffe has for that one. Where no Python runs, or no pycaffe, nothing is registered.
template <typename Own, typename Base>
void show_as() {
  if (!Py_IsInitialized()) {
    return;
  }
  namespace bp = boost::python;
  const auto* const base = bp::converter::registry::query(bp::type_id<Base>());
  auto& own = const_cast<bp::converter::registration&>(bp::converter::registry::lookup(bp::type_id<Own>()));
  if (base && base->m_class_object && !own.m_class_object) {
    bp::objects::register_dynamic_id<Own>();
    bp::objects::register_conversion<Own, Base>(false);
    own.m_class_object = bp::incref(base->m_class_object);
  }
}

template <typename Dtype, template <typename> class Base, bool nesterov>
caffe::Solver<Dtype>* made(const caffe::SolverParameter& param) {
  using Own = OwnSolver<Dtype, Base, nesterov>;
  show_as<Own, Base<Dtype>>();
  return new Own(param);
}

}  // namespace

template <typename Dtype>
caffe::Solver<Dtype>* own_solver(const caffe::SolverParameter& param) {
  if (!own_engine()) {
    return nullptr;
  }
  if (param.type() == "SGD") {
    return made<Dtype, caffe::SGDSolver, false>(param);
  }
  if (param.type() == "Nesterov") {
    return made<Dtype, caffe::NesterovSolver, true>(param);
  }
  return nullptr;
}

template caffe::Solver<float>* own_solver<float>(const caffe::SolverParameter& param);
template caffe::Solver<double>* own_solver<double>(const caffe::SolverParameter& param);

}  // namespace prototxt_gen
