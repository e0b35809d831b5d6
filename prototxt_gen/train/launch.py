"""Runs ``caffe train``: the exact command, the live log, signals, and how it ended.

Caffe runs in the current directory and in a session of its own, so that a terminal's Ctrl-C reaches it once, from here.
SIGINT and SIGTERM become its SIGINT, on which it writes a snapshot and stops; a second one kills it. SIGHUP is passed
on as it is: Caffe writes a snapshot and goes on.

With ``--cpu`` a solver that says ``solver_mode: GPU`` would still take GPU 0, and Caffe has no flag against that. Only
then Caffe gets another solver, ``<snapshot_prefix>.cpu-solver.prototxt``, which differs in solver_mode and spells the
snapshot_prefix out, since Caffe derives a missing one from the solver's own name.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Tuple

from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.io import dumps, write_text
from prototxt_gen.train import preflight
from prototxt_gen.train.caffe import Caffe
from prototxt_gen.train.logs import TrainingLog, is_watched

GPU_IDS = re.compile(r"all|\d+(,\d+)*")
MEMORY_HINT = "the kernel kills a process when memory runs out: dmesg tells; a smaller batch_size needs less"
DISK_HINT = "the disk may be full, or the folder of the snapshots gone"

STOP_NOTICE = "stopping: Caffe ends its iteration and writes a snapshot; once more to kill it"

# echo(data): bytes of Caffe's log, as they come. notice(text): a line of our own.
Echo = Callable[[bytes], None]
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A training run that has passed the pre-flight checks.

    ``solver_text`` is the solver to write to ``solver_file`` before the start, or None when Caffe gets the user's own.
    """

    command: Tuple[str, ...]
    solver_file: str
    solver_text: Optional[str]
    prefix: str
    log: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did not fail: ``snapshot`` is the last whole solver state, None when there is none."""

    log: TrainingLog
    interrupted: bool
    killed: bool
    snapshot: Optional[str]


def plan(
    solver_path: str,
    caffe: Caffe,
    *,
    cpu: bool = False,
    gpu: Optional[str] = None,
    snapshot: Optional[str] = None,
    weights: Optional[str] = None,
    log: Optional[str] = None,
) -> Plan:
    """Check everything that can be checked without starting Caffe, and settle the command; nothing is written.

    ``gpu`` is 'all' or ids such as '0,1'. Raises Error for contradicting options and for what would make Caffe abort.
    """
    if cpu and gpu is not None:
        raise Error("--cpu and --gpu exclude one another")
    if snapshot is not None and weights is not None:
        raise Error("--snapshot and --weights exclude one another", hint="--snapshot resumes, --weights starts anew")
    if gpu is not None and not GPU_IDS.fullmatch(gpu):
        raise Error(f"--gpu {gpu} names no GPUs", hint="write 'all', or ids such as 0,1")
    solver = preflight.read_solver(solver_path)
    asks_for_gpu = solver.HasField("solver_mode") and solver.solver_mode == preflight.GPU
    _check_gpu(solver_path, caffe, gpu, asks_for_gpu and not cpu)
    preflight.check_method(solver, solver_path)
    nets = preflight.used_nets(solver, solver_path)
    for used in nets:
        preflight.check_net(used, solver_path, caffe.layers)
    if snapshot is not None:
        preflight.check_snapshot(snapshot)
    for files in [weights] if weights is not None else [] if snapshot is not None else solver.weights:
        preflight.check_weights(files, nets[0])

    prefix = preflight.snapshot_prefix(solver, solver_path)
    log = log or f"{prefix}.log"
    preflight.check_results(prefix, log)
    solver_file, solver_text = solver_path, None
    if cpu and asks_for_gpu:
        solver.solver_mode = preflight.CPU
        solver.snapshot_prefix = prefix
        solver_file, solver_text = f"{prefix}.cpu-solver.prototxt", dumps(solver)
    command = [str(caffe.binary), "train", "-solver", solver_file]
    for flag, value in (("-gpu", gpu), ("-snapshot", snapshot), ("-weights", weights)):
        if value is not None:
            command += [flag, value]
    return Plan(tuple(command), solver_file, solver_text, prefix, log)


def _check_gpu(solver_path: str, caffe: Caffe, gpu: Optional[str], solver_wants_gpu: bool) -> None:
    if caffe.cuda and gpu is not None and "," in gpu and not caffe.nccl:
        raise Error("this Caffe was built without NCCL and trains on one GPU only", str(caffe.binary))
    if caffe.cuda:
        return
    what = "this Caffe was built for the CPU only"
    if gpu is not None:
        raise Error(what, str(caffe.binary), "leave --gpu out, or build one with CUDA")
    if solver_wants_gpu:
        raise Error(f"solver_mode is GPU, and {what}", solver_path, "--cpu trains on the CPU")


def run(plan: Plan, echo: Echo, notice: Notice, verbose: bool = False) -> Outcome:
    """Run Caffe to its end, from the main thread; its log goes to the end of the plan's log file.

    ``echo`` gets those of its lines that one watches a training by; with ``verbose`` all, as they come.
    Raises CaffeError when Caffe fails, and Error when a folder or file for its results cannot be written.
    """
    log, stops = TrainingLog(), _Stops()
    with _open_log(plan) as log_file, stops.caught():
        if plan.solver_text is not None:
            write_text(plan.solver_file, plan.solver_text)
        child = _start(plan.command)
        stops.attach(child)
        tee = _Tee(log_file, echo, notice, verbose)
        try:
            if not verbose:
                tee.tell(f"setting up the nets; full log: {plan.log}")
            _follow(child.stdout, log, tee, stops)
            status = child.wait()
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()
    return _outcome(plan, log, status, stops.count)


def _start(command: Tuple[str, ...]) -> Any:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        hint = "prototxt-gen caffe info shows what is found"
        raise Error(f"cannot be run: {error.strerror}", command[0], hint) from None


@contextmanager
def _open_log(plan: Plan) -> Iterator[IO[bytes]]:
    try:
        for path in (plan.prefix, plan.log):
            folder = os.path.dirname(path) or "."
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise Error("the folder is not writable", folder)
        # Unbuffered: the log on disk is whole up to the moment, and closing it has nothing left to write.
        log_file = open(plan.log, "ab", buffering=0)
    except OSError as error:
        raise Error(f"cannot be written: {error.strerror}", str(error.filename)) from None
    with log_file:
        yield log_file


class _Stops:
    """Counts the requests to stop and passes them on: the first as SIGINT, the second as SIGKILL."""

    def __init__(self) -> None:
        self.count = 0
        self.child: Optional[Any] = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take over SIGINT, SIGTERM and, unless ignored as under nohup, SIGHUP."""
        handlers: Dict[int, Any] = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._hang_up
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self, child: Any) -> None:
        """Name the process, and pass on what came before there was one."""
        self.child = child
        if self.count:
            self._send(signal.SIGINT)

    def _stop(self, number: int, frame: Any) -> None:
        self.count += 1
        self._send(signal.SIGINT if self.count == 1 else signal.SIGKILL)

    def _hang_up(self, number: int, frame: Any) -> None:
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        if self.child is not None:
            self.child.send_signal(number)


class _Tee:
    """Writes to the log file and to the user. Losing either, to a full disk or a closed terminal, stops no training."""

    def __init__(self, log_file: IO[bytes], echo: Echo, notice: Notice, verbose: bool) -> None:
        self.log_file: Optional[IO[bytes]] = log_file
        self.echo: Optional[Echo] = echo
        self.notice = notice
        self.verbose = verbose

    def write(self, data: bytes) -> None:
        if self.log_file is not None:
            try:
                self.log_file.write(data)
            except OSError as error:
                self.log_file = None
                self.tell(f"cannot write the log any further: {error.strerror}")
        if self.verbose:
            self._show(data)

    def line(self, line: str) -> None:
        """Take a line of what has been written, without its line break."""
        if not self.verbose and is_watched(line):
            self._show(f"{line}\n".encode())

    def _show(self, data: bytes) -> None:
        if self.echo is not None:
            try:
                self.echo(data)
            except OSError:
                self.echo = None

    def tell(self, text: str) -> None:
        if self.echo is not None:
            try:
                self.notice(text)
            except OSError:
                self.echo = None


def _follow(pipe: IO[bytes], log: TrainingLog, tee: _Tee, stops: _Stops) -> None:
    """Pass on what Caffe writes until it closes its end."""
    rest = b""
    told = 0
    while True:
        if stops.count > told:
            told = stops.count
            tee.tell(STOP_NOTICE if told == 1 else "killing Caffe")
        # The time limit lets the notice out while Caffe is silent.
        if not select.select([pipe], [], [], 0.2)[0]:
            continue
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            break
        tee.write(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            _pass_on(line, log, tee)
    if rest:
        _pass_on(rest, log, tee)


def _pass_on(data: bytes, log: TrainingLog, tee: _Tee) -> None:
    line = data.decode("utf-8", "replace")
    log.feed(line)
    tee.line(line)


def _outcome(plan: Plan, log: TrainingLog, status: int, stops: int) -> Outcome:
    if status == 0:
        log.finish()
    killed = status != 0 and stops > 0 and -status in (signal.SIGINT, signal.SIGKILL)
    if not killed and (status != 0 or not log.done):
        raise _failure(plan, log, status)
    return Outcome(log, killed or log.stopped_early, killed, _last_whole(log.snapshots))


def _last_whole(snapshots: List[str]) -> Optional[str]:
    for path in reversed(snapshots):
        try:
            preflight.check_snapshot(path)
        except Error:
            continue
        return path
    return None


def _failure(plan: Plan, log: TrainingLog, status: int) -> CaffeError:
    """Say how Caffe failed: the failed check first, then how its log ends."""
    how = f"ended with exit code {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
    first = log.fatal[0] if log.fatal else "caffe train " + ("ended without training" if status == 0 else how)
    tail = [line for line in log.tail if not any(line.endswith(one) for one in log.fatal)]
    text = [first, *log.fatal[1:], f"caffe train {how}; before that, its log says:", *(f"    {line}" for line in tail)]
    hint = MEMORY_HINT if status == -signal.SIGKILL else DISK_HINT if "SerializeToOstream" in first else ""
    return CaffeError("\n".join(text), plan.log, hint)
