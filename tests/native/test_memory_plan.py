"""Nets whose blobs share memory: the same gradients to the last bit, and the memory that the estimate tells."""

import pytest
import random_nets
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.lean import LEAN, SHARED, plan

# In the child: one net again and again, with the same parameters and inputs.
CHILD = """
import caffe.lean
caffe.set_mode_cpu()

def start(file, mode, phase=caffe.TRAIN):
    caffe.set_random_seed(5)
    net = caffe.Net(file, phase)
    shared = 0 if mode == "plain" else caffe.lean.apply(net, mode == "lean", phase == caffe.TEST)
    return net, shared

def feed(net, seed):
    random = np.random.RandomState(seed)
    for name in net.inputs:
        blob = net.blobs[name]
        shape = blob.data.shape
        blob.data[...] = random.randint(0, 2, shape) if "label" in name else random.standard_normal(shape)

def parameters(net):
    return [array.tobytes() for blobs in net.params.values() for blob in blobs for array in (blob.data, blob.diff)]

def trained(net, passes=2, seed=0):
    seen = []
    for number in range(passes):
        feed(net, seed + number)
        seen += [net.forward()[name].tobytes() for name in net.outputs]
        net.backward()
        seen += parameters(net)
    return seen
"""


FILLERS = {"BN": "bn_param.slope_filler", "Scale": "scale_param.filler", "Bias": "bias_param.filler",
           "Convolution": "convolution_param.weight_filler", "Deconvolution": "convolution_param.weight_filler",
           "InnerProduct": "inner_product_param.weight_filler"}


def with_inputs(name, batch):
    """The training net of a network with an Input layer in place of its data."""
    net = build(NETWORKS[name], batch_size=batch).net
    size = NETWORKS[name].input_size
    out = type(net)(name=net.name)
    data = out.layer.add(name="data", type="Input", top=["data", "label"])
    for dims in ((batch, 3, size, size), (batch,)):
        data.input_param.shape.add().dim.extend(dims)
    out.layer.extend(layer for layer in net.layer if layer.bottom)
    return out


@pytest.mark.parametrize("name, batch, passes", [("attention56-cifar", 3, 3), ("attention56", 2, 1)])
def test_gradients_of_the_networks(in_caffe, tmp_path, name, batch, passes):
    """Outputs, gradients and moving averages; and the memory is what the estimate says."""
    net = with_inputs(name, batch)
    (tmp_path / "given.prototxt").write_text(dumps(net))
    found = in_caffe(CHILD + f"passes = {passes}" + """
reference, _ = start("given.prototxt", "plain")
expected = trained(reference, passes)
del reference
out = {"learns": len(set(expected)) > len(expected) // 2}
for mode in ("shared", "lean"):
    net, shared = start("given.prototxt", mode)
    out[mode] = [trained(net, passes) == expected, shared]
""")
    assert found["learns"]
    info = infer(net, TRAIN)
    for mode in (SHARED, LEAN):
        assert found[mode] == [True, 4 * plan(info, mode).values]


def trainable(model):
    """A random net with a loss behind each of its results, and fillers that leave nothing zero."""
    net = DEFAULT_DIALECT.message("NetParameter")()
    net.CopyFrom(model.net)
    info = infer(net, TRAIN)
    results = {}
    for layer in net.layer:
        for name in layer.bottom:
            results.pop(name, None)
        results.update(dict.fromkeys(layer.top))
    # EuclideanLoss takes no more than four axes.
    for name in [name for name in results if 0 < len(info.blobs[name]) <= 4]:
        net.layer.add(name=f"target_{name}", type="DummyData", top=[f"target_{name}"])
        net.layer[-1].dummy_data_param.shape.add().dim.extend(info.blobs[name])
        net.layer.add(name=f"loss_{name}", type="EuclideanLoss", bottom=[name, f"target_{name}"], top=[f"loss_{name}"])
    return net


@pytest.fixture(scope="module")
def drawn_nets():
    """Random nets, drawn once: real Caffe takes them all in one child."""
    nets = []

    @settings(max_examples=150, database=None, derandomize=True, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(model=random_nets.models(most=14), deploy=st.booleans())
    def draw(model, deploy):
        nets.append((model.net, TEST) if deploy else (trainable(model), TRAIN))

    draw()
    return nets


def test_random_nets(in_caffe, tmp_path, drawn_nets):
    """Every layer type that random nets have: in place, shared data, parameters shared, several losses."""
    for number, (net, _) in enumerate(drawn_nets):
        (tmp_path / f"{number}.prototxt").write_text(dumps(net))
    phases = [phase for _, phase in drawn_nets]
    found = in_caffe(CHILD + f"""
def results(net, phase):
    if phase == caffe.TRAIN:
        caffe.set_random_seed(9)  # of Dropout's masks
        return trained(net)
    feed(net, 1)
    return [net.forward()[name].tobytes() for name in net.outputs]

out = []
for number, phase in enumerate({phases}):
    file = str(number) + ".prototxt"
    expected = results(start(file, "plain", phase)[0], phase)
    for mode in ("shared", "lean"):
        net, shared = start(file, mode, phase)
        out.append([results(net, phase) == expected, shared])
""")
    shared = 0
    for index, (net, phase) in enumerate(drawn_nets):
        info = infer(net, phase)
        for offset, mode in enumerate((SHARED, LEAN)):
            values = 4 * plan(info, mode).values
            assert found[2 * index + offset] == [True, values], text_format.MessageToString(net)
            shared += values > 0
    assert shared > len(drawn_nets)


SMALL = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn1" type: "BN" bottom: "conv1" top: "bn1" bn_param { slope_filler { value: 1 } } }
layer { name: "relu1" type: "ReLU" bottom: "bn1" top: "relu1" }
layer { name: "conv2" type: "Convolution" bottom: "relu1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "bn2" type: "BN" bottom: "sum" top: "bn2" bn_param { slope_filler { value: 1 } } }
layer { name: "relu2" type: "ReLU" bottom: "bn2" top: "bn2" }
layer { name: "pool" type: "Pooling" bottom: "bn2" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
"""


# The second bottom of "sized" only tells a size, and an earlier layer than it has the same blob.
SIZED = """
layer { name: "in" type: "Input" top: "x" top: "target" top: "target2"
  input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } shape { dim: 2 dim: 1 } shape { dim: 2 dim: 4 dim: 2 dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "between" type: "%s" bottom: "conv" top: "between" }
layer { name: "conv2" type: "Convolution" bottom: "x" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "sized" type: "%s" bottom: "conv2" bottom: "conv" top: "sized" }
layer { name: "fc" type: "InnerProduct" bottom: "sized" top: "fc"
  inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }
layer { name: "loss2" type: "EuclideanLoss" bottom: "between" bottom: "target2" top: "loss2" }
"""


@pytest.mark.parametrize("sized", ["Interp", "Crop"])
@pytest.mark.parametrize("between", ["Power", "ELU", "ReLU", "BN"])
def test_a_bottom_that_only_tells_a_size(in_caffe, tmp_path, between, sized):
    (tmp_path / "given.prototxt").write_text(SIZED % (between, sized))
    found = in_caffe(CHILD + """
expected = trained(start("given.prototxt", "plain")[0], 3)
out = {"learns": len(set(expected)) > len(expected) // 2}
for mode in ("shared", "lean"):
    net, shared = start("given.prototxt", mode)
    out[mode] = [trained(net, 3) == expected, shared > 0]
""")
    assert found == {"learns": True, "shared": [True, True], "lean": [True, True]}


def test_a_layer_without_tops(in_caffe, tmp_path):
    silent = SMALL + 'layer { name: "silent" type: "Silence" bottom: "conv1" bottom: "accuracy" }'
    (tmp_path / "given.prototxt").write_text(silent)
    found = in_caffe(CHILD + """
expected = trained(start("given.prototxt", "plain")[0], 3)
out = [trained(start("given.prototxt", mode)[0], 3) == expected for mode in ("shared", "lean")]
""")
    assert found == [True, True]


@pytest.fixture
def small(tmp_path):
    """A small net in the file small.prototxt."""
    (tmp_path / "small.prototxt").write_text(SMALL)
    return "small.prototxt"


def test_other_input_sizes(in_caffe, small):
    """Larger, smaller and larger inputs again: the plan follows, and the gradients stay the same."""
    found = in_caffe(CHILD + """
def course(net):
    seen = []
    for number, size in enumerate((8, 20, 6, 13, 30)):
        net.blobs["data"].reshape(2, 3, size, size)
        seen += trained(net, 1, number)
    return seen

expected = course(start("small.prototxt", "plain")[0])
out = [course(start("small.prototxt", mode)[0]) == expected for mode in ("shared", "lean")]
""")
    assert found == [True, True]


def test_a_pass_over_part_of_the_net_is_right_or_refused(in_caffe, small):
    """Backward from the middle finds what it needs; what is gone is not taken from other blobs."""
    found = in_caffe(CHILD + """
def part(net):
    feed(net, 1)
    net.forward()
    net.blobs["sum"].diff[...] = 1
    net.backward(start="sum")
    return parameters(net)

expected = part(start("small.prototxt", "plain")[0])
net, _ = start("small.prototxt", "lean")
out = {"middle": part(net) == expected, "said": []}
for again in (lambda: net.backward(), lambda: net.forward(start="sum")):
    try:
        again()
    except RuntimeError as error:
        out["said"].append(str(error))
out["whole"] = trained(net) == trained(start("small.prototxt", "plain")[0])
""")
    assert found["middle"]
    assert len(found["said"]) == 2 and all("is gone: its memory is shared" in text for text in found["said"])


def test_nets_that_go_take_their_memory_along(in_caffe, tmp_path):
    (tmp_path / "given.prototxt").write_text(dumps(with_inputs("attention56-cifar", 8)))
    first, last = in_caffe(CHILD + """
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

out = []
for _ in range(6):
    net, _ = start("given.prototxt", "lean")
    trained(net, 1)
    del net
    out.append(peak())
out = [out[0], out[-1]]
""")
    assert last < 1.2 * first


def test_a_second_call_changes_nothing(in_caffe, small):
    assert in_caffe(CHILD + """
net, shared = start("small.prototxt", "lean")
out = [shared, caffe.lean.apply(net, False)]
""")[1] == in_caffe(CHILD + "out = start('small.prototxt', 'lean')[1]")


def test_unknown_layers_keep_what_they_touch(in_caffe, tmp_path):
    """A Python layer may keep what it likes of its bottoms and tops: both keep memory of their own."""
    text = SMALL.replace('bottom: "relu1"', 'bottom: "own"')
    own = 'layer { name: "own" type: "Python" bottom: "relu1" top: "own" python_param { module: "own" layer: "Own" } }'
    head, mark, rest = text.partition('layer { name: "conv2"')
    (tmp_path / "given.prototxt").write_text(head + own + mark + rest)
    (tmp_path / "own.py").write_text(
        "import caffe\n\nclass Own(caffe.Layer):\n    def setup(self, bottom, top):\n        pass\n"
        "    def reshape(self, bottom, top):\n        top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top):\n        top[0].data[...] = self.kept = 2 * bottom[0].data\n"
        "    def backward(self, top, down, bottom):\n        bottom[0].diff[...] = self.kept * top[0].diff\n")
    found = in_caffe("sys.path.insert(0, '.')\n" + CHILD + """
expected = trained(start("given.prototxt", "plain")[0])
out = [trained(start("given.prototxt", mode)[0]) == expected for mode in ("shared", "lean")]
""")
    assert found == [True, True]
