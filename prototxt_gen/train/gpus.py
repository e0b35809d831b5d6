"""GPUs: whether a training wants them, whether a Caffe was built for them, whether it can use them here."""

from __future__ import annotations

import os
import subprocess
from typing import Any, Mapping, Optional

from prototxt_gen.core.errors import Error
from prototxt_gen.train import launch_failures, preflight, run_folder
from prototxt_gen.train.caffe import CUDA_HINT, Caffe
from prototxt_gen.train.solver import with_settings

CPU_ONLY = "this Caffe was built for the CPU only"


def says_gpu(solver: Any) -> bool:
    """Tell whether a solver wants a GPU. The schema's default is GPU, but caffe train takes only what is written."""
    return solver.HasField("solver_mode") and solver.solver_mode == preflight.GPU


def wanted(
    solver_path: Optional[str], folder: Optional[str], settings: Mapping[str, str], cpu: bool, gpu: Optional[str]
) -> bool:
    """Tell whether a training will use a GPU; what is wrong with its solver is left to the plan to say."""
    if cpu or gpu is not None:
        return gpu is not None
    again = folder is not None and run_folder.holds_run(folder)
    path = os.path.join(folder, run_folder.SOLVER) if again else solver_path
    try:
        return path is not None and says_gpu(with_settings(preflight.read_solver(path), settings))
    except Error:
        return False


def check_built(caffe: Caffe, gpu: Optional[str], solver_path: str = "", solver_wants: bool = False) -> None:
    """Raise Error unless Caffe was built for what ``gpu`` names ('all' or ids such as '0,1'), or for the solver."""
    if caffe.cuda and gpu is not None and "," in gpu and not caffe.nccl:
        raise Error("this Caffe was built without NCCL and trains on one GPU only", str(caffe.binary),
                    "prototxt-gen caffe build --cuda --nccl builds one with NCCL")
    if caffe.cuda:
        return
    if gpu is not None:
        raise Error(CPU_ONLY, str(caffe.binary), f"leave --gpu out; or {CUDA_HINT}")
    if solver_wants:
        raise Error(f"solver_mode is GPU, and {CPU_ONLY}", solver_path, f"--cpu trains on the CPU; or {CUDA_HINT}")


def check_usable(caffe: Caffe, gpu: str) -> None:
    """Raise Error unless Caffe finds every GPU that 'all' or ids such as '0,1' name; its device_query tells."""
    done = subprocess.run([str(caffe.binary), "device_query", "-gpu", gpu], capture_output=True, text=True,
                          errors="replace", env={**os.environ, "GLOG_logtostderr": "1"})
    fatal = [line.partition("] ")[2] for line in done.stderr.splitlines() if line.startswith("F") and "] " in line]
    if done.returncode == 0 or not fatal:
        return
    found = launch_failures.meaning(fatal, done.returncode, caffe.layers)
    what = f"GPU {gpu} cannot be used: {found.means if found else fatal[0]}"
    raise Error(what, str(caffe.binary), found.advice if found else "nvidia-smi lists the GPUs; --cpu does without")
