"""Where in its data a resumed training stands. Caffe's snapshots do not hold it.

An ``AugmentedData`` layer is told, by its field ``skip``: the images that the iterations so far have taken, counted
over all solvers. Caffe then gets copies of the nets. Stock Caffe's ``Data`` layer has no such field; see
``pycaffe_worker``.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Sequence, Set, Tuple

from prototxt_gen.core.graph import TRAIN, layers_in
from prototxt_gen.core.io import dumps
from prototxt_gen.core.solvers import net_uses
from prototxt_gen.train.preflight import UsedNet

AUGMENTED = "AugmentedData"


def tests_before(iteration: int, interval: int, at_start: bool) -> int:
    """Return how often a solver has tested before it is at an iteration: at 0 if ``at_start``, then each interval."""
    return 0 if not interval or not iteration else (iteration - 1) // interval + bool(at_start)


def batches_taken(solver: Any, iteration: int) -> Iterator[int]:
    """Yield how many batches each net of a solver has taken before an iteration: to train, then to test."""
    yield iteration * max(solver.iter_size, 1)
    tests = tests_before(iteration, solver.test_interval, solver.test_initialization)
    for batches in solver.test_iter:
        yield tests * batches


def nets_with_skips(solver: Any, nets: Sequence[UsedNet], iteration: int, gpus: int) -> Dict[str, str]:
    """Return the texts of the nets, by their files, that are to skip what was read before an iteration."""
    copies: Dict[str, Any] = {}
    done: Set[Tuple[str, int]] = set()
    for use, used, batches in zip(net_uses(solver), nets, batches_taken(solver, iteration)):
        if not isinstance(use.value, str):
            continue
        for index, layer in enumerate(used.net.layer):
            # One layer for both phases has one field for them: training counts.
            if layer.type != AUGMENTED or (use.value, index) in done or not _is_kept(layer, used):
                continue
            done.add((use.value, index))
            net = copies.setdefault(use.value, type(used.net).FromString(used.net.SerializeToString()))
            param = net.layer[index].augmented_data_param
            param.skip += batches * param.batch_size * (gpus if used.state.phase == TRAIN else 1)
    return {file: dumps(net) for file, net in copies.items()}


def _is_kept(layer: Any, used: UsedNet) -> bool:
    """True when a layer is in the net as the solver uses it."""
    return any(layers_in(type(used.net)(layer=[layer]), used.state))


def point_at(solver: Any, files: Dict[str, str]) -> None:
    """Let a solver name other files of nets, in place."""
    for field in ("net", "train_net"):
        if solver.HasField(field):
            setattr(solver, field, files.get(getattr(solver, field), getattr(solver, field)))
    solver.test_net[:] = [files.get(name, name) for name in solver.test_net]
