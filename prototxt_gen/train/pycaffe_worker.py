"""Trains through pycaffe, as a process of its own: ``python -m prototxt_gen.train.pycaffe_worker``.

One process for each GPU over NCCL, or one on the CPU. Its log has the lines of ``caffe train``, and so have signals the
same effect: SIGINT and SIGTERM write a snapshot and stop, SIGHUP writes a snapshot; both before the next iteration.

Beyond ``caffe train``, a resumed training goes on at the record where it stood: stock Caffe's Data layer begins at the
first record again. Batch k of a Data layer holds the records from k B G on, B images and G GPUs, modulo their number
N; so that k mod N / gcd(N, B G) batches, drawn from the data layer alone, bring it there. Beyond the first epoch its
crops and mirrors are not those of an uninterrupted training then, and dropout's draws never are.

With several GPUs a process more starts them and waits. The first one writes the log and the snapshots; when it ends, or
when another fails, the rest are killed: they may be waiting in a reduction for one that will not come.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any, List, Optional, Sequence

from prototxt_gen.train.launch_process import HELD_BACK, die_with_parent

WORKER = "prototxt_gen.train.pycaffe_worker"
WARNING = 1  # glog's level
POLL_S = 0.1


class _Stopped(Exception):
    """Raised before an iteration, through Caffe's solver, when a signal has asked to stop."""


class _Signals:
    """What signals have asked for. Handlers run when Caffe calls back into Python: before each iteration.

    The process is started with these signals held back, and hears of those that came before it could.
    """

    def __init__(self) -> None:
        self.stop = self.snapshot = False

    def catch(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._snapshot)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    def _stop(self, number: int, frame: Any) -> None:
        self.stop = True

    def _snapshot(self, number: int, frame: Any) -> None:
        self.snapshot = True


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Train as the arguments say. ``--rank`` and ``--uid`` are for the processes, one a GPU, that it starts."""
    parser = argparse.ArgumentParser(prog=WORKER)
    parser.add_argument("--pycaffe", required=True)
    parser.add_argument("--solver", required=True)
    parser.add_argument("--snapshot")
    parser.add_argument("--gpu", default="")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--uid", default="")
    given = parser.parse_args(arguments)
    gpus = [int(one) for one in given.gpu.split(",")] if given.gpu else []
    supervises = len(gpus) > 1 and given.rank is None
    signals = _Signals()
    if not supervises:
        signals.catch()
    sys.path.insert(0, given.pycaffe)
    import caffe

    if supervises:
        uid = caffe.NCCL.new_uid().hex()
        start = [sys.executable, "-m", WORKER, *(sys.argv[1:] if arguments is None else arguments), "--uid", uid]
        sys.exit(supervise([[*start, "--rank", str(rank)] for rank in range(len(gpus))]))
    # The others' warnings only: what they do is what the first one says.
    caffe.init_log(WARNING if given.rank else 0, True)
    _train(caffe, given, gpus, bytes.fromhex(given.uid), signals)


def supervise(commands: Sequence[Sequence[str]]) -> int:
    """Run commands side by side until the first one ends, or another fails; return its exit status, and kill the rest.

    Signals to stop and to snapshot go to the first one only.
    """
    children = [subprocess.Popen(command, preexec_fn=die_with_parent(HELD_BACK)) for command in commands]
    for number in HELD_BACK:
        signal.signal(number, lambda number, frame: children[0].send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    status: Optional[int] = None
    while status is None:
        time.sleep(POLL_S)
        ended = [child.poll() for child in children]
        status = ended[0] if ended[0] is not None else next((one for one in ended if one), None)
    for child in children:
        child.kill()
        child.wait()
    return status if status >= 0 else 128 - status


def _train(caffe: Any, given: Any, gpus: List[int], uid: bytes, signals: _Signals) -> None:
    _choose_device(caffe, gpus, given.rank or 0)
    solver = caffe.get_solver(given.solver)
    if given.snapshot:
        caffe.log(f"Resuming from {given.snapshot}")
        solver.restore(given.snapshot)
        _wind_on(solver, given.solver, max(1, len(gpus)), caffe.log)
    caffe.log("Starting Optimization")
    if len(gpus) > 1:
        nccl = caffe.NCCL(solver, uid)
        nccl.bcast()
    if given.rank:
        solver.add_callback(nccl)
        solver.step(solver.param.max_iter - solver.iter)
        return
    saved = _listen(solver, signals)
    if len(gpus) > 1:
        solver.add_callback(nccl)
    try:
        solver.solve()
    except _Stopped:
        if saved[0] != solver.iter:
            solver.snapshot()
        caffe.log("Optimization stopped early.")
        caffe.log("Optimization Done.")


def _choose_device(caffe: Any, gpus: List[int], rank: int) -> None:
    if not gpus:
        caffe.set_mode_cpu()
        caffe.log("Use CPU.")
        return
    caffe.log(f"Using GPUs {', '.join(map(str, gpus))}")
    caffe.set_device(gpus[rank])
    caffe.set_mode_gpu()
    caffe.set_solver_count(len(gpus))
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(len(gpus) > 1)


def _listen(solver: Any, signals: _Signals) -> List[int]:
    """Look at the signals before each iteration; return a list whose first item is the last iteration saved so."""
    saved = [-1]

    def on_start() -> None:
        if signals.stop:
            raise _Stopped
        if signals.snapshot:
            signals.snapshot = False
            saved[0] = solver.iter
            solver.snapshot()

    solver.add_callback(on_start, lambda: None)
    return saved


def _wind_on(solver: Any, path: str, gpus: int, log: Any) -> None:
    """Bring the Data layers of all nets to the record at which they stood when the solver's state was written."""
    from prototxt_gen.train.preflight import read_solver, used_nets
    from prototxt_gen.train.run_skip import batches_taken

    param = read_solver(path)
    nets = [solver.net, *solver.test_nets]
    for number, (net, used, batches) in enumerate(zip(nets, used_nets(param, path), batches_taken(param, solver.iter))):
        _wind_net(net, used, batches, gpus if number == 0 else 1, log)


def batches_into_epoch(batches: int, batch: int, gpus: int, records: int) -> int:
    """Return how many batches, from the first record on, lead to where ``batches`` of them lead."""
    return batches % (records // math.gcd(records, batch * gpus))


def _wind_net(net: Any, used: Any, batches: int, gpus: int, log: Any) -> None:
    from prototxt_gen.core.graph import layers_in
    from prototxt_gen.train.lmdb_file import inspect_lmdb
    from prototxt_gen.train.preflight import LMDB

    names = list(net._layer_names)
    for layer in layers_in(used.net, used.state):
        if layer.type != "Data" or layer.data_param.backend != LMDB:
            continue
        records = inspect_lmdb(layer.data_param.source).entries
        index = names.index(layer.name)
        for _ in range(batches_into_epoch(batches, layer.data_param.batch_size, gpus, records)):
            net._forward(index, index)
        log(f"Layer {layer.name} goes on after {batches} batches of {os.path.basename(layer.data_param.source)}")


if __name__ == "__main__":
    main()
