"""A preview shows exactly what the layer gives in Caffe, with mean and scale undone."""

import numpy
import pytest
from PIL import Image as Picture

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.graph import TEST, TRAIN, net_state
from prototxt_gen.core.io import loads
from prototxt_gen.train import preview as previews
from prototxt_gen.train.data import Image, datum, write_lmdb
from prototxt_gen.train.preview import class_names, find_layer, preview, write_sheet

COUNT, SIZE = 12, 10


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The folder of an LMDB of random images, and their pixels (N, C, H, W)."""
    folder = tmp_path_factory.mktemp("preview")
    values = numpy.random.RandomState(0).randint(0, 256, (COUNT, 3, SIZE, SIZE)).astype("uint8")
    write_lmdb(folder / "lmdb", [(str(i), datum(Image(str(i), i % 5, one))) for i, one in enumerate(values)])
    return folder / "lmdb", values


def layer(kind, fields):
    text = f'layer {{ name: "data" type: "{kind}" top: "data" top: "label" {fields} }}'
    return loads(text, DEFAULT_DIALECT.message("NetParameter")).layer[0]


def shown(caffe_build, one, phase, count=COUNT, seed=1):
    return preview(one, net_state(phase), "net", caffe_build, count, seed)


LAYERS = {
    "Data": ("Data", 'data_param {{ source: "{source}" batch_size: 5 backend: LMDB }} transform_param {{ {values} }}'),
    "AugmentedData": ("AugmentedData",
                      'augmented_data_param {{ source: "{source}" batch_size: 5 crop_size: 10 shuffle: false {values} }}'),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("values", ["", "mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.017", "mean_value: 55.845"])
def test_pixels_come_back_exactly(caffe_build, pixels, kind, values):
    source, images = pixels
    name, fields = LAYERS[kind]
    found = shown(caffe_build, layer(name, fields.format(source=source, values=values)), TEST)
    assert found.images.dtype == numpy.uint8 and found.clipped == 0
    assert (found.images == images.transpose(0, 2, 3, 1)[..., ::-1]).all()
    assert list(found.labels) == [i % 5 for i in range(COUNT)]


def test_the_random_images_of_training_are_the_same_each_time_and_no_others_than_the_layers(caffe_build, pixels):
    source, images = pixels
    fields = f'augmented_data_param {{ source: "{source}" batch_size: 5 crop_size: 10 crop: PADDED pad: 2 mirror: true }}'
    first, again = (shown(caffe_build, layer("AugmentedData", fields), TRAIN) for _ in range(2))
    assert (first.images == again.images).all() and first.labels == again.labels
    padded = numpy.pad(images.transpose(0, 2, 3, 1)[..., ::-1], ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = [one[y:y + SIZE, x:x + SIZE] for one in padded for y in range(5) for x in range(5)]
    possible = {one.tobytes() for window in windows for one in (window, window[:, ::-1])}
    assert all(one.tobytes() in possible for one in first.images)
    assert len({one.tobytes() for one in first.images}) > COUNT // 2


def test_grey_images_and_strong_colours(caffe_build, pixels):
    source, _ = pixels
    grey = f'augmented_data_param {{ source: "{source}" batch_size: 5 crop_size: 10 channels: 1 }}'
    assert shown(caffe_build, layer("AugmentedData", grey), TEST).images.shape == (COUNT, SIZE, SIZE)
    strong = f'augmented_data_param {{ source: "{source}" batch_size: 5 crop_size: 10 contrast: 5 }}'
    assert shown(caffe_build, layer("AugmentedData", strong), TRAIN).clipped > 0.2


def test_a_mean_file_is_left_out(caffe_build, pixels, tmp_path):
    source, images = pixels
    blob = DEFAULT_DIALECT.message("BlobProto")(num=1, channels=3, height=SIZE, width=SIZE)
    blob.data.extend([7.0] * 3 * SIZE * SIZE)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    for name, fields in LAYERS.values():
        values = f'mean_file: "{tmp_path}/mean.binaryproto" scale: 0.5'
        found = shown(caffe_build, layer(name, fields.format(source=source, values=values)), TEST)
        assert (found.images == images.transpose(0, 2, 3, 1)[..., ::-1]).all()


def test_what_cannot_be_shown(caffe_build, pixels):
    source, _ = pixels
    with pytest.raises(Error, match="there is no such LMDB"):
        shown(caffe_build, layer("Data", 'data_param { source: "none" backend: LMDB batch_size: 1 }'), TEST)
    with pytest.raises(CaffeError, match="min_area <= max_area"):
        shown(caffe_build, layer("AugmentedData", f'augmented_data_param {{ source: "{source}" batch_size: 1 '
                                                  'crop_size: 4 min_area: 2 }'), TRAIN)
    net = loads('layer { name: "in" type: "Input" top: "data" }', DEFAULT_DIALECT.message("NetParameter"))
    with pytest.raises(Error, match="no layer reads images in phase TEST"):
        find_layer(net, net_state(TEST), "net")


@pytest.mark.parametrize("count", [1, 2, 7, COUNT])
def test_the_sheet_holds_every_image_enlarged_by_a_whole_factor(caffe_build, pixels, tmp_path, count):
    source, images = pixels
    name, fields = LAYERS["Data"]
    found = shown(caffe_build, layer(name, fields.format(source=source, values="")), TEST, count)
    write_sheet(str(tmp_path / "sheet.png"), found, ["a", "\u4e2d", "c" * 200], "a title")
    sheet = numpy.asarray(Picture.open(tmp_path / "sheet.png").convert("RGB"))
    factor = 10  # to at least 96 pixels
    for image in found.images:
        tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
        rows, columns = (sheet.shape[0] - tile.shape[0], sheet.shape[1] - tile.shape[1])
        corners = numpy.argwhere((sheet[:rows + 1, :columns + 1] == tile[0, 0]).all(axis=2))
        assert any((sheet[y:y + tile.shape[0], x:x + tile.shape[1]] == tile).all() for y, x in corners)


@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "no such font"])
def test_names_beyond_ascii_can_be_told_apart(tmp_path, monkeypatch, font):
    """Pillow's own font draws the same box for every letter that it lacks."""
    monkeypatch.setattr(previews, "FONT", font)
    sheets = []
    for name in ("räv", "rov", "r\u4e2dv"):
        one = previews.Preview("data", "Data", numpy.zeros((1, 96, 96, 3), "uint8"), [0], 0.0)
        write_sheet(str(tmp_path / "sheet.png"), one, [name], "title")
        sheets.append(numpy.asarray(Picture.open(tmp_path / "sheet.png")).tobytes())
    assert len(set(sheets)) == 3
    write_sheet(str(tmp_path / "sheet.png"), one, ["rav" if font == "no such font" else "räv"], "title")
    assert numpy.asarray(Picture.open(tmp_path / "sheet.png")).tobytes() == sheets[0]


def test_class_names(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert class_names(None, str(tmp_path / "train_lmdb")) == ["cat", "dog"]
    assert class_names(None, str(tmp_path / "nowhere" / "train_lmdb")) == []
    with pytest.raises(Error, match="cannot be read"):
        class_names(str(tmp_path / "none.txt"), "x")
