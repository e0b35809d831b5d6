"""``generated/`` is what the tool writes today, byte for byte, and its check sees a stale file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prototxt_gen.nets.configs import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
FORMS = {
    "train": [],
    "deploy": ["--phase", "deploy"],
    "deploy_320": ["--phase", "deploy", "--input-size", "320"],
    "published": ["--published"],
}


def regenerate(root, *arguments):
    return subprocess.run([sys.executable, str(root / "tools/regenerate.py"), *arguments], capture_output=True, text=True)


def test_derived_files_are_current():
    result = regenerate(ROOT, "--check")
    assert (result.returncode, result.stdout) == (0, ""), result.stdout[:2000]
    assert " 0 out of date" in result.stderr


def test_stale_missing_and_stray_files_are_found_and_mended(tmp_path):
    # The copy shadows the installed package, so that the check reads the copy's generated/ and schema.
    for part in ("tools", "generated"):
        shutil.copytree(ROOT / part, tmp_path / part)
    net = tmp_path / "generated/attention56/train.prototxt"
    net.write_text(net.read_text().replace("num_output: 1000", "num_output: 999"))
    (tmp_path / "generated/attention92/deploy.prototxt").unlink()
    (tmp_path / "generated/stray.prototxt").write_text("name: \"stray\"\n")
    result = regenerate(tmp_path, "--check")
    assert result.returncode == 1 and " 3 out of date" in result.stderr
    assert "-    num_output: 999\n+    num_output: 1000\n" in result.stdout
    assert "stray.prototxt" in result.stdout and "generated/attention92/deploy.prototxt" in result.stdout
    assert regenerate(tmp_path).returncode == 0
    assert regenerate(tmp_path, "--check").returncode == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_command_writes_the_golden_files(name, cli):
    golden = {path.stem: path.read_text() for path in (ROOT / "generated" / name).iterdir()}
    for form, arguments in FORMS.items():
        if form in golden:
            assert cli(name, *arguments).stdout == golden[form]
    assert cli("solver", name).stdout == golden["solver"]
    if "solver_smoke" in golden:
        assert cli("solver", name, "--preset", "smoke").stdout == golden["solver_smoke"]
