#include "own_solvers.hpp"

#include <string>

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
      const Dtype decay = this->param_.weight_decay() * net.params_weight_decay()[i];
      const UpdateRule<Dtype> rule{Dtype(1) / this->param_.iter_size(), decay, rate * net.params_lr()[i],
                                   Dtype(this->param_.momentum()), nesterov};
      update(rule, blob->count(), blob->mutable_cpu_data(), blob->mutable_cpu_diff(),
             this->history_[i]->mutable_cpu_data());
    }
    ++this->iter_;
  }
};

}  // namespace

template <typename Dtype>
caffe::Solver<Dtype>* own_solver(const caffe::SolverParameter& param) {
  if (!own_engine()) {
    return nullptr;
  }
  if (param.type() == "SGD") {
    return new OwnSolver<Dtype, caffe::SGDSolver, false>(param);
  }
  if (param.type() == "Nesterov") {
    return new OwnSolver<Dtype, caffe::NesterovSolver, true>(param);
  }
  return nullptr;
}

template caffe::Solver<float>* own_solver<float>(const caffe::SolverParameter& param);
template caffe::Solver<double>* own_solver<double>(const caffe::SolverParameter& param);

}  // namespace prototxt_gen
