"""Tests of weights: the numbers of ``caffe test`` on the same LMDB, the pixels of Caffe's own data layer, ties."""

import gzip
import io
import re
import subprocess

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prototxt_gen.core.caffemodel import read_weights, with_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.io import Model, loads
from prototxt_gen.train import caffe, testing
from prototxt_gen.train.caffe_child import Child
from prototxt_gen.train.testing_images import Crop, Item, load, open_source, read_batches

Datum = DEFAULT_DIALECT.message("Datum")
NetParameter = DEFAULT_DIALECT.message("NetParameter")
FASHION = "/usr/share/datasets/fashion-mnist/"
COUNT = 400

ENDS = """
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ {transform} }} data_param {{ source: "train_lmdb" batch_size: 32 backend: LMDB }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ {transform} }} data_param {{ source: "{source}" batch_size: 50 backend: LMDB }} }}
"""
NET = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "top1" type: "Accuracy" bottom: "fc" bottom: "label" top: "top1" include { phase: TEST } }
layer { name: "top5" type: "Accuracy" bottom: "fc" bottom: "label" top: "top5" accuracy_param { top_k: 5 }
  include { phase: TEST } }
"""
DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 24 dim: 24 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 10 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
TRANSFORM = "crop_size: 24 mean_value: 72.9 scale: 0.01"
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 150 random_seed: 1\n' \
         'snapshot_prefix: "w" solver_mode: CPU\n'


def fashion(split):
    """Images (400, 28, 28) and labels of Fashion-MNIST."""
    arrays = []
    for kind, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(f"{FASHION}{split}-{kind}-ubyte.gz") as file:
            arrays.append(np.frombuffer(file.read(skip + COUNT * 784)[skip:], np.uint8))
    return arrays[0].reshape(-1, 28, 28)[:COUNT], arrays[1][:COUNT]


def write_lmdb(folder, datums):
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for index, datum in enumerate(datums):
            transaction.put(f"{index:08d}".encode(), datum.SerializeToString())


def raw(pixels, label):
    """A Datum of pixels (C, H, W)."""
    channels, height, width = pixels.shape
    return Datum(channels=channels, height=height, width=width, data=pixels.tobytes(), label=int(label))


def encode(pixels, form, **options):
    """The file of an image of (H, W), grey, or (H, W, 3), red first."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, caffe_build):
    """Fashion-MNIST as train_lmdb and test_lmdb, a net, and weights that 150 iterations have trained."""
    place = tmp_path_factory.mktemp("trained")
    for split, name in (("train", "train_lmdb"), ("t10k", "test_lmdb")):
        write_lmdb(place / name, (raw(image[None], label) for image, label in zip(*fashion(split))))
    (place / "net.prototxt").write_text(ENDS.format(transform=TRANSFORM, source="test_lmdb") + NET)
    (place / "solver.prototxt").write_text(SOLVER)
    subprocess.run([str(caffe_build.binary), "train", "-solver", "solver.prototxt"], cwd=place, check=True,
                   capture_output=True)
    return place


@pytest.fixture
def here(folder, monkeypatch):
    """The folder, as the current one: paths in nets are taken from there."""
    monkeypatch.chdir(folder)
    return folder


def trained(text, weights="w_iter_150.caffemodel"):
    return with_weights(Model(loads(text, NetParameter)), read_weights(weights))[0]


def rights(found):
    return {k: sum(right.values()) for k, right in found.right.items()}


def caffe_test(caffe_build, text):
    """What caffe test finds: the number of images that are right among 1 and 5."""
    with open("tested.prototxt", "w") as file:
        file.write(text)
    done = subprocess.run([str(caffe_build.binary), "test", "-model", "tested.prototxt", "-weights",
                           "w_iter_150.caffemodel", "-iterations", str(COUNT // 50)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    batches = re.findall(r"Batch \d+, top(\d) = (\S+)", done.stderr)
    assert len(batches) == 2 * COUNT // 50
    return {k: sum(round(float(share) * 50) for name, share in batches if int(name) == k) for k in (1, 5)}


def jpegs(images, labels):
    """Encoded colour Datums larger than the crop."""
    for image, label in zip(images, labels):
        colours = np.stack([image, image // 2, 255 - image], axis=2)
        large = np.asarray(Image.fromarray(colours).resize((41, 36)))
        yield Datum(encoded=True, data=encode(large, "JPEG", quality=80), label=int(label))


@pytest.mark.parametrize("transform", [TRANSFORM, "crop_size: 24 scale: 0.02", 'crop_size: 24 mean_file: "mean"'])
def test_accuracy_is_that_of_caffe_test(here, caffe_build, transform):
    mean = DEFAULT_DIALECT.message("BlobProto")(num=1, channels=1, height=28, width=28, data=np.arange(784) / 9)
    (here / "mean").write_bytes(mean.SerializeToString())
    text = ENDS.format(transform=transform, source="test_lmdb") + NET
    found = testing.run(testing.plan(trained(text), caffe_build), caffe_build)
    assert sum(found.images.values()) == COUNT
    assert rights(found) == caffe_test(caffe_build, text)
    if transform == TRANSFORM:
        assert COUNT * 0.6 < rights(found)[1] < COUNT * 0.95


def test_pixels_are_those_of_caffes_data_layer(here, run_caffe_python):
    write_lmdb(here / "jpegs", jpegs(*fashion("t10k")))
    transform = "crop_size: 31 mean_value: 10.3 mean_value: 20.7 mean_value: 99.1 scale: 0.017"
    (here / "data.prototxt").write_text(ENDS.format(transform=transform, source="jpegs"))
    run_caffe_python("""
        import caffe, numpy
        net = caffe.Net("data.prototxt", caffe.TEST)
        batches = [net.forward() and (net.blobs["data"].data.copy(), net.blobs["label"].data.copy()) for _ in range(8)]
        for name, arrays in zip(("data", "label"), zip(*batches)):
            numpy.save(name + ".npy", numpy.concatenate(arrays))
    """)
    crop = Crop((3, 31, 31), None, (10.3, 20.7, 99.1), 0.017)
    batches = list(read_batches(open_source("jpegs"), crop, 50, None))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), np.load("data.npy"))
    assert [label for batch in batches for label in batch.labels] == np.load("label.npy").tolist()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_crop_is_the_middle_less_the_mean_times_the_scale(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    high, wide = data.draw(st.integers(height, 20)), data.draw(st.integers(width, 20))
    channels = data.draw(st.integers(1, 4))
    random = np.random.RandomState(data.draw(st.integers(0, 999)))
    pixels = random.randint(0, 256, (channels, high, wide)).astype(np.uint8)
    whole = data.draw(st.booleans())
    mean = random.uniform(0, 255, (channels, high, wide) if whole else channels).astype(np.float32)
    crop = Crop((channels, height, width), None, mean, 0.25)
    label, made = load(Item("x", raw(pixels, 7).SerializeToString()), crop, "set")
    assert label == 7 and made.dtype == np.float32
    for c, y, x in np.ndindex(made.shape):
        at = (c, y + (high - height) // 2, x + (wide - width) // 2)
        assert made[c, y, x] == (np.float32(pixels[at]) - (mean[at] if whole else mean[c])) * np.float32(0.25)


def test_neither_the_batch_nor_the_form_of_the_images_changes_what_is_found(here, caffe_build):
    images, labels = fashion("t10k")
    lines = []
    for index, (image, label) in enumerate(zip(images, labels)):
        place = here / "images" / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:04d}.png").write_bytes(encode(image, "PNG"))
        lines.append(f"images/class{label}/{index:04d}.png {label}")
    (here / "list.txt").write_text("\n".join(lines) + "\n")
    (here / "images" / "class0" / "notes.txt").write_text("no image")
    options = dict(mean=(72.9,), scale=0.01)
    expected = testing.run(testing.plan(trained(ENDS.format(transform=TRANSFORM, source="test_lmdb") + NET),
                                        caffe_build), caffe_build)
    for source, batch_size in (("test_lmdb", 37), ("images", 16), ("list.txt", COUNT)):
        job = testing.plan(trained(DEPLOY), caffe_build, source=source, batch_size=batch_size, **options)
        assert job.source.count == COUNT and job.scores == "fc"
        found = testing.run(job, caffe_build)
        assert (found.images, found.right, found.taken) == (expected.images, expected.right, expected.taken)
    job = testing.plan(trained(DEPLOY), caffe_build, source="list.txt", limit=23, **options)
    assert sum(testing.run(job, caffe_build).images.values()) == 23


def test_a_folder_is_resized_before_the_crop(here, caffe_build):
    place = here / "large" / "only"
    place.mkdir(parents=True)
    (place / "a.png").write_bytes(encode(np.zeros((90, 160, 3), np.uint8) + 9, "PNG"))
    text = DEPLOY.replace("dim: 1 dim: 1 dim: 24 dim: 24", "dim: 1 dim: 3 dim: 224 dim: 224") \
        .replace('type: "InnerProduct" bottom: "conv"', 'type: "InnerProduct" bottom: "pool"') \
        .replace('layer { name: "fc"', 'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" '
                 'pooling_param { pool: AVE kernel_size: 110 } }\nlayer { name: "fc"')
    model = testing._pass("seed-weights", Model(loads(text, NetParameter)))
    for size, short in ((None, 256), (320, 366)):
        job = testing.plan(model, caffe_build, source="large", size=size)
        assert job.crop.resize_short == short and job.crop.size[1:] == (size or 224,) * 2
        batch = next(read_batches(job.source, job.crop, 1, None))
        assert (batch.images == 9).all()
        assert sum(testing.run(job, caffe_build).images.values()) == 1


def test_ties_count_as_in_caffes_accuracy(run_caffe_python, tmp_path):
    scores = np.random.RandomState(3).randint(0, 4, (300, 6)).astype(np.float32)
    labels = np.random.RandomState(4).randint(0, 6, 300)
    np.savez(tmp_path / "in.npz", scores=scores, labels=labels)
    inputs = 'layer { name: "s" type: "Input" top: "s" top: "l" '
    inputs += "input_param { shape { dim: 1 dim: 6 } shape { dim: 1 } } }"
    for k in (1, 2, 3):
        inputs += f'layer {{ name: "a{k}" type: "Accuracy" bottom: "s" bottom: "l" top: "a{k}" '
        inputs += f"accuracy_param {{ top_k: {k} }} }}"
    (tmp_path / "net").write_text(inputs)
    done = run_caffe_python("""
        import caffe, numpy, sys
        given, net = numpy.load(sys.argv[1] + "/in.npz"), caffe.Net(sys.argv[1] + "/net", caffe.TEST)
        for row, label in zip(given["scores"], given["labels"]):
            net.blobs["s"].data[...], net.blobs["l"].data[...] = row, label
            print(*(int(value) for _, value in sorted(net.forward().items())))
    """, tmp_path)
    expected = [[int(one) for one in line.split()] for line in done.stdout.splitlines()]
    job = testing.Job(None, "", "", 6, 1, None, None, (1, 2, 3), None, "")
    for row, label, right in zip(scores, labels, expected):
        found = testing.Score()
        testing._count(found, job, testing.Batch(["x"], [int(label)], None), row[None])
        assert [found.right[k][label] for k in (1, 2, 3)] == right
        assert bool(found.taken) is not bool(right[0])
        assert label not in found.taken.get(label, {})
    assert 0 < sum(right[0] for right in expected) < sum(right[2] for right in expected) < 300


def refusal(caffe_build, model, **options):
    with pytest.raises(Error) as caught:
        testing.run(testing.plan(model, caffe_build, **options), caffe_build)
    assert not isinstance(caught.value, CaffeError)
    return str(caught.value)


def test_what_cannot_be_tested_is_refused_with_a_reason(here, caffe_build):
    model = trained(DEPLOY)
    write_lmdb(here / "labels", [raw(np.zeros((1, 28, 28), np.uint8), 3), raw(np.zeros((1, 28, 28), np.uint8), 10)])
    write_lmdb(here / "small", [raw(np.zeros((1, 24, 23), np.uint8), 3)])
    write_lmdb(here / "colour", [raw(np.zeros((3, 28, 28), np.uint8), 3)])
    write_lmdb(here / "broken", [Datum(encoded=True, data=b"\xff\xd8no", label=1)])
    write_lmdb(here / "deep", [Datum(encoded=True, data=encode(np.zeros((30, 30), np.uint16), "PNG"), label=1)])
    write_lmdb(here / "short", [Datum(channels=1, height=28, width=28, data=b"123", label=1)])
    (here / "bad.txt").write_text("a.png 1\nb.png\n")
    (here / "gone.txt").write_bytes(b"\xef\xbb\xbfa.png 1\n")
    write_lmdb(here / "damaged", [raw(np.zeros((1, 28, 28), np.uint8), 3)] * 100)
    with open(here / "damaged" / "data.mdb", "r+b") as file:
        file.seek(40_000)
        file.write(b"\xff" * 40_000)
    for options, words in (
        ({"source": "labels"}, "labels: image '00000001' has the label 10, and the net tells classes 0 to 9"),
        ({"source": "small"}, "image '00000000' has 23x24 pixels, and the crop takes 24x24\nhint: --resize-short"),
        ({"source": "colour"}, "has 3 channels, and the net takes 1"),
        ({"source": "broken"}, "image '00000000' is no image"),
        ({"source": "deep"}, "cannot be decoded: it has more than eight bits"),
        ({"source": "short"}, "image '00000000' has 3 values for 1x28x28"),
        ({"source": "bad.txt"}, "bad.txt:2: is no line of a list"),
        ({"source": "gone.txt"}, "image 'a.png' cannot be read: No such file"),
        ({"source": "."}, "holds 'test_lmdb' and more"),
        ({"source": "damaged"}, "damaged: is damaged: mdb_"),
        ({"source": "nowhere"}, "nowhere: there are no images"),
        ({}, "tells no images to test with"),
        ({"source": "test_lmdb", "top": (11,)}, "--top 11 asks for more than the net's 10 classes"),
        ({"source": "test_lmdb", "mean": (1, 2, 3)}, "the mean has 3 values, and the images have 1 channels"),
        ({"source": "test_lmdb", "mean": "net.prototxt"}, "net.prototxt: is no mean file"),
        ({"source": "test_lmdb", "size": 20}, "layer 'fc': its weights are 10x800"),
    ):
        assert words in refusal(caffe_build, model, **options)


def test_weights_that_lack_a_layer_or_are_no_numbers_are_refused(here, caffe_build):
    model = trained(DEPLOY)
    lacking = Model(model.net, model.dialect, {"conv": model.blobs["conv"]})
    assert "hold nothing for layer 'fc'" in refusal(caffe_build, lacking, source="test_lmdb")
    nothing = tuple(blob * np.nan for blob in model.blobs["fc"])
    diverged = Model(model.net, model.dialect, {**model.blobs, "fc": nothing})
    assert "are no numbers (NaN)" in refusal(caffe_build, diverged, source="test_lmdb")


def test_a_child_that_caffe_ends_is_an_error_with_its_words(here, caffe_build, tmp_path):
    (tmp_path / "net.prototxt").write_text('layer { name: "a" type: "ReLU" bottom: "nothing" top: "a" }')
    (tmp_path / "weights.caffemodel").write_bytes((here / "w_iter_150.caffemodel").read_bytes())
    settings = {"input": "a", "scores": "a", "gpu": None}
    with Child(testing.CHILD, tmp_path, settings, caffe_build, "the net") as child:
        assert child.results.read() == b""
        assert "the net: Caffe refuses the net: Unknown bottom blob 'nothing'" in str(child.failure())
    with Child("prototxt_gen.train.no_such_child", tmp_path, settings, caffe_build, "the net") as child:
        assert "ended with exit code 1" in str(child.failure())


def test_a_gpu_is_asked_of_a_caffe_that_has_none(here, caffe_build):
    job = testing.plan(trained(DEPLOY), caffe_build, source="test_lmdb")
    with pytest.raises(Error, match="built for the CPU only"):
        testing.run(job, caffe.find(str(caffe_build.root)), gpu=0)
