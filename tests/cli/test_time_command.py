"""``prototxt-gen time``: the table, its sums, the work counted for each layer, training nets without data."""

import json
import subprocess

import pytest

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { CROP } data_param { source: "nowhere" batch_size: 6 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { CROP } data_param { source: "nowhere" batch_size: 3 backend: LMDB } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "fixed" type: "InnerProduct" bottom: "sum" top: "fixed" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fixed" bottom: "label" top: "loss" }
layer { name: "top1" type: "Accuracy" bottom: "fixed" bottom: "label" top: "top1" include { phase: TEST } }
"""
LAYERS = ["data", "conv1", "relu1", "conv1_relu1_0_split", "conv2", "sum", "fixed", "loss"]
PLANE = 16 * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("nets")
    (place / "net.prototxt").write_text(NET.replace("CROP", "crop_size: 16"))
    (place / "uncut.prototxt").write_text(NET.replace("CROP", ""))
    return place


def document(cli, folder, *arguments):
    done = cli("time", *arguments, "--iterations", 2, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert done.stdout == json.dumps(found, indent=2, sort_keys=True) + "\n"
    return found


@pytest.mark.usefixtures("caffe_build")
def test_the_work_of_each_layer_is_counted_forward_and_backward(cli, folder):
    found = document(cli, folder, "net.prototxt")
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == LAYERS and found["backward"] and found["batch_size"] == 6
    first, second = 6 * PLANE * 8 * 27, 6 * PLANE * 8 * 72
    # Forward; weights; for all but the first layer, which images feed, the bottom.
    assert rows["conv1"]["macs"] == 2 * first and rows["conv2"]["macs"] == 3 * second
    assert rows["fixed"]["macs"] == 2 * 6 * PLANE * 8 * 5  # its weights do not learn
    values = 6 * 8 * PLANE
    assert rows["relu1"]["bytes"] == 4 * 4 * values  # read and written, twice
    assert rows["conv1_relu1_0_split"]["bytes"] == 4 * 3 * values  # backward only: two differences into one
    assert rows["sum"]["bytes"] == 4 * 6 * values
    assert rows["conv1"]["bytes"] == rows["data"]["bytes"] == rows["data"]["macs"] == 0
    for name in LAYERS[1:]:
        assert rows[name]["forward_ms"] > 0 and rows[name]["backward_ms"] > 0


@pytest.mark.usefixtures("caffe_build")
def test_a_bottom_that_tells_a_size_only_is_no_work(cli, folder):
    text = NET.replace("CROP", "crop_size: 16").replace('"conv1" bottom: "conv2" top: "sum"',
                                                        '"conv2" bottom: "wide" top: "sum"')
    wide = """layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool" pooling_param { kernel_size: 4 stride: 4 } }
layer { name: "wide" type: "Interp" bottom: "pool" bottom: "conv2" top: "wide" }
"""
    (folder / "wide.prototxt").write_text(text.replace('layer { name: "sum"', f'{wide}layer {{ name: "sum"'))
    rows = {row["name"]: row for row in document(cli, folder, "wide.prototxt")["layers"]}
    assert rows["wide"]["bytes"] == 2 * 4 * (6 * 8 * PLANE + 6 * 8 * 16)


@pytest.mark.usefixtures("caffe_build")
def test_sums_and_shares_of_the_machine(cli, folder):
    found = document(cli, folder, "net.prototxt", "--batch-size", 9)
    assert found["batch_size"] == 9
    for key in ("forward_ms", "backward_ms", "macs", "bytes", "layers"):
        for rows in (found["layers"], found["types"]):
            assert sum(row[key] for row in rows) == pytest.approx(found["total"][key])
    floor = 0
    for row in found["layers"]:
        ideal_s = row["macs"] / found["machine"]["macs_per_s"] + row["bytes"] / found["machine"]["bytes_per_s"]
        floor += ideal_s * 1e3
        if ideal_s:
            taken_ms = row["forward_ms"] + row["backward_ms"]
            assert row["of_machine"] == pytest.approx(ideal_s * 1e3 / taken_ms)
        else:
            assert row["of_machine"] is None
    assert found["floor_ms"] == pytest.approx(floor)


@pytest.mark.usefixtures("caffe_build")
def test_forward_only_is_the_phase_test_without_backward(cli, folder):
    found = document(cli, folder, "net.prototxt", "--forward-only")
    assert found["batch_size"] == 3 and not found["backward"]
    assert all(row["backward_ms"] == 0 for row in found["layers"])
    names = [row["name"] for row in found["layers"]]
    assert names[-1] == "top1" and found["total"]["macs"] == 3 * PLANE * (8 * 27 + 8 * 72 + 8 * 5)


@pytest.mark.usefixtures("caffe_build")
def test_the_table_is_sorted_as_asked_for(cli, folder):
    done = cli("time", "net.prototxt", "--by", "layer", "--iterations", 1, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    head, *rows, blank, first, machine, floor = done.stdout.splitlines()
    assert head.split()[:4] == ["layer", "type", "forward", "ms"] and blank == ""
    assert [row.split()[0] for row in rows] == [*LAYERS, "total"]
    assert first.startswith("net.prototxt, TRAIN, batch 6: ") and first.endswith(" images a second")
    assert machine.startswith("machine: ") and floor.startswith("floor: ")
    done = cli("time", "net.prototxt", "--iterations", 1, cwd=folder)
    rows = [row.split() for row in done.stdout.splitlines()[1:]]
    rows = rows[:rows.index([])]
    assert {row[0]: row[1] for row in rows[:-1]} == {
        "Convolution": "2", "InnerProduct": "1", "Eltwise": "1", "ReLU": "1", "Split": "1", "Input": "1",
        "SoftmaxWithLoss": "1"}
    taken = [float(row[2]) + float(row[3]) for row in rows[:-1]]
    assert all(one >= other - 0.02 for one, other in zip(taken, taken[1:]))  # of rounded times
    shares = [float(row[4].rstrip("%")) for row in rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)


@pytest.mark.usefixtures("caffe_build")
def test_a_deploy_net_runs_forward_on_drawn_weights(cli, folder):
    found = document(cli, folder, "attention56-cifar", "--forward-only", "--batch-size", 1)
    assert cli("attention56-cifar", "--phase", "deploy", "-o", "deploy.prototxt", cwd=folder).returncode == 0
    deployed = document(cli, folder, "deploy.prototxt")
    assert not deployed["backward"] and deployed["batch_size"] == 1
    assert deployed["total"]["macs"] == found["total"]["macs"] > 1e8
    (kinds,) = [row for row in deployed["types"] if row["type"] == "Convolution"]
    assert kinds["layers"] > 100 and kinds["macs"] > 0.9 * deployed["total"]["macs"]


@pytest.mark.usefixtures("caffe_build")
def test_a_size_that_the_file_does_not_tell_is_asked_for(cli, folder):
    done = cli("time", "uncut.prototxt", cwd=folder)
    assert done.returncode == 2
    assert "layer 'data': the file does not tell the size of 'data'\nhint: --input data=" in done.stderr
    found = document(cli, folder, "uncut.prototxt", "--input", "data=1,1,12,12", "--batch-size", 2)
    assert found["batch_size"] == 2
    assert found["layers"][1]["macs"] == 2 * 2 * 144 * 8 * 9
    told = document(cli, folder, "deploy.prototxt")["total"]["macs"]
    assert document(cli, folder, "deploy.prototxt", "--input", "data=2,3,32,32")["total"]["macs"] == 2 * told
    done = cli("time", "deploy.prototxt", "--input", "dat=2,3,32,32", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == "error: deploy.prototxt: the net has no input 'dat'\nhint: did you mean 'data'?\n"


@pytest.mark.parametrize("arguments, words", [
    (("--gpu", "0"), "built for the CPU only"),
    (("--gpu", "0", "--cpu"), "exclude one another"),
    (("--iterations", "0"), "--iterations"),
])
def test_wrong_usage_is_exit_code_2(cli, caffe_build, folder, monkeypatch, arguments, words):
    monkeypatch.setenv("CAFFE_ROOT", str(caffe_build.root))  # there may be a build for GPUs, too
    done = cli("time", "net.prototxt", *arguments, cwd=folder)
    assert done.returncode == 2 and words in done.stderr and done.stdout == ""


def test_the_net_that_is_timed_runs_under_caffe_time_too(cli, folder, caffe_build):
    """The layers of Caffe's own timing are the ones listed."""
    text = NET.replace("CROP", "crop_size: 16")
    start, _, rest = text.partition('layer { name: "conv1"')
    inputs = 'layer { name: "data" type: "Input" top: "data" top: "label" input_param { ' \
             "shape { dim: 6 dim: 3 dim: 16 dim: 16 } shape { dim: 6 } } }\n"
    (folder / "caffe.prototxt").write_text(f'{inputs}layer {{ name: "conv1"{rest}')
    done = subprocess.run([str(caffe_build.binary), "time", "-model", "caffe.prototxt", "-iterations", "1"], cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = [line.split("] ")[1].split()[0] for line in done.stderr.splitlines() if "\tforward: " in line]
    assert theirs == [row["name"] for row in document(cli, folder, "net.prototxt")["layers"]]


def test_what_caffe_refuses_is_its_error_and_not_ours(cli, folder, caffe_build):
    """A Python layer whose module is missing: nothing that can be seen from outside."""
    text = NET.replace("CROP", "crop_size: 16") + 'layer { name: "own" type: "Python" bottom: "sum" top: "own" ' \
        'python_param { module: "no_such_module" layer: "Own" } }'
    (folder / "own.prototxt").write_text(text)
    done = cli("time", "own.prototxt", cwd=folder)
    assert done.returncode == 3 and "own.prototxt: Caffe ended" in done.stderr and "no_such_module" in done.stderr
    assert "Python" in caffe_build.layers and "Traceback" not in done.stderr
