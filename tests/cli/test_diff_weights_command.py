"""``prototxt-gen diff`` on caffemodels of other forks and formats."""

import h5py
import numpy as np
import pytest

from prototxt_gen.core.caffemodel import write_weights
from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.io import Model

BVLC = DIALECTS["bvlc"]


@pytest.fixture
def files(tmp_path):
    """The same weights of a net with a Swish, as stock Caffe writes it: binary, V1 and HDF5."""
    net = BVLC.message("NetParameter")(name="n")
    net.layer.add(name="data", type="Input", top=["x"]).input_param.shape.add(dim=[1, 3])
    net.layer.add(name="s", type="Swish", bottom=["x"], top=["s"]).swish_param.beta = 2
    net.layer.add(name="ip", type="InnerProduct", bottom=["s"], top=["y"]).inner_product_param.num_output = 2
    blobs = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([7, 8])
    for name, layout in (("a.caffemodel", "current"), ("v1.caffemodel", "v1")):
        write_weights(str(tmp_path / name), Model(net, BVLC, {"ip": blobs}), layout)
    net.layer[1].swish_param.beta = 3
    write_weights(str(tmp_path / "b.caffemodel"), Model(net, BVLC, {"ip": (blobs[0], blobs[1] + 1)}))
    with h5py.File(tmp_path / "a.caffemodel.h5", "w") as file:
        for index, array in enumerate(blobs):
            file.create_dataset(f"data/ip/{index}", data=array)
    return tmp_path


def test_the_dialect_is_asked_for_where_another_fits(cli, files):
    done = cli("diff", "a.caffemodel", "b.caffemodel", cwd=files)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr == (
        "error: a.caffemodel: is not of dialect 'attention', where layers of type 'Swish' have a field interp_param\n"
        "hint: it reads as bvlc: --dialect bvlc\n")
    done = cli("diff", "a.caffemodel", "b.caffemodel", "--dialect", "bvlc", cwd=files)
    assert (done.returncode, done.stdout) == (1, "s: beta 2 -> 3\ntotal: parameters 8 as before, macs 6 as before\n")


@pytest.mark.parametrize("other", ["v1.caffemodel", "a.caffemodel.h5"])
def test_weights_in_other_formats_are_the_same(cli, files, other):
    done = cli("diff", "--weights", "--dialect", "bvlc", "a.caffemodel", other, cwd=files)
    assert (done.returncode, done.stdout) == (0, "") and done.stderr.endswith("0 of 2 blobs differ\n")
    done = cli("diff", "--weights", "--dialect", "bvlc", other, "b.caffemodel", cwd=files)
    assert (done.returncode, done.stdout) == (1, "ip[1]: 2  max abs 1, relative 0.111\n")
