// Caffe's SGD and Nesterov solvers with the CPU's update done by update_cpu.hpp.
#pragma once

#include "caffe/solver.hpp"

namespace prototxt_gen {

// Returns a new solver of the type in `param`, null for what is left to Caffe (engine.hpp says when). Its update of a
// parameter is one pass over memory, and Nesterov's momentum needs no array besides its history; on a GPU, and with L1
// regularisation, it is Caffe's own. Logs and snapshots are Caffe's.
template <typename Dtype>
caffe::Solver<Dtype>* own_solver(const caffe::SolverParameter& param);

}  // namespace prototxt_gen
