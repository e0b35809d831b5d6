"""Floor 4: solvers, data, and Caffe: found, built, run."""
