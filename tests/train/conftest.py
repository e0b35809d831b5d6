"""What the tests of training share: reading LMDBs with the lmdb package, and a small training job."""

import lmdb
import numpy
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.train import data

Datum = DEFAULT_DIALECT.message("Datum")


@pytest.fixture
def read_lmdb():
    """Return the (key, Datum) pairs of an LMDB in the order Caffe's cursor meets them."""

    def read(folder):
        environment = lmdb.open(str(folder), readonly=True, lock=False)
        with environment.begin() as transaction:
            pairs = [(key.decode(), Datum.FromString(value)) for key, value in transaction.cursor()]
        environment.close()
        return pairs

    return read


NET = """name: "tiny"
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.0078 } data_param { source: "set/train_lmdb" batch_size: 20 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.0078 } data_param { source: "set/test_lmdb" batch_size: 20 backend: LMDB }
}
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 5 weight_filler { type: "msra" } }
}
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "relu1" type: "ReLU" bottom: "pool1" top: "pool1" }
layer {
  name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "msra" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "top1" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy/top1" include { phase: TEST } }
"""
SOLVER = """net: "net.prototxt"
test_iter: 2
test_interval: 10
base_lr: 0.01
lr_policy: "fixed"
momentum: 0.9
max_iter: 20
display: 5
snapshot: 10
snapshot_prefix: "snap/tiny"
solver_mode: CPU
random_seed: 1
"""


@pytest.fixture
def job(tmp_path):
    """A folder with a small convolutional net, its solver, and 200 images of four classes told apart by brightness."""

    def split(count):
        random = numpy.random.RandomState(count)
        noise = random.randint(0, 60, (count, 3, 28, 28)).astype(numpy.uint8)
        labels = numpy.arange(count) % 4
        return data.Split(count, (data.Image(f"image-{index}", int(label), pixels + numpy.uint8(50 * label))
                                  for index, (label, pixels) in enumerate(zip(labels, noise))))

    folder = tmp_path / "job"
    data.write_image_set(folder / "set", ("dark", "dim", "light", "bright"), split(200), split(40))
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder
