"""The network commands as users type them: output, files, checks, mistakes."""

import json
import os
import subprocess
import sys

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads


def net_of(result):
    assert result.returncode == 0, result.stderr
    return loads(result.stdout, DEFAULT_DIALECT.message("NetParameter"))


def test_the_sentence_everything_hangs_on(tmp_path, cli_path):
    subprocess.run(f"{cli_path} attention56 > train.prototxt", shell=True, cwd=tmp_path, check=True)
    net = loads((tmp_path / "train.prototxt").read_text(), DEFAULT_DIALECT.message("NetParameter"))
    assert net.name == "Attention-56" and len(net.layer) == 389


def test_options_reach_the_net(cli):
    net = net_of(cli("attention56-cifar", "--source", "a", "--test-source", "b", "--batch-size", "8", "--test-batch-size", "9",
                     "--mean", "1,2,3", "--crop", "28", "--classes", "5", "--name", "mine", "--set", "modules=1,0,0"))
    train, test = net.layer[:2]
    assert (train.data_param.source, test.data_param.source) == ("a", "b")
    assert (train.data_param.batch_size, test.data_param.batch_size) == (8, 9)
    assert train.transform_param.crop_size == test.transform_param.crop_size == 28
    assert list(train.transform_param.mean_value) == [1, 2, 3]
    assert net.name == "mine" and not any(layer.name.startswith("AttentionB") for layer in net.layer)
    deploy = net_of(cli("attention56", "--phase", "deploy", "--batch-size", "4", "--input-size", "320", "--classes", "7"))
    assert list(deploy.layer[0].input_param.shape[0].dim) == [4, 3, 320, 320]


def test_no_mean(cli):
    assert not net_of(cli("attention56", "--mean", "none")).layer[0].transform_param.mean_value


def test_output_check_and_diff(cli, tmp_path):
    target = tmp_path / "net.prototxt"
    assert cli("attention56", "-o", str(target)).stdout == ""
    assert cli("attention56", "--check", str(target)).returncode == 0
    same = cli("attention56", "--diff", str(target))
    assert (same.returncode, same.stdout) == (0, "")
    stale = cli("attention56", "--classes", "3", "--check", str(target))
    assert stale.returncode == 1 and "not what prototxt-gen attention56 writes" in stale.stderr
    different = cli("attention56", "--classes", "20", "--diff", str(target))
    assert different.returncode == 1
    assert "-    num_output: 1000\n+    num_output: 20\n" in different.stdout
    assert cli("attention56", "--diff", "-", stdin=target.read_text()).returncode == 0
    before = target.read_bytes()
    assert cli("attention56", "--classes", "0", "-o", str(target)).returncode == 2
    assert target.read_bytes() == before and os.listdir(tmp_path) == ["net.prototxt"]


@pytest.mark.parametrize("arguments, message", [
    (["atention56"], "error: no network or command is called 'atention56'\nhint: did you mean 'attention56'?"),
    (["xyz"], "error: no network or command is called 'xyz'\nhint: prototxt-gen --help lists them"),
    (["attention56", "--clases", "3"], "No such option"),
    (["attention56", "--phase", "test"], "'test' is not one of 'train', 'deploy'"),
    (["attention56", "--classes", "many"], "'many' is not a valid integer"),
    (["attention56", "extra"], "unexpected extra argument"),
    (["attention56", "--check", "/nonexistent/file"], "error: /nonexistent/file: cannot be read: No such file"),
    (["attention56", "-o", "/nonexistent/file"], "error: /nonexistent/file: cannot be written: No such file"),
    (["attention56", "-o", "a", "--check", "b"], "-o, --check and --diff exclude one another"),
    (["attention56-cifar", "--published"], "error: the authors published no file of Attention-56-CIFAR"),
    (["attention56", "--published", "--classes", "3"], "--classes has no meaning with --published"),
    (["attention56", "--published", "--phase", "deploy"], "--phase has no meaning with --published"),
    (["attention56", "--name", ""], "--name is empty"),
    (["attention56", "--phase", "deploy", "--source", "x"], "--source has no meaning with --phase deploy"),
    (["attention56", "--crop", "224", "--input-size", "320"], "--crop 224 and --input-size 320 differ"),
    (["attention56", "--phase", "deploy", "--input-size", "8"], "too small"),
    (["attention56", "--set", "modules"], "--set modules has no '='"),
    (["attention56", "--set", "modlues=1,1,1"], "no setting 'modlues'\nhint: did you mean 'modules'?"),
    (["attention56", "--mean", "no_such_file"], "no_such_file: cannot be read"),
])
def test_mistakes_are_named_and_exit_with_2(cli, arguments, message):
    result = cli(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr


def test_list(cli):
    rows = json.loads(cli("list", "--json").stdout)
    assert {row["name"]: row["depth"] for row in rows}["attention452-cifar"] == 452
    text = cli("list").stdout
    assert max(map(len, text.splitlines())) <= 80
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(row["name"] + " "))
        assert row["source"] in line and (row["source"] == "reconstruction") == row["name"].endswith("-cifar")


def test_help_has_two_sections(cli):
    text = cli("--help").stdout
    networks, commands = text.index("\nNetworks:"), text.index("\nCommands:")
    assert networks < text.index("attention452-cifar") < commands < text.index("\n  train ")
    assert max(map(len, text.splitlines())) <= 100
    for name in ("attention56", "solver", "data", "train", "caffe", "list"):
        assert cli(name, "--help").stdout.startswith(f"Usage: prototxt-gen {name}")


def test_shell_completion_as_click_gives_it(cli):
    script = cli(environment={"_PROTOTXT_GEN_COMPLETE": "bash_source"}).stdout
    assert "_prototxt_gen_completion" in script
    words = cli(environment={"_PROTOTXT_GEN_COMPLETE": "bash_complete", "COMP_WORDS": "prototxt-gen attention5",
                             "COMP_CWORD": "1"}).stdout
    assert words.split() == ["plain,attention56", "plain,attention56-cifar"]


def test_a_reader_that_goes_away(cli_path):
    result = subprocess.run(
        ["bash", "-c", f"{cli_path} attention452-cifar | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert result.returncode == 141 and result.stdout == 'name: "Attention-452-CIFAR"\n' and result.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command, redirect, code, message", [
    ("attention56", "> /dev/full", 2, "error: No space left on device\n"),
    ("list", "> /dev/full", 2, "error: No space left on device\n"),
    ("--help", "> /dev/full", 2, "error: No space left on device\n"),
    ("attention56", ">&-", 2, "error: standard output is closed\n"),
    ("list --json", ">&-", 2, "error: standard output is closed\n"),
    ("nothing", "2>/dev/full", 2, ""),
    ("nothing", "2>&-", 2, ""),
])
def test_outputs_that_take_nothing(cli_path, unbuffered, command, redirect, code, message):
    done = subprocess.run(["bash", "-c", f"{cli_path} {command} {redirect}"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (code, message)


def test_module_is_the_command(cli):
    result = subprocess.run([sys.executable, "-m", "prototxt_gen", "list"], capture_output=True, text=True)
    assert result.stdout == cli("list").stdout


def test_augment_writes_the_data_layers(cli):
    stock, paper, none = (cli("attention56", *given) for given in ([], ["--augment", "paper"], ["--augment", "none"]))
    assert stock.stdout == none.stdout and "AugmentedData" not in stock.stdout
    train, test = net_of(paper).layer[:2]
    assert train.type == test.type == "AugmentedData"
    assert (train.augmented_data_param.source, test.augmented_data_param.source) == ("train_lmdb", "test_lmdb")
    assert train.augmented_data_param.pca_std and test.augmented_data_param.resize_short == 256
    refused = cli("attention56", "--phase", "deploy", "--augment", "paper")
    assert refused.returncode == 2 and "--augment has no meaning with --phase deploy" in refused.stderr
