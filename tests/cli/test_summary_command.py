"""``prototxt-gen summary``: the first screen, machine-readable forms, memory, mistakes."""

import csv
import io
import json
import re

import pytest

from prototxt_gen.nets.configs import NETWORKS


def test_first_screen_fits_80_columns_and_says_the_totals(cli):
    for name in NETWORKS:
        for arguments in ([], ["--depth", "0"], ["--depth", "3"], ["--memory"]):
            done = cli("summary", name, *arguments)
            assert done.returncode == 0, done.stderr
            assert max(map(len, done.stdout.splitlines())) <= 80
    text = cli("summary", "attention56").stdout
    assert len(text.splitlines()) < 40
    assert "386 layers, 36 Splits inserted by Caffe" in text and "110 Convolution, 107 BN" in text
    assert "learnable parameters                31 810 728" in text
    assert "parameters with statistics          31 883 432" in text


def test_json_tells_every_layer_blob_and_parameter(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    cli("attention92", "--phase", "deploy", "-o", str(net))
    document = json.loads(cli("summary", str(net), "--json").stdout)
    assert document["name"] == "Attention-92" and document["phase"] == "test"
    assert document["totals"]["learnable"] + document["totals"]["statistics"] == 52_599_976
    assert document["totals"]["macs"] == 10_533_789_696 == sum(layer["macs"] for layer in document["layers"])
    assert document["totals"]["layers"] == len(document["layers"]) == 632
    assert document["blobs"]["post_res_4_3"] == [1, 2048, 7, 7]
    assert document["params"]["conv1"] == [[64, 3, 7, 7]] and document["params"]["conv1/bn"] == [[1, 64, 1, 1]] * 4
    made = {"data"}
    for layer in document["layers"]:
        assert made.issuperset(layer["bottoms"])
        made.update(layer["tops"])
    assert made == set(document["blobs"])


def test_csv_adds_up_at_any_depth(cli):
    totals = set()
    for depth in range(4):
        rows = list(csv.DictReader(io.StringIO(cli("summary", "attention56", "--csv", "--depth", str(depth)).stdout)))
        totals.add((sum(int(row["learnable"]) for row in rows), sum(int(row["macs"]) for row in rows)))
    assert totals == {(31_810_728, 32 * 6_270_836_736)}


def test_phases_and_batches(cli):
    test = cli("summary", "attention56", "--phase", "test").stdout
    assert "Attention-56, TEST" in test and "2 Accuracy" in test
    assert "7x3x224x224" in cli("summary", "attention56", "--batch", "7").stdout


def test_memory_and_the_largest_batch(cli):
    document = json.loads(cli("summary", "attention56", "--batch", "32", "--memory", "--gpu-gib", "8", "--json").stdout)
    here = ("resident on the CPU", "resident on the CPU with Caffe's engines")
    sums = ("total", *here, "BN buffers of the fork")
    parts = {name: value for name, value in document["memory"].items() if name not in sums}
    assert sum(parts.values()) == document["memory"]["total"]
    assert document["memory"][here[0]] < document["memory"]["total"] < document["memory"][here[1]]
    assert document["largest batch"] == 15
    text = cli("summary", "attention56", "--memory", "--gpu-gib", "8").stdout
    assert "largest batch in 8 GiB: 15" in text and "memory of a training step" in text
    assert re.search(r"^  \(on the CPU \S+ MiB with our own engines, \S+ with Caffe's\)$", text, re.MULTILINE)
    for word in ("shared", "lean"):
        (said,) = re.findall(rf"^  \(train --memory {word} needs (\S+) MiB; --{word} shows it\)$", text, re.MULTILINE)
        own = cli("summary", "attention56", "--memory", f"--{word}").stdout
        assert re.search(rf"^  total +{re.escape(said)} MiB$", own, re.MULTILINE) and "shows it" not in own
    refused = cli("summary", "attention56", "--shared")
    assert refused.returncode == 2 and refused.stderr == "error: --shared is about memory\nhint: --memory --shared\n"


UNKNOWN = """
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "mine" type: "Mine" bottom: "data" top: "x" }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 2 } }
"""
DATA = 'layer { name: "h" type: "HDF5Data" top: "data" hdf5_data_param { source: "list" batch_size: 4 } }'


def test_gaps_are_asked_for_and_counted(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    net.write_text(UNKNOWN)
    refused = cli("summary", str(net))
    assert refused.returncode == 2 and "layer 'mine' (Mine): no rule is known for this type" in refused.stderr
    allowed = cli("summary", str(net), "--allow-unknown")
    assert allowed.returncode == 0 and "2 layers are not counted" in allowed.stdout
    net.write_text(DATA)
    assert cli("summary", str(net)).returncode == 2
    assert "4x1x5x5" in cli("summary", str(net), "--input", "data=4,1,5,5").stdout


@pytest.mark.parametrize("arguments, message", [
    (["atention56"], "there is no network and no file 'atention56'\nhint: did you mean 'attention56'?"),
    (["attention56", "--phase", "tset"], "'tset' is not one of"),
    (["attention56", "--input", "data"], "--input data is no shape"),
    (["attention56", "--input", "data=1,x"], "is no shape"),
    (["attention56", "--gpu-gib", "0"], "--gpu-gib 0 is no amount of memory"),
    (["attention56", "--memory", "--solver", "Adm"], "no solver type is called 'Adm'\nhint: did you mean 'Adam'?"),
])
def test_mistakes(cli, arguments, message):
    done = cli("summary", *arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr
