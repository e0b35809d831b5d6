"""NetSpec gives the messages that pycaffe's gives, without Caffe, and names what is wrong."""

import base64
import copy
import importlib.util
import pickle
from pathlib import Path

import pytest

import prototxt_gen
from prototxt_gen import NetSpec, to_proto
from prototxt_gen import layers as L
from prototxt_gen import params as P
from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import dumps

WRITTEN = Path(__file__).with_name("written_nets.py")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lenet_reads_as_documented():
    net = load(WRITTEN).lenet(prototxt_gen)
    assert [layer.name for layer in net.layer] == [
        "data", "conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "loss"]
    relu, ip2 = net.layer[6], net.layer[7]
    assert list(relu.bottom) == list(relu.top) == list(ip2.bottom) == ["ip1"]
    assert net.layer[0].data_param.backend == P.Data.LMDB
    assert 'type: "xavier"' in dumps(net)


def test_pycaffe_gives_equal_messages(run_caffe_python):
    """The same code with the import changed: ours here, pycaffe's in a process of its own."""
    nets = load(WRITTEN)
    answer = run_caffe_python(f"""
        import base64, importlib.util
        import caffe.net_spec
        spec = importlib.util.spec_from_file_location("written_nets", {str(WRITTEN)!r})
        nets = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(nets)
        for net in nets.ALL:
            print(base64.b64encode(net(caffe.net_spec).SerializeToString(deterministic=True)).decode())
        """).stdout
    theirs = [base64.b64decode(line) for line in answer.split()]
    ours = [net(prototxt_gen).SerializeToString(deterministic=True) for net in nets.ALL]
    assert ours == theirs


def test_5000_layers_deep():
    top = L.Input(shape=dict(dim=[1, 1]))
    for _ in range(5000):
        top = L.ReLU(top)
    net = top.to_proto()
    assert len(net.layer) == 5001
    assert net.layer[5000].name == "ReLU5000" and list(net.layer[5000].bottom) == ["ReLU4999"]


def net_with(**fields):
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
    n.conv1 = L.Convolution(n.data, **fields)
    return n.to_proto()


@pytest.mark.parametrize("fields, what, hint", [
    (dict(kernal_size=3), "layer 'conv1' (Convolution) has no field 'kernal_size'", "did you mean 'kernel_size'?"),
    (dict(weight_filler=dict(tpye="x")), "'weight_filler' of layer 'conv1' (Convolution) has no field 'tpye'", "'type'"),
    (dict(kernel_size="big"), "field 'kernel_size' of layer 'conv1' (Convolution) does not take 'big'", "integer"),
    (dict(num_output=-1), "field 'num_output' of layer 'conv1' (Convolution) does not take -1", ""),
    (dict(weight_filler=3), "field 'weight_filler' of layer 'conv1' (Convolution) does not take 3", "dict"),
    (dict(param=[3]), "field 'param' of layer 'conv1' (Convolution) does not take [3]", ""),
    (dict(num_output=dict(x=1)), "does not take {'x': 1}", ""),
])
def test_a_wrong_field_names_its_layer_and_the_field_that_was_meant(fields, what, hint):
    with pytest.raises(Error) as caught:
        net_with(**fields)
    assert what in caught.value.what and hint in caught.value.hint


@pytest.mark.parametrize("make, what, hint", [
    (lambda: L.Deconvolution(L.Data(), num_output=3).to_proto(), "Deconvolution", "convolution_param=dict(num_output"),
    (lambda: L.Convolutoin(L.Data(), num_output=3).to_proto(), "Convolutoin", "did you mean 'Convolution'?"),
    (lambda: L.ReLU(3), "bottom 0 of a layer of type ReLU is of type int", "pass what"),
    (lambda: L.ReLU(L.Data(ntop=2)), "is of type tuple", "several tops"),
    (lambda: L.Eltwise(L.Data(), L.Data(), in_place=True), "2 bottoms cannot work in place", ""),
    (lambda: setattr(NetSpec(), "x", L.Data(ntop=2)), "'x' is assigned", "give each of its 2 tops a name"),
    (lambda: setattr(NetSpec(), "x", 5), "'x' is assigned a value of type int", "L.<Type>"),
])
def test_misuse_is_explained(make, what, hint):
    with pytest.raises(Error) as caught:
        make()
    assert what in caught.value.what and hint in caught.value.hint


def test_unpacking_what_is_no_sequence_is_explained():
    with pytest.raises(TypeError) as caught:
        _, _ = L.Convolution(num_output=3)
    assert caught.value.what == "a layer of type Convolution gives one top, which is no sequence of tops"
    assert caught.value.hint == "a layer with two tops is written L.Convolution(..., ntop=2)"
    with pytest.raises(Error, match="a layer of type Slice gives one top"):
        L.Concat(*L.Slice(L.Data()))
    with pytest.raises(Error, match="a layer of type Silence with ntop=0 gives no tops"):
        list(L.Silence(L.Data(), ntop=0))


def test_type_errors_are_type_errors_as_in_pycaffe():
    with pytest.raises(TypeError):
        L.ReLU("data")


def test_unknown_tops_and_constants():
    n = NetSpec()
    n.conv1 = L.Convolution(L.Data(), num_output=1)
    with pytest.raises(Error) as caught:
        n.cnv1
    assert caught.value.hint == "did you mean 'conv1'?"
    assert not hasattr(n, "other") and "conv1" in n and "other" not in n
    with pytest.raises(AttributeError, match="did you mean 'Pooling'"):
        P.Poolin
    with pytest.raises(AttributeError, match="PoolingParameter has no constant 'MAXX'\nhint: did you mean 'MAX'"):
        P.Pooling.MAXX
    with pytest.raises(Error) as caught:
        L.Pooling(L.Data(), pool="MAXX").to_proto()
    assert caught.value.hint == "its values are MAX, AVE, STOCHASTIC"


def test_a_netspec_can_be_copied_and_pickled():
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1]))
    n["a/b"] = L.ReLU(n.data)
    assert copy.deepcopy(n).to_proto() == n.to_proto()
    assert pickle.loads(pickle.dumps(n.tops)).keys() == n.tops.keys()


def test_names_that_a_netspec_has_itself_are_blobs_by_item():
    n = NetSpec()
    n["tops"] = L.Input()
    n["to_proto"] = L.ReLU(n["tops"])
    assert [layer.top[0] for layer in n.to_proto().layer] == ["tops", "to_proto"]
    with pytest.raises(Error, match="the net has no top '_dialect' yet"):
        n["_dialect"]


def test_an_empty_dict_writes_an_empty_message():
    net = L.ReLU(relu_param=dict(), include=dict(), convolution_param=dict(weight_filler=dict())).to_proto()
    layer = net.layer[0]
    assert layer.HasField("relu_param") and len(layer.include) == 1
    assert layer.convolution_param.HasField("weight_filler") and not layer.HasField("elu_param")


def test_other_dialects():
    n = NetSpec(dialect=DIALECTS["happynear"])
    n.x = L.BN(L.Data(), frozen=True)
    assert b"\xc2\x0c" in n.to_proto().SerializeToString()  # field 200, length-delimited
    n = NetSpec(dialect=DIALECTS["bvlc"])
    n.x = L.BN(L.Data(), frozen=True)
    with pytest.raises(Error, match="layer 'x' \\(BN\\) has no field 'frozen'"):
        n.to_proto()


def test_to_proto_of_several_tops_shares_layers():
    data = L.Data()
    a, b = L.ReLU(data), L.Sigmoid(data)
    assert [layer.type for layer in to_proto(a, b, a).layer] == ["Data", "ReLU", "Sigmoid"]


def test_a_layer_that_reads_its_own_top_is_named():
    n = NetSpec()
    n.a = L.Input(shape=dict(dim=[1, 2]))
    n.b = L.ReLU(n.a)
    n.c = L.ReLU(n.b)
    n.b.fn.inputs = (n.c,)
    with pytest.raises(TypeError, match="a layer of type ReLU reads what is made of its own top 'b'"):
        n.to_proto()
