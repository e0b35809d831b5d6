"""``prototxt-gen lint`` and ``explain``: formats, exit codes, what is read, what goes where."""

import json
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from prototxt_gen.check.lint import registry

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CASES = REPOSITORY / "tests" / "check" / "lint"
BAD = """\
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layer {
  name: "pool, 100%"
  type: "Poolin"
  bottom: "date"
  top: "pool"
}
"""


def test_a_clean_network_by_name(cli):
    done = cli("lint", "attention56")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 errors, 0 warnings in 1 file\n")


def test_text_names_file_line_rule_and_hint(cli, tmp_path):
    (tmp_path / "net.prototxt").write_text(BAD)
    done = cli("lint", "net.prototxt", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "net.prototxt:4: error PG106: layer 'pool, 100%' has the type 'Poolin', which dialect attention lacks",
        "  hint: did you mean 'Pooling'?",
        "net.prototxt:5: error PG101: layer 'pool, 100%' (Poolin) reads blob 'date', which no layer before it makes",
        "  hint: did you mean 'data'?",
    ]
    assert done.stderr == "2 errors, 0 warnings in 1 file\n"


def test_standard_input_and_json(cli):
    done = cli("lint", "-", "--format", "json", stdin=BAD)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and [one["rule"] for one in found] == ["PG106", "PG101"]
    assert found[1] == dict(file="<stdin>", line=5, column=3, rule="PG101", severity="error", layer="pool, 100%",
                            message="layer 'pool, 100%' (Poolin) reads blob 'date', which no layer before it makes",
                            hint="did you mean 'data'?")
    assert done.stdout == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert json.loads(cli("lint", "attention56-cifar", "--format", "json").stdout) == []


def test_github_annotations_are_escaped(cli, tmp_path):
    (tmp_path / "a,b.prototxt").write_text(BAD)
    done = cli("lint", "a,b.prototxt", "--format", "github", cwd=tmp_path)
    assert done.stdout.splitlines()[1] == (
        "::error file=a%2Cb.prototxt,line=5,col=3,title=PG101::layer 'pool, 100%25' (Poolin) reads blob 'date', "
        "which no layer before it makes%0Ahint: did you mean 'data'?")


def test_rules_are_selected_and_ignored(cli):
    for arguments, rules in ((["--select", "PG101"], ["PG101"]), (["--ignore", "PG101"], ["PG106"]),
                             (["--select", "PG1", "--ignore", "unknown-type,PG2"], ["PG101"]),
                             (["--select", "PG3"], [])):
        done = cli("lint", "-", "--format", "json", *arguments, stdin=BAD)
        assert [one["rule"] for one in json.loads(done.stdout)] == rules
        assert done.returncode == (1 if rules else 0)


def test_a_solver_is_known_by_its_fields_and_its_net_is_linted_too(cli, tmp_path):
    (tmp_path / "net.prototxt").write_text(BAD)
    (tmp_path / "anything.txt").write_text('net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixd"\n')
    for prefix, folder in (("", tmp_path), (f"{tmp_path}/", "/")):
        done = cli("lint", f"{prefix}anything.txt", "--select", "PG101,PG401,PG406", cwd=folder)
        assert [line.split(": ")[:2] for line in done.stdout.splitlines()[::2]] == [
            [f"{prefix}anything.txt:3", "error PG406"], [f"{prefix}net.prototxt:5", "error PG101"]]


def test_images_an_update_are_a_note_that_does_not_count(cli):
    solver = "generated/attention92-cifar/solver.prototxt"
    done = cli("lint", solver, "--gpus", "4", "--ignore", "PG402", cwd=REPOSITORY)
    assert done.returncode == 0 and done.stderr == "0 errors, 0 warnings in 1 file\n"
    assert done.stdout == f"{solver}:8: note PG410: 64 images x iter_size 1 x 4 GPUs = 256 images an update\n"


def test_several_files_are_sorted_and_counted(cli):
    paths = [CASES / name / "bad.prototxt" for name in ("PG202", "PG105", "PG105")]
    done = cli("lint", *paths)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    named = [re.match(r"(.*?):(\d+): ", line).groups() for line in lines]
    assert named == sorted(named, key=lambda one: (one[0], int(one[1])))
    assert {Path(file).parent.name for file, _ in named} == {"PG105", "PG202"}
    assert done.stderr.endswith("in 2 files\n")


def test_phase_and_dialect(cli):
    frozen = CASES / "PG301" / "bad.prototxt"
    assert cli("lint", frozen, "--phase", "test").returncode == 0
    assert cli("lint", frozen, "--phase", "train").returncode == 1
    done = cli("lint", frozen, "--phase", "test", "--dialect", "bvlc")
    assert done.returncode == 1 and "'BN', which dialect bvlc lacks" in done.stdout


@pytest.mark.parametrize("arguments, complaint", [
    (["atention56"], "did you mean 'attention56'?"),
    (["missing.prototxt"], "there is no network and no file 'missing.prototxt'"),
    (["attention56", "--select", "PG999"], "no lint rule is called 'PG999'"),
    (["attention56", "--dialect", "bvcl"], "did you mean 'bvlc'?"),
    ([], "Missing argument"),
])
def test_no_answer_is_exit_code_2(cli, arguments, complaint):
    done = cli("lint", *arguments)
    assert (done.returncode, done.stdout) == (2, "") and complaint in done.stderr


def test_a_file_that_is_no_prototxt_is_exit_code_2(cli, tmp_path):
    (tmp_path / "x").write_text("layer {\n  nmae: 'a'\n}")
    (tmp_path / "y").write_bytes(b"\xff\xfe")
    done = cli("lint", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: x:2:3: ")
    assert cli("lint", "y", cwd=tmp_path).returncode == 2


def test_explain_prints_the_row_in_80_columns(cli):
    for rule in registry.rules():
        done = cli("explain", rule.id) if rule.id in ("PG101", "PG410") else cli("explain", rule.name)
        text = " ".join(done.stdout.split())
        assert done.returncode == 0 and text.startswith(f"{rule.id} {rule.name} ({rule.severity}) Checks ")
        for part in (rule.checks, rule.why, rule.mend, rule.bad, rule.good):
            assert " ".join(part.split()) in text
        assert max(map(len, done.stdout.splitlines())) <= 90


def test_explain_lists_all_rules_and_names_the_nearest(cli):
    assert [line.split()[0] for line in cli("explain").stdout.splitlines()] == [rule.id for rule in registry.rules()]
    assert [one["id"] for one in json.loads(cli("explain", "pg101", "--json").stdout)] == ["PG101"]
    done = cli("explain", "frozen-bm")
    assert done.returncode == 2 and "did you mean 'frozen-bn'?" in done.stderr


def test_attention92_is_linted_within_half_a_second_of_cpu_cold(cli_path):
    path = REPOSITORY / "generated" / "attention92" / "train.prototxt"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([cli_path, "lint", str(path)], check=True, capture_output=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) <= 0.5, seconds
