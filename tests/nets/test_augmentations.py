"""Training nets with augmentation: what their data layers say, what lint says of them, and their shapes in Caffe."""

import json
from pathlib import Path

import numpy
import pytest

from prototxt_gen.check.lint import NOTE, Options, lint, registry
from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.nets.builder import DataEnds, build
from prototxt_gen.nets.configs import AUGMENTATIONS, NETWORKS, find_augmentation, vary
from prototxt_gen.spec.infer import infer
from prototxt_gen.train.data import Image, datum, write_lmdb

LOAD_NETS = Path(__file__).parent.parent / "spec" / "load_nets.py"


def built(name, kind, source="train_lmdb", test_source="test_lmdb", mean=(104.0, 117.0, 123.0), **changes):
    return build(NETWORKS[name], data=DataEnds(source, test_source, mean, find_augmentation(kind)), **changes).net


def test_without_augmentation_the_data_layers_are_stock():
    assert built("attention56", "none") == build(NETWORKS["attention56"]).net
    assert [layer.type for layer in built("attention56", "none").layer[:2]] == ["Data", "Data"]


def test_the_papers_augmentation():
    train, test = (layer.augmented_data_param for layer in built("attention56", "paper").layer[:2])
    assert (train.crop, train.crop_size, train.mirror, train.batch_size) == (train.RANDOM_RESIZED, 224, True, 32)
    assert train.min_area == pytest.approx(0.08) and train.max_area == 1
    assert train.min_aspect == pytest.approx(3 / 4) and train.max_aspect == pytest.approx(4 / 3)
    assert train.pca_std == pytest.approx(0.1) and not (train.brightness or train.contrast or train.saturation)
    assert (test.crop_size, test.resize_short, test.batch_size) == (224, 256, 25)
    assert list(train.mean_value) == list(test.mean_value) == [104, 117, 123]
    assert not any(test.HasField(field) for field in ("crop", "mirror", "pca_std", "min_area"))


def test_the_short_side_of_test_images_goes_with_the_crop():
    test = built("attention56", "paper", input_size=320).layer[1].augmented_data_param
    assert (test.crop_size, test.resize_short) == (320, 366)


def test_the_augmentation_of_cifar():
    train, test = (layer.augmented_data_param for layer in built("attention92-cifar", "cifar").layer[:2])
    assert (train.crop, train.pad, train.crop_size, train.mirror) == (train.PADDED, 4, 32, True)
    assert not train.pca_std and not test.pad and not test.resize_short and test.crop_size == 32


def test_grey_nets_have_no_colour_noise_and_other_channels_no_augmentation():
    grey, two = (vary(NETWORKS["attention56"], {"channels": count}) for count in ("1", "2"))
    train = build(grey, data=DataEnds(augmentation=AUGMENTATIONS["paper"])).net.layer[0].augmented_data_param
    assert train.channels == 1 and not train.HasField("pca_std")
    with pytest.raises(Error, match="1 or 3 channels, and the net wants 2"):
        build(two, data=DataEnds(augmentation=AUGMENTATIONS["paper"]))


def test_a_mean_file_and_no_mean():
    layer = built("attention56", "paper", mean="mean.binaryproto").layer[0].augmented_data_param
    assert layer.mean_file == "mean.binaryproto" and not layer.mean_value
    assert not built("attention56", "paper", mean=None).layer[0].augmented_data_param.mean_value


def test_a_misspelt_augmentation_is_named():
    with pytest.raises(Error) as caught:
        find_augmentation("papr")
    assert caught.value.hint == "did you mean 'paper'?"


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_lint_finds_nothing_but_that_other_forks_lack_the_layer(name, kind):
    if "452" in name or "236" in name:  # the same data layers before more modules
        config = vary(NETWORKS[name], {"modules": "1,1,1"})
    else:
        config = NETWORKS[name]
    text = build(config, data=DataEnds(mean=config.mean, augmentation=AUGMENTATIONS[kind])).dumps()
    assert [one for one in lint(text, "net", Options(registry.rules())) if one.severity != NOTE] == []
    stock = lint(text, "net", Options(registry.chosen(["PG106"], []), dialect=DIALECTS["bvlc"]))
    assert [one.hint for one in stock if "AugmentedData" in one.message] == [
        "it is known to the dialect attention"] * 2


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """An LMDB of raw images, and one of sizes that all differ."""
    folder = tmp_path_factory.mktemp("augmented")
    random = numpy.random.RandomState(0)

    def records(count, sizes):
        for index in range(count):
            pixels = random.randint(0, 256, (3, *sizes(index))).astype("uint8")
            yield f"{index:08d}", datum(Image(str(index), index % 10, pixels))

    write_lmdb(folder / "small", records(30, lambda index: (32, 32)))
    write_lmdb(folder / "large", records(12, lambda index: (230 + 7 * index, 300 - 9 * index)))
    return folder


def test_the_nets_load_in_caffe_with_the_shapes_that_infer_tells(run_caffe_python, sources, tmp_path):
    nets, jobs = [], []
    for name, kind, source in (("attention56", "paper", "large"), ("attentionnext92", "paper", "small"),
                               ("attention56-cifar", "cifar", "small"), ("attention92-cifar", "paper", "large")):
        place = str(sources / source)
        net = built(name, kind, place, place, batch_size=2, test_batch_size=3)
        for phase in (TRAIN, TEST):
            nets.append((net, phase))
            jobs.append(dict(net=str(net), phase=phase, stages=[], level=0, folder=str(tmp_path)))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_caffe_python(LOAD_NETS, tmp_path / "jobs.json", tmp_path / "found.json")
    for (net, phase), found in zip(nets, json.loads((tmp_path / "found.json").read_text())["nets"]):
        blobs = infer(net, phase).blobs
        assert {name: tuple(shape) for name, shape in found["blobs"].items() if name in blobs} == blobs
