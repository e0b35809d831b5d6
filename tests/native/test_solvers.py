"""The update of our SGD and Nesterov solvers: the definition's bits, Caffe's results, logs and snapshots."""

import pytest

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 300 } shape { dim: 4 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 2 } } }
layer { name: "wide" type: "InnerProduct" bottom: "data" top: "wide" param { lr_mult: 0.5 } param { decay_mult: 0 }
  inner_product_param { num_output: 200 weight_filler { type: "msra" } bias_filler { value: 0.5 } } }
layer { name: "relu" type: "ReLU" bottom: "wide" top: "wide" }
layer { name: "out" type: "InnerProduct" bottom: "wide" top: "out"
  param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 2 }
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }
"""
SETTINGS = """net: "net.prototxt" base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 2
momentum: 0.9 weight_decay: 0.01 display: 1 max_iter: 9 random_seed: 3 snapshot_prefix: "made" snapshot_format: BINARYPROTO %s"""
# Builds a solver of ours, by the registry, or Caffe's own class.
MAKE = f'''
import re
NET, SETTINGS = """{NET}""", """{SETTINGS}"""

def solver_of(kind, extra="", ours=True):
    open("net.prototxt", "w").write(NET)
    settings = re.sub(r"\\b%s: \\S+" % extra.partition(":")[0], "", SETTINGS) if extra else SETTINGS
    open("solver.prototxt", "w").write(settings % f'type: "{{kind}}" {{extra}}')
    caffe.set_random_seed(3)
    return caffe.get_solver("solver.prototxt") if ours else getattr(caffe, kind + "Solver")("solver.prototxt")

def blobs(solver):
    return [blob for layer in solver.net.layers for blob in layer.blobs]
'''


@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
def test_an_update_is_the_definition_bit_by_bit(in_caffe, kind):
    """Of arrays that one thread takes and of those that all share; three in a row, with accumulated gradients."""
    assert in_caffe(MAKE + f'''
caffe.set_mode_cpu()
f, nesterov = np.float32, {kind == "Nesterov"}
solver = solver_of("{kind}", "iter_size: 3")
random = np.random.RandomState(0)
history = [np.zeros_like(blob.data) for blob in blobs(solver)]
out = []
for iteration in range(3):
    rate = f(f(0.05) * f(0.5) ** (iteration // 2))
    for i, (blob, lr, decay) in enumerate(zip(blobs(solver), (0.5, 1, 0, 2), (1, 0, 0, 1))):
        data, diff = blob.data.copy(), random.standard_normal(blob.data.shape).astype("f4")
        blob.diff[...] = diff
        step = f(1) / f(3) * diff + f(f(0.01) * f(decay)) * data
        after = f(0.9) * history[i] + rate * f(lr) * step
        before, history[i] = history[i], after
        update = (f(1) + f(0.9)) * after - f(0.9) * before if nesterov else after
        out.append([data - update, update])
    solver.apply_update()
    found = [[blob.data, blob.diff] for blob in blobs(solver)]
    out[-4:] = [[np.array_equal(a, b) for a, b in zip(*pair)] for pair in zip(found, out[-4:])]
''') == [[True, True]] * 12


@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
@pytest.mark.parametrize("extra", ["", "iter_size: 2", "clip_gradients: 0.1", 'regularization_type: "L1"',
                                   "weight_decay: 0", "momentum: 0"])
def test_training_goes_as_with_caffes_solver(in_caffe, kind, extra):
    far = in_caffe(MAKE + f'''
runs = []
for ours in (True, False):
    solver = solver_of("{kind}", '{extra}', ours)
    caffe.set_random_seed(5)
    solver.step(4)
    runs.append([np.concatenate([blob.data.ravel(), blob.diff.ravel()]) for blob in blobs(solver)])
out = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(*runs)]
''')
    assert len(far) == 4 and all(one <= 1e-5 for one in far)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
def test_snapshots_go_from_one_to_the_other(in_caffe, kind):
    far = in_caffe(MAKE + f'''
out = []
for first in (True, False):
    solver = solver_of("{kind}", "", first)
    solver.step(2)
    solver.snapshot()
    caffe.set_random_seed(7)
    solver.step(2)
    other = solver_of("{kind}", "", not first)
    other.restore("made_iter_2.solverstate")
    caffe.set_random_seed(7)
    other.step(2)
    out += [float(np.abs(a.data - b.data).max() / np.abs(b.data).max()) for a, b in zip(blobs(solver), blobs(other))]
''')
    assert len(far) == 8 and all(one <= 1e-5 for one in far)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
def test_what_is_infinite_stays_so_where_nothing_is_learned_or_decays(in_caffe, kind):
    """lr_mult 0 (the weights of 'out') with an infinite weight and gradient, decay_mult 0 (the bias of 'wide')."""
    assert in_caffe(MAKE + f'''
solver = solver_of("{kind}")
still, undecayed = blobs(solver)[2], blobs(solver)[1]
still.data[...], still.diff[...] = -np.inf, np.inf
undecayed.data[...], undecayed.diff[...] = np.inf, 1
solver.apply_update()
out = [bool((still.data == -np.inf).all()), bool((undecayed.data == np.inf).all())]
''') == [True, True]


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "Adam"])
def test_python_sees_the_class_that_it_knows(in_caffe, kind):
    """Whatever comes first: a solver of ours, or one of Caffe's own class."""
    for first in ("caffe.get_solver", "caffe.{kind}Solver"):
        names, isinstances, rates = in_caffe(MAKE + f'''
solvers = [solver_of("{kind}", "momentum: 0.5", ours) for ours in ({first == "caffe.get_solver"}, True, False)]
solvers[1].step(3)
out = [[type(one).__name__ for one in solvers], [isinstance(one, caffe.{kind}Solver) for one in solvers],
       [getattr(one, "lr", None) for one in solvers]]
''')
        assert names == [f"{kind}Solver"] * 3 and all(isinstances)
        assert len({rate is None for rate in rates}) == 1
        assert rates[0] is None or rates == pytest.approx([0.05, 0.025, 0.05])


@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
def test_the_log_tells_what_caffes_does(caffe_log, kind):
    def told(ours):
        lines = caffe_log(MAKE + f'solver = solver_of("{kind}", "display: 2", {ours})\nsolver.step(5)')
        return [line.partition("] ")[2] for line in lines if ", lr = " in line]

    assert told(True) == told(False) == [f"Iteration {i}, lr = {lr}" for i, lr in ((0, 0.05), (2, 0.025), (4, 0.0125))]


def test_the_engine_of_caffe_has_its_solver(run_caffe_python, tmp_path, monkeypatch):
    """Nesterov's second array shows in the memory of the process."""
    monkeypatch.chdir(tmp_path)
    code = """
import re, sys
import caffe
caffe.set_mode_cpu()
open("net.prototxt", "w").write('''layer { name: "in" type: "DummyData" top: "in" top: "to" dummy_data_param {
  shape { dim: 1 dim: 4096 } shape { dim: 1 } data_filler { type: "gaussian" } data_filler { value: 1 } } }
layer { name: "out" type: "InnerProduct" bottom: "in" top: "out" inner_product_param { num_output: 8192
  weight_filler { type: "constant" value: 0.01 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "to" top: "loss" }''')
open("solver.prototxt", "w").write('net: "net.prototxt" type: "Nesterov" momentum: 0.9 base_lr: 0.1 lr_policy: "fixed"')
solver = caffe.get_solver("solver.prototxt")
solver.step(1)
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024)
"""
    peaks = [int(run_caffe_python(code, environment={"PROTOTXT_GEN_ENGINE": engine}).stdout)
             for engine in ("own", "caffe")]
    array = 4 * 4096 * 8192
    assert peaks[1] - peaks[0] == pytest.approx(array, rel=0.1)
