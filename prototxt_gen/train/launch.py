"""Plans and runs a training: what must be in order, the exact command, and how it ended.

Caffe runs in the current directory, as ``caffe train`` or through pycaffe (``pycaffe_worker``). SIGINT and SIGTERM
become its SIGINT, on which it writes a snapshot and stops; a second one kills it. SIGHUP is passed on as it is: Caffe
writes a snapshot and goes on.

Caffe gets the user's own solver where nothing is to be changed in it. Else it gets a copy: ``solver.prototxt`` in the
folder of the run, or ``<snapshot_prefix>.run-solver.prototxt``; ``.cpu-solver.prototxt`` where ``--cpu`` alone
overrules a ``solver_mode: GPU``, against which Caffe has no flag. A copy spells the snapshot_prefix out, since Caffe
derives a missing one from the solver's own name.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.io import dumps, read_text, write_text
from prototxt_gen.spec.lean import PLAIN
from prototxt_gen.train import (
    launch_failures, preflight, preflight_memory, preflight_nets, preflight_run, run_folder, run_resume, run_skip,
)
from prototxt_gen.train.caffe import LOG_SETTINGS, Caffe
from prototxt_gen.train.gpus import check_built, check_usable, says_gpu
from prototxt_gen.train.launch_process import HELD_BACK, Echo, Notice, Stops, Tee, follow, start
from prototxt_gen.train.logs_live import LiveLog
from prototxt_gen.train.solver import with_settings

GPU_IDS = re.compile(r"all|\d+(,\d+)*")
ENGINES = ("caffe", "pycaffe")
WORKER = "prototxt_gen.train.pycaffe_worker"


@dataclass(frozen=True)
class Plan:
    """A training run that has passed the pre-flight checks.

    ``solver_text`` is the solver to write to ``solver_file`` before the start, or None when Caffe gets the user's own.
    ``nets`` are paths and texts to write besides. ``lint_text`` and ``lint_file`` are the solver as lint is to see it,
    ``told`` facts and warnings for the user. ``folder`` is the run's, ``record`` what it held before.
    ``memory`` tells how blobs share it (spec.lean), ``memory_asked`` whether somebody asked for that; ``gpu_ids`` names
    the GPUs, None for the CPU.
    """

    command: Tuple[str, ...]
    solver_file: str
    solver_text: Optional[str]
    prefix: str
    log: str
    caffe: Caffe
    snapshot: Optional[str]
    settings: Mapping[str, str]
    gpus: int
    lint_text: str
    lint_file: str
    told: Tuple[str, ...]
    nets: Tuple[Tuple[str, str], ...] = ()
    folder: Optional[str] = None
    record: Optional[Mapping[str, Any]] = None
    memory: str = PLAIN
    memory_asked: Optional[str] = None
    gpu_ids: Optional[str] = None
    engine: str = "caffe"

    @property
    def environment(self) -> Dict[str, str]:
        """What Caffe's environment gets besides."""
        variable = preflight_memory.MEMORY_VARIABLE
        return {} if self.memory == PLAIN and variable not in os.environ else {variable: self.memory}


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did not fail: ``snapshot`` is the last whole solver state, None when there is none."""

    log: LiveLog
    interrupted: bool
    killed: bool
    snapshot: Optional[str]


def plan(
    solver_path: Optional[str],
    caffe: Caffe,
    *,
    cpu: bool = False,
    gpu: Optional[str] = None,
    snapshot: Optional[str] = None,
    weights: Optional[str] = None,
    log: Optional[str] = None,
    resume: bool = False,
    settings: Optional[Mapping[str, str]] = None,
    total_batch: Optional[int] = None,
    folder: Optional[str] = None,
    engine: Optional[str] = None,
    memory: Optional[str] = None,
) -> Plan:
    """Check everything that can be checked without starting Caffe, and settle the command; nothing is written.

    ``gpu`` is 'all' or ids such as '0,1'. ``total_batch`` sets iter_size. A ``folder`` that holds a run needs no
    ``solver_path``, and has its own ``engine`` and ``memory`` where none is given.
    Raises Error for contradicting options and for what would make Caffe abort.
    """
    _check_options(cpu, gpu, snapshot, weights, resume)
    again = folder is not None and run_folder.holds_run(folder)
    if again and not (resume or snapshot):
        raise Error("holds a run already", folder, "--resume goes on with it; or name another folder")
    if solver_path is None and not again:
        raise Error("no SOLVER is given", folder or "", "only a --run that has been started knows its own")
    record = run_folder.read_record(folder) if again else None
    started = run_folder.last_start(record)
    memory_asked = preflight_memory.memory_asked(memory, started.get("memory"))
    engine = engine or started.get("engine") or "caffe"
    path = os.path.join(folder, run_folder.SOLVER) if again else solver_path
    given = preflight.read_solver(path)
    preflight.check_method(given, path)
    settings = dict(settings or {})
    if again:
        run_folder.check_place(given, folder)
        if "snapshot_prefix" in settings:
            raise Error("a run keeps its snapshots in its folder", folder, "leave --set snapshot_prefix out")
    solver = _changed(given, settings)
    wants_gpu = says_gpu(solver)
    check_built(caffe, gpu, path, wants_gpu and gpu is None and not cpu)
    gpu_ids = str(solver.device_id) if wants_gpu and gpu is None and not cpu else gpu
    places = preflight_memory.gpu_places(gpu_ids) if gpu_ids is not None else [preflight_memory.computer(caffe)]
    memory = preflight_memory.memory_word(caffe, memory_asked, gpu_ids is not None)
    gpus = 1 if gpu_ids is None else max(1, len(places)) if gpu_ids == "all" else gpu_ids.count(",") + 1
    nets = preflight.used_nets(solver, path)
    for used in nets:
        preflight.check_net(used, path, caffe.layers)
    if total_batch is not None:
        settings["iter_size"] = str(_iter_size(total_batch, nets[0], gpus))
    solver = _changed(given, settings, cpu)
    prefix = preflight.snapshot_prefix(solver, path)
    copies: Sequence[Tuple[str, str]] = ()
    lint_text, lint_file = read_text(path) if solver == given else dumps(solver), path
    if again and solver_path is not None:
        asked = _changed(preflight.read_solver(solver_path), settings, cpu)
        copies = run_folder.into_folder(asked, folder, preflight.snapshot_prefix(asked, solver_path))
        run_folder.check_same(asked, solver, copies, folder)
        copies = ()
    elif folder is not None and not again:
        copies = run_folder.into_folder(solver, folder, prefix)
        prefix = solver.snapshot_prefix

    told = run_folder.other_engine(started)
    found = run_resume.newest_valid(prefix, solver, nets[0]) if resume and snapshot is None else None
    if found is not None:
        snapshot = found.snapshot
        told += found.notes
        told.append(f"resuming from {snapshot}" if snapshot else "note: no snapshot is there yet: this is the start")
    iteration = found.iteration if found else _explicit_iteration(snapshot, solver, nets[0])
    if snapshot is not None:
        run_resume.check_ahead(snapshot, iteration, solver.max_iter)
    told += [] if snapshot or resume else run_resume.overwritten(prefix)
    told += [f"note: --weights {weights} is not used: the snapshot has weights"] if snapshot and weights else []
    weights = None if snapshot else weights
    started_from = [weights] if weights is not None else [] if snapshot is not None else list(solver.weights)
    for files in started_from:
        preflight.check_weights(files, nets[0])
    if caffe.is_ours:
        preflight.check_hdf5(solver, path, [snapshot] if snapshot else started_from)
    log = log or (f"{prefix}.log" if folder is None else os.path.join(folder, run_folder.LOG))
    preflight.check_results(prefix, log)
    told += preflight_run.facts(nets, solver, places, prefix, iteration, memory)
    if snapshot is not None:
        iter_size = max(solver.iter_size, 1)
        told += preflight_run.cursor_line(nets[0], iteration, iter_size, gpus, winds_on=engine == "pycaffe")

    if engine == "pycaffe":
        wanted = list(solver.weights)
        del solver.weights[:]
        solver.weights.extend([weights] if weights is not None else [] if snapshot else wanted)
    written = [(inside, read_text(file)) for file, inside in copies]
    solver_file, solver_text = _solver_copy(solver, given, path, prefix, folder, cpu and wants_gpu and not settings)
    if snapshot is not None:
        skips = run_skip.nets_with_skips(solver, nets, iteration, gpus)
        if skips:
            written += [(solver_file, solver_text)] if folder is not None else []
            inside = {file: f"{prefix}.resumed-{os.path.basename(file)}" for file in skips}
            written += [(inside[file], text) for file, text in skips.items()]
            run_skip.point_at(solver, inside)
            solver_file, solver_text = _solver_copy(solver, given, path, prefix, None, False)
    command = _command(caffe, engine, solver_file, gpu, gpu_ids, snapshot, weights)
    return Plan(command, solver_file, solver_text, prefix, log, caffe, snapshot, settings, gpus, lint_text, lint_file,
                tuple(told), tuple(written), folder, record, memory, memory_asked, gpu_ids, engine)


def _check_options(
    cpu: bool, gpu: Optional[str], snapshot: Optional[str], weights: Optional[str], resume: bool
) -> None:
    if cpu and gpu is not None:
        raise Error("--cpu and --gpu exclude one another")
    if snapshot is not None and weights is not None:
        raise Error("--snapshot and --weights exclude one another", hint="--snapshot resumes, --weights starts anew")
    if snapshot is not None and resume:
        raise Error("--snapshot and --resume exclude one another", hint="--resume finds the newest snapshot itself")
    if gpu is not None and not GPU_IDS.fullmatch(gpu):
        raise Error(f"--gpu {gpu} names no GPUs", hint="write 'all', or ids such as 0,1")


def _iter_size(total_batch: int, net: preflight.UsedNet, gpus: int) -> int:
    """Return iter_size for the images wanted in an update: total_batch = batch x iter_size x GPUs."""
    batch = preflight_nets.train_batch(net)
    iter_size, rest = divmod(total_batch, batch * gpus)
    if rest or not iter_size:
        near = [count * batch * gpus for count in (iter_size, iter_size + 1) if count]
        what = f"{total_batch} images an update are no multiple of {batch} images x {gpus} GPU{'s' * (gpus > 1)}"
        raise Error(what, net.where, f"--total-batch {' or '.join(map(str, near))}, or another batch_size")
    return iter_size


def _changed(solver: Any, settings: Mapping[str, str], cpu: bool = False) -> Any:
    changed = with_settings(solver, settings) if settings else type(solver).FromString(solver.SerializeToString())
    if cpu and says_gpu(changed):
        changed.solver_mode = preflight.CPU
    return changed


def _explicit_iteration(snapshot: Optional[str], solver: Any, net: preflight.UsedNet) -> int:
    """Check the snapshot that the user named, if any, and return its iteration."""
    if snapshot is None:
        return 0
    preflight.check_snapshot(snapshot)
    if snapshot.endswith(".h5") and preflight.lacks_h5py():
        return 0  # left to Caffe
    return run_resume.check_state(snapshot, solver, net).iteration


def _solver_copy(
    solver: Any, given: Any, path: str, prefix: str, folder: Optional[str], only_mode: bool
) -> Tuple[str, Optional[str]]:
    if folder is not None:
        return os.path.join(folder, run_folder.SOLVER), dumps(solver)
    if solver == given:
        return path, None
    solver.snapshot_prefix = prefix
    return f"{prefix}.{'cpu' if only_mode else 'run'}-solver.prototxt", dumps(solver)


def _command(
    caffe: Caffe, engine: str, solver_file: str, gpu: Optional[str], gpu_ids: Optional[str], snapshot: Optional[str],
    weights: Optional[str],
) -> Tuple[str, ...]:
    if engine == "caffe":
        command = [str(caffe.binary), "train", "-solver", solver_file]
        flags = (("-gpu", gpu), ("-snapshot", snapshot), ("-weights", weights))
    else:
        if caffe.missing_modules:
            what = f"pycaffe needs the packages {', '.join(caffe.missing_modules)}"
            raise Error(what, sys.executable, "pip install '.[pycaffe]'")
        if gpu_ids == "all":
            gpu_ids = ",".join(place.name.rpartition(" ")[2] for place in preflight_memory.gpu_places("all"))
            if not gpu_ids:
                raise Error("--gpu all needs nvidia-smi with --engine pycaffe", hint="name them: --gpu 0,1")
        command = [sys.executable, "-m", WORKER, "--pycaffe", str(caffe.pycaffe), "--solver", solver_file]
        flags = (("--gpu", gpu_ids), ("--snapshot", snapshot))
    for flag, value in flags:
        if value is not None:
            command += [flag, value]
    return tuple(command)


def run(plan: Plan, echo: Echo, notice: Notice, verbose: bool = False, arguments: Sequence[str] = ()) -> Outcome:
    """Run Caffe to its end, from the main thread; its log goes to the end of the plan's log file.

    ``echo`` gets those of its lines that one watches a training by; with ``verbose`` all, as they come. ``arguments``
    are those of the command line, for the run's record.
    Raises CaffeError when Caffe fails, and Error when it cannot use the GPUs, or when a folder or file for its results
    cannot be written.
    """
    if plan.gpu_ids is not None:
        check_usable(plan.caffe, plan.gpu_ids)
    log, stops = LiveLog(), Stops()
    with ExitStack() as stack:
        lock = None if plan.folder is None else stack.enter_context(run_folder.locked(plan.folder))
        log_file = stack.enter_context(_open_log(plan))
        lock = lock or run_folder.take_lock(log_file, "another training writes this log", plan.log)
        stack.enter_context(stops.caught())
        for path, text in plan.nets:
            write_text(path, text)
        if plan.solver_text is not None:
            write_text(plan.solver_file, plan.solver_text)
        if plan.folder is not None:
            run_folder.record_start(plan.folder, plan.record, arguments, plan.command, plan.settings, plan.snapshot,
                                    plan.caffe, plan.memory_asked, plan.engine)
        held_back = HELD_BACK if plan.engine == "pycaffe" else ()
        child = start(plan.command, {**LOG_SETTINGS, **plan.environment}, lock, held_back)
        stops.attach(child)
        tee = Tee(log_file, echo, notice, verbose)
        try:
            if not verbose:
                tee.tell(f"setting up the nets; full log: {plan.log}")
            follow(child.stdout, log, tee, stops)
            status = child.wait()
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()
    return _outcome(plan, log, status, stops.count)


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


def _outcome(plan: Plan, log: LiveLog, status: int, stops: int) -> Outcome:
    if status == 0:
        log.finish()
    killed = status != 0 and stops > 0 and -status in (signal.SIGINT, signal.SIGKILL)
    if not killed and (status != 0 or not log.history.ended):
        raise _failure(plan, log, status)
    return Outcome(log, killed or log.history.stopped_early, killed, _last_whole(log.snapshots))


def _last_whole(snapshots: List[str]) -> Optional[str]:
    for path in reversed(snapshots):
        try:
            preflight.check_snapshot(path)
        except Error:
            continue
        return path
    return None


def _failure(plan: Plan, log: LiveLog, status: int) -> CaffeError:
    """Say how Caffe failed: the failed check first with what it means, then how its log ends."""
    how = f"ended with exit code {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
    fatal = log.fatal
    first = fatal[0] if fatal else "caffe train " + ("ended without training" if status == 0 else how)
    found = launch_failures.meaning([*fatal, *log.tail], status, plan.caffe.layers)
    tail = [line for line in log.tail if not any(line.endswith(one) for one in fatal)]
    text = [first, *fatal[1:], f"caffe train {how}; before that, its log says:", *(f"    {line}" for line in tail)]
    advice = [found.advice] if found else []
    whole = _last_whole(log.snapshots)
    if whole:
        advice.append(f"--resume goes on from {whole}")
    return CaffeError("\n".join(launch_failures.first_and_meaning(text, found)), plan.log, "\n".join(advice))
