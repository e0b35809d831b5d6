"""AugmentedData inside Caffe: every pixel against a reference, sources, order, threads, solvers."""

import importlib.util
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from augmented_images import Datum, encoded, layer, list_of, lmdb_of, picture, pictures, raw
from prototxt_gen.core.dialects import DEFAULT_DIALECT

_spec = importlib.util.spec_from_file_location(
    "augmented_data_reference", Path(__file__).parent / "augmented_data_reference.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

MEAN = (104.0, 117.0, 124.0)
MEANS = " ".join(f"mean_value: {value}" for value in MEAN)


@pytest.fixture(scope="module", autouse=True)
def one_opencv_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


# Each job (text, phase, solvers, rank, batches) becomes the arrays data<i> and label<i> of a file.
RUN = """
found = {{}}
for i, (text, phase, solvers, rank, batches) in enumerate({jobs!r}):
    caffe.set_solver_count(solvers)
    caffe.set_solver_rank(rank)
    net = net_of(text, phase)
    data, labels = [], []
    for _ in range(batches):
        net.forward()
        data.append(net.blobs["data"].data.copy())
        labels.append(net.blobs["label"].data.copy())
    found[f"data{{i}}"], found[f"label{{i}}"] = np.concatenate(data), np.concatenate(labels)
    del net
np.savez("found.npz", **found)
"""


def job(fields, batches, phase="TRAIN", solvers=1, rank=0):
    return layer(fields), ("TRAIN", "TEST").index(phase), solvers, rank, batches


@pytest.fixture
def batches(in_caffe):
    """Run jobs; return for each its images (N, H, W, C) and integer labels (N,)."""

    def run(*jobs):
        in_caffe(RUN.format(jobs=jobs) + "\nout = 0")
        with np.load("found.npz") as found:
            return [(found[f"data{i}"].transpose(0, 2, 3, 1), found[f"label{i}"].astype(int))
                    for i in range(len(jobs))]

    return run


def epochs_of(labels, count):
    """Assert that each epoch visits each image once; return the epochs' orders."""
    orders = np.reshape(labels, (-1, count))
    assert (np.sort(orders) == np.arange(count)).all()
    return orders


def test_every_pixel_of_the_papers_augmentation(batches):
    images = pictures(30)
    seed = 2 ** 40 + 5
    strength = dict(brightness=0.3, contrast=0.4, saturation=0.5, pca_std=0.1)
    fields = " ".join(f"{key}: {value}" for key, value in strength.items())
    source = list_of(images)
    (data, labels), = batches(job(f"{source} batch_size: 6 crop_size: 40 mirror: true seed: {seed} scale: 0.017 "
                                  f"{MEANS} {fields}", 10))
    orders = epochs_of(labels, 30)
    assert (orders[0] != orders[1]).sum() > 20 and (orders[0] != np.arange(30)).sum() > 20
    mirrored = 0
    for position, (image, found) in enumerate(zip(labels.tolist(), data)):
        key = (seed, position // 30, image)
        x, y, w, h = reference.random_window(*images[image].shape[1::-1], reference.Draws(*key, reference.CROP))
        expected = reference.resize(images[image][y:y + h, x:x + w], 40, 40)
        if reference.Draws(*key, reference.MIRROR).below(2):
            mirrored += 1
            expected = expected[:, ::-1]
        expected = (reference.colour(expected, *reference.draw_colour(*key, **strength)) - MEAN) * 0.017
        assert np.abs(found - expected).max() < 0.03 * 0.017 * 3
    assert 15 < mirrored < 45


def test_any_number_of_threads_gives_the_same_batches(batches):
    source = list_of(pictures(13))
    same = f"{source} batch_size: 5 crop_size: 24 mirror: true pca_std: 0.1 contrast: 0.2"
    settings = ("threads: 1", "threads: 4", "threads: 4 prefetch: 1", "threads: 7 prefetch: 9", "", "seed: 1")
    *alike, other = batches(*(job(f"{same} {setting}", 12) for setting in settings))
    for data, labels in alike[1:]:
        assert (labels == alike[0][1]).all() and data.tobytes() == alike[0][0].tobytes()
    assert (other[1] != alike[0][1]).any()


JPEGS = [(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
         for factor in (0x411111, 0x211111, 0x221111, 0x121111, 0x111111) for progressive in (0, 1)]


@pytest.mark.parametrize("channels", [3, 1])
def test_parts_of_jpegs_are_those_of_the_whole(batches, channels):
    """Only the part under the crop is decoded; it must not differ at its edges."""
    images = [picture(150 + 7 * i, 233 - 9 * i, seed=i) for i in range(len(JPEGS))]
    values = [encoded(image, i, *JPEGS[i]) for i, image in enumerate(images)]
    values.append(encoded(picture(101, 99, 1), len(values), ".jpg"))
    lmdb_of("set", values)
    fields = f'source: "set" crop: PADDED batch_size: {len(values)} crop_size: 31 channels: {channels}'
    (data, labels), = batches(job(fields, 30))
    epochs_of(labels, len(values))
    flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    whole = [cv2.imdecode(np.frombuffer(Datum.FromString(value).data, np.uint8), flag) for value in values]
    for position, (image, found) in enumerate(zip(labels.tolist(), data)):
        draws = reference.Draws(0, position // len(values), image, reference.CROP)
        height, width = whole[image].shape[:2]
        x, y = draws.below(width - 30), draws.below(height - 30)
        assert (found == whole[image][y:y + 31, x:x + 31].reshape(31, 31, channels)).all()


def test_cifars_padded_crops_of_raw_and_encoded_records(batches):
    images = [picture(32, 32, seed=i) for i in range(20)]
    lmdb_of("raw", [raw(image, i) for i, image in enumerate(images)])
    lmdb_of("png", [encoded(image, i) for i, image in enumerate(images)])
    fields = f"crop: PADDED pad: 4 batch_size: 10 crop_size: 32 mirror: true {MEANS} seed: 3"
    one, other = batches(*(job(f'source: "{name}" {fields}', 8) for name in ("raw", "png")))
    assert one[0].tobytes() == other[0].tobytes() and (one[1] == other[1]).all()
    epochs_of(one[1], 20)
    for position, (image, found) in enumerate(zip(one[1].tolist(), one[0])):
        key = (3, position // 20, image)
        draws = reference.Draws(*key, reference.CROP)
        x, y = draws.below(9) - 4, draws.below(9) - 4
        expected = reference.padded_window(images[image], x, y, 32) - np.float32(MEAN)
        assert (found == (expected[:, ::-1] if reference.Draws(*key, reference.MIRROR).below(2) else expected)).all()


def test_in_test_nothing_is_random(batches):
    images = pictures(12)
    source = list_of(images)
    everything = "mirror: true pca_std: 1 brightness: 0.5 contrast: 0.5 saturation: 0.5"
    fields = f"{source} batch_size: 6 crop_size: 28 resize_short: 32 {MEANS} scale: 0.5"
    jobs = [job(f"{fields} {everything} crop: {crop}", 4, "TEST") for crop in ("RANDOM_RESIZED", "PADDED", "CENTER")]
    first, *rest = batches(*jobs, job(f"{fields} crop: CENTER shuffle: false", 4))
    assert (first[1] == np.tile(np.arange(12), 2)).all()
    for data, labels in rest:
        assert (labels == first[1]).all() and data.tobytes() == first[0].tobytes()
    for image, found in zip(itertools.cycle(images), first[0]):
        height, width = image.shape[:2]
        short = min(height, width)
        w, h = (2 * side * 32 // short + 1 >> 1 if side != short else 32 for side in (width, height))
        resized = reference.resize(image, w, h)
        expected = resized[(h - 28) // 2:, (w - 28) // 2:][:28, :28]
        assert np.abs(found - (expected - MEAN) * 0.5).max() < 0.02


def test_a_centre_crop_is_that_of_the_data_layer(in_caffe):
    lmdb_of("set", [raw(picture(32, 40, seed=i), 100 * i) for i in range(9)])
    stock = (f'layer {{ name: "d" type: "Data" top: "d" top: "l" data_param {{ source: "set" backend: LMDB '
             f'batch_size: 4 }} transform_param {{ crop_size: 27 {MEANS} scale: 0.0078125 }} }}\n')
    ours = layer(f'source: "set" batch_size: 4 crop_size: 27 {MEANS} scale: 0.0078125')
    told = in_caffe(f"""net = net_of('''{stock}{ours}''', caffe.TEST)
out = []
for _ in range(5):
    net.forward()
    a, b = (net.blobs[name].data for name in ("d", "data"))
    out.append([a.tobytes() == b.tobytes(), net.blobs["l"].data.tolist() == net.blobs["label"].data.tolist(), a.std()])
""")
    assert all(data and labels and spread > 0.1 for data, labels, spread in told) and len(told) == 5


def test_grey_and_colour(batches):
    colour, grey = picture(16, 16), picture(16, 16, 1)
    lmdb_of("set", [raw(colour, 0), encoded(colour, 1), raw(grey, 2), encoded(grey, 3)])
    fields = 'source: "set" batch_size: 4 crop_size: 16'
    (three, _), (one, _) = batches(job(fields, 1, "TEST"), job(f"{fields} channels: 1 mean_value: 2", 1, "TEST"))
    assert (three[:2] == colour).all() and (three[2:] == grey).all()
    assert np.abs(one[:2] + 2 - cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)[:, :, None]).max() <= 1
    assert (one[2:] + 2 == grey).all()


def test_means_from_a_file(batches):
    lmdb_of("set", [raw(picture(20, 20, seed=i), i) for i in range(4)])
    rng = np.random.default_rng(2)
    for name, size in (("same", 20), ("other", 24)):
        mean = rng.uniform(90, 160, (1, 3, size, size)).astype(np.float32)
        np.save(name, mean[0].transpose(1, 2, 0))
        proto = DEFAULT_DIALECT.message("BlobProto")(num=1, channels=3, height=size, width=size, data=mean.ravel())
        Path(name).write_bytes(proto.SerializeToString())
    fields = 'source: "set" batch_size: 4 crop_size: 20'
    (plain, _), (same, _), (other, _) = batches(
        job(fields, 1, "TEST"), *(job(f'{fields} mean_file: "{name}"', 1, "TEST") for name in ("same", "other")))
    assert (same == plain - np.load("same.npy")).all()
    np.testing.assert_allclose(other, plain - np.load("other.npy").mean((0, 1)), atol=1e-4)


def test_solvers_share_the_images_of_one_order(batches):
    source = list_of(pictures(15))
    fields = f"{source} batch_size: 5 crop_size: 24 mirror: true"
    alone, *shares, test, test_1, skipped, skipped_1 = batches(
        job(fields, 12), *(job(fields, 4, "TRAIN", 3, rank) for rank in range(3)),
        job(fields, 2, "TEST"), job(fields, 2, "TEST", 3, 0),
        job(f"{fields} skip: 20", 8), job(f"{fields} skip: 30", 2, "TRAIN", 3, 1))
    epochs_of(alone[1], 15)
    for rank, (data, labels) in enumerate(shares):
        assert (labels == alone[1][rank::3]).all() and (data == alone[0][rank::3]).all()
    assert (test[1] == test_1[1]).all() and (test[0] == test_1[0]).all()
    assert (skipped[1] == alone[1][20:]).all() and (skipped[0] == alone[0][20:]).all()
    assert (skipped_1[1] == alone[1][31::3]).all() and (skipped_1[0] == alone[0][31::3]).all()
