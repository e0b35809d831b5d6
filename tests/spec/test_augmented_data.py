"""The rule of AugmentedData: the file tells every shape, and what Caffe would refuse is refused."""

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads
from prototxt_gen.spec.infer import infer
from prototxt_gen.spec.memory import memory, with_batch


def net(fields, tops='top: "data" top: "label"'):
    text = f'layer {{ name: "data" type: "AugmentedData" {tops} augmented_data_param {{ source: "x" {fields} }} }}'
    return loads(text, DEFAULT_DIALECT.message("NetParameter"))


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_shapes(phase):
    assert infer(net("batch_size: 4 crop_size: 8"), phase).blobs == {"data": (4, 3, 8, 8), "label": (4,)}
    grey = net("batch_size: 4 crop_size: 8 channels: 1", 'top: "data"')
    assert infer(grey, phase).blobs == {"data": (4, 1, 8, 8)}


def test_a_given_shape_sets_the_batch_of_the_labels():
    blobs = infer(net("batch_size: 4 crop_size: 8"), TEST, given={"data": (2, 3, 5, 5)}).blobs
    assert blobs == {"data": (2, 3, 5, 5), "label": (2,)}


@pytest.mark.parametrize("fields, message", [
    ("crop_size: 8", "batch_size in augmented_data_param is 0 or missing"),
    ("batch_size: 4", "crop_size in augmented_data_param is 0 or missing"),
    ("batch_size: 4 crop_size: 8 channels: 4", "channels is 4"),
])
def test_refusals(fields, message):
    with pytest.raises(Error) as caught:
        infer(net(fields), TEST)
    assert message in caught.value.what


def test_batches_made_ahead_are_counted_and_a_batch_is_set():
    four, two = (memory(infer(net(f"batch_size: 4 crop_size: 8 {prefetch}"), TEST)).prefetch
                 for prefetch in ("", "prefetch: 2"))
    assert four == 2 * two == 4 * 4 * (4 * 3 * 8 * 8 + 4)
    assert with_batch(net("batch_size: 4 crop_size: 8"), 7) == net("batch_size: 7 crop_size: 8")
