"""Lint rules on solver files: what Caffe aborts on at the start or hours later, and what it quietly reads otherwise."""

from __future__ import annotations

import os
from typing import Iterator, List

from prototxt_gen.check.lint import NOTE, SOLVER, WARNING, Hit, registry
from prototxt_gen.check.lint_source import SolverView
from prototxt_gen.check.lint_training import batches
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import did_you_mean
from prototxt_gen.core.graph import TRAIN
from prototxt_gen.core.solvers import POLICIES, SOLVER_TYPES, WITHOUT_MOMENTUM

TRAINING_NETS = ("net", "net_param", "train_net", "train_net_param")
TEST_NETS = ("test_net", "test_net_param")


@registry.add(
    "PG401", "solver-net", about=SOLVER,
    checks="a solver names one training net, and the files of its nets are there",
    why="Caffe aborts at the start. Paths are taken from the folder in which Caffe is started; lint also looks in the "
        "solver's own folder, for a solver that is meant to be run there.",
    mend="Give exactly one of net, net_param, train_net and train_net_param, with a path that is there.",
    bad='net: "trian.prototxt"',
    good='net: "train.prototxt"',
)
def solver_net(view: SolverView) -> Iterator[Hit]:
    named = [field for field in TRAINING_NETS if view.solver.HasField(field)]
    if not named:
        yield Hit("", "the solver names no training net", 'write net: "train.prototxt"')
    for field in named[1:]:
        yield Hit(field, f"the solver names its training net twice: {' and '.join(named)}", "keep one of them")
    if view.solver.HasField("train_net") or view.solver.HasField("train_net_param"):
        if view.solver.test_iter and not (view.solver.test_net or view.solver.test_net_param):
            yield Hit("test_iter", "the solver has test_iter and names no test net", 'write test_net: "test.prototxt"')
    for one in view.source.nets():
        if isinstance(one.value, str) and not os.path.isfile(view.source.resolve(one.value)):
            hint = did_you_mean(os.path.basename(one.value), _neighbours(view.source.resolve(one.value)))
            hint = hint or "Caffe takes the path from where it is started"
            yield Hit(one.path, f"there is no net '{one.value}'", hint)


@registry.add(
    "PG402", "snapshot-folder", about=SOLVER, severity=WARNING,
    checks="the folder that snapshots go to is there",
    why="Caffe tries to write there before it starts, and aborts; older versions abort at the first snapshot, hours "
        "later. prototxt-gen train makes the folder.",
    mend="Make the folder, or correct snapshot_prefix.",
    bad='snapshot_prefix: "missing/net"',
    good='snapshot_prefix: "net"',
)
def snapshot_folder(view: SolverView) -> Iterator[Hit]:
    prefix = view.solver.snapshot_prefix
    folder = os.path.dirname(prefix)
    if folder and not os.path.isdir(view.source.resolve(folder)):
        hint = "make it before caffe train starts; prototxt-gen train does so"
        yield Hit("snapshot_prefix", f"snapshots go to folder '{folder}', which is not there", hint)


@registry.add(
    "PG403", "snapshot-prefix", about=SOLVER, severity=WARNING,
    checks="a solver that writes snapshots says where",
    why="Without snapshot_prefix, Caffe names snapshots after the solver file and writes them beside it; older "
        "versions call them _iter_N, in the current folder.",
    mend="Write snapshot_prefix, with a folder.",
    bad="snapshot: 100",
    good='snapshot_prefix: "net"',
)
def snapshot_prefix(view: SolverView) -> Iterator[Hit]:
    if view.solver.snapshot > 0 and not view.solver.snapshot_prefix:
        message = "snapshots are written, and snapshot_prefix does not say where"
        yield Hit("snapshot", message, 'write snapshot_prefix: "..."')
    if view.solver.snapshot_prefix and not view.solver.snapshot:
        hint = "write snapshot: 10000, or remove snapshot_prefix"
        if not view.solver.snapshot_after_train:
            yield Hit("snapshot_prefix", "snapshot_prefix is given, and no snapshot is ever written", hint)


@registry.add(
    "PG404", "weights-file", about=SOLVER,
    checks="the files of weights that a solver starts from are there",
    why="Caffe aborts after it has built the nets. To resume a run, give the .solverstate on the command line, not "
        "here.",
    mend="Correct the path; several files stand in one string, separated by commas, or in several weights fields.",
    bad='weights: "pretrained.caffemodel"',
    good='weights: "pretrained.h5"',
)
def weights_file(view: SolverView) -> Iterator[Hit]:
    for index, value in enumerate(view.solver.weights):
        for path in value.split(","):
            path = path.strip()
            if path.endswith(".solverstate"):
                hint = "name the .caffemodel here; a snapshot is resumed by caffe train --snapshot"
                yield Hit(f"weights[{index}]", f"weights names '{path}', the state of a solver", hint)
            elif not os.path.isfile(view.source.resolve(path)):
                yield Hit(f"weights[{index}]", f"there are no weights '{path}'",
                          did_you_mean(os.path.basename(path), _neighbours(view.source.resolve(path))))


@registry.add(
    "PG405", "step-values", about=SOLVER,
    checks="the values of stepvalue rise, and lie before max_iter",
    why="Caffe looks at one value at a time: one that is not above the last takes effect an iteration after it. "
        "Steps beyond max_iter never happen.",
    mend="Sort them, and end training after the last.",
    bad="stepvalue: 50",
    good="stepvalue: 200",
)
def step_values(view: SolverView) -> Iterator[Hit]:
    values = list(view.solver.stepvalue)
    for index, value in enumerate(values):
        if index and value <= values[index - 1]:
            message = f"stepvalue {value} is not above the one before it, {values[index - 1]}"
            yield Hit(f"stepvalue[{index}]", message, "write them in rising order")
        elif view.solver.HasField("max_iter") and value >= view.solver.max_iter:
            message = f"stepvalue {value} is never reached: max_iter is {view.solver.max_iter}"
            yield Hit(f"stepvalue[{index}]", message, "raise max_iter, or remove the step", severity=WARNING)


@registry.add(
    "PG406", "learning-rate-policy", about=SOLVER,
    checks="lr_policy is one that Caffe has, with the fields it needs and no others",
    why="An unknown policy aborts. A missing field counts as 0: gamma 0 stops learning at the first step, stepsize "
        "0 aborts. A stepvalue under another policy than multistep is not read.",
    mend="Policies: fixed; step: gamma, stepsize; exp: gamma; inv: gamma, power; multistep: gamma, stepvalue; "
         "poly: power, max_iter; sigmoid: gamma, stepsize.",
    bad='lr_policy: "step"',
    good='lr_policy: "fixed"',
)
def learning_rate_policy(view: SolverView) -> Iterator[Hit]:
    solver, policy = view.solver, view.solver.lr_policy
    if not solver.HasField("base_lr"):
        yield Hit("", "the solver has no base_lr: every learning rate is 0", "write base_lr: 0.1")
    if policy not in POLICIES:
        message = f"Caffe has no learning rate policy '{policy}'" if policy else "the solver has no lr_policy"
        yield Hit("lr_policy", message, did_you_mean(policy, POLICIES, f"policies: {', '.join(POLICIES)}"))
        return
    for field in POLICIES[policy]:
        if not (len(solver.stepvalue) if field == "stepvalue" else solver.HasField(field)):
            yield Hit("lr_policy", f"lr_policy '{policy}' needs {field}, which is not given", f"write {field}: ...")
    for field, owner in (("stepvalue", "multistep"), ("stepsize", "step")):
        given = len(solver.stepvalue) if field == "stepvalue" else solver.HasField(field)
        if given and field not in POLICIES[policy]:
            message = f"lr_policy '{policy}' does not read {field}"
            yield Hit(field, message, f'write lr_policy: "{owner}", or remove it', severity=WARNING)


@registry.add(
    "PG407", "test-schedule", about=SOLVER,
    checks="test_iter and test_interval stand together, with one test_iter for each test net",
    why="With test_iter and no test_interval Caffe aborts; with test_interval alone it never tests, without a word. "
        "The number of test_iter says how many test nets there are.",
    mend="Write both, or neither.",
    bad="test_interval: 10",
    good="test_iter: 5",
)
def test_schedule(view: SolverView) -> Iterator[Hit]:
    solver = view.solver
    count, nets = len(solver.test_iter), len(solver.test_net) + len(solver.test_net_param)
    generic = solver.HasField("net") or solver.HasField("net_param")
    if count and solver.test_interval <= 0:
        yield Hit("test_iter", "test_iter is given without test_interval", "write test_interval: 1000")
    if solver.test_interval > 0 and not count and not nets:
        yield Hit("test_interval", "test_interval is given without test_iter: nothing is tested",
                  "write test_iter: the test images divided by the batch size")
    if count < nets or (count > nets and not generic and nets):
        yield Hit("test_iter" if count else "test_net", f"{nets} test nets are named, with {count} values of test_iter",
                  "write one test_iter for each test net")
    if solver.test_state and len(solver.test_state) != max(count, nets):
        message = f"{len(solver.test_state)} test_state are given for {max(count, nets)} test nets"
        yield Hit("test_state", message, "write one for each test net, in the order of test_iter")


@registry.add(
    "PG408", "solver-type-field", about=SOLVER, severity=WARNING,
    checks="the kind of solver is given by type, not by solver_type",
    why="solver_type is the form of old files. Caffe rewrites it, unless type is given too: then it aborts.",
    mend="Write the name of the kind into type.",
    bad="solver_type: NESTEROV",
    good='type: "Nesterov"',
)
def solver_type_field(view: SolverView) -> Iterator[Hit]:
    solver = view.solver
    if solver.HasField("solver_type"):
        kind = SOLVER_TYPES[solver.solver_type]
        both = ", and type is given too: Caffe aborts" if solver.HasField("type") else ""
        yield Hit("solver_type", f"solver_type is the old form of type{both}", f'write type: "{kind}"',
                  severity="error" if both else None)


@registry.add(
    "PG409", "solver-type", about=SOLVER,
    checks="type is a solver that Caffe has, and takes momentum only where that solver does",
    why="Caffe aborts on an unknown type, and on momentum with AdaGrad or RMSProp.",
    mend="Types: SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam.",
    bad='type: "Nestorov"',
    good='type: "Nesterov"',
)
def solver_type(view: SolverView) -> Iterator[Hit]:
    solver = view.solver
    kind = solver.type
    if kind not in SOLVER_TYPES:
        hint = did_you_mean(kind, SOLVER_TYPES, f"types: {', '.join(SOLVER_TYPES)}")
        yield Hit("type", f"Caffe has no solver '{kind}'", hint)
    if solver.HasField("solver_type") and not solver.HasField("type"):
        kind = SOLVER_TYPES[solver.solver_type]
    if kind in WITHOUT_MOMENTUM and solver.momentum:
        yield Hit("momentum", f"{kind} does not take momentum, and Caffe aborts", "remove momentum")


@registry.add(
    "PG410", "effective-batch", about=SOLVER, severity=NOTE,
    checks="nothing: it tells how many images an update sees",
    why="Learning rates are tuned for a number of images an update: batch_size x iter_size x GPUs. Each GPU reads "
        "batch_size images, so the number of GPUs (--gpus) changes it.",
    mend="Choose iter_size so that the product is what the recipe was made for.",
    bad="iter_size: 2",
    good="iter_size: 1",
)
def effective_batch(view: SolverView) -> Iterator[Hit]:
    for file in view.source.net_files((TRAIN,), DEFAULT_DIALECT):
        for net in file.views:
            sizes = batches(net)
            if not sizes:
                continue
            batch, iter_size = sizes[0], max(view.solver.iter_size, 1)
            plural = "" if view.gpus == 1 else "s"
            message = (f"{batch} images x iter_size {iter_size} x {view.gpus} GPU{plural} = "
                       f"{batch * iter_size * view.gpus} images an update")
            yield Hit("iter_size", message)


def _neighbours(path: str) -> List[str]:
    """Return the names in the folder that a path lies in."""
    folder = os.path.dirname(path) or "."
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
