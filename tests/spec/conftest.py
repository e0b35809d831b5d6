"""Nets as pycaffe sets them up, many in one child process."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("load_nets.py")


@pytest.fixture(scope="session")
def load_in_caffe(run_caffe_python, tmp_path_factory):
    """Load nets given as (text, phase) or (text, phase, folder, stages); see load_nets.py for what comes back."""

    def run(nets):
        folder = tmp_path_factory.mktemp("caffe_nets")
        jobs = [dict(net=text, phase=phase, folder=str(rest[0] if rest else folder),
                     stages=list(rest[1]) if len(rest) > 1 else []) for text, phase, *rest in nets]
        (folder / "jobs.json").write_text(json.dumps(jobs))
        run_caffe_python(SCRIPT, folder / "jobs.json", folder / "found.json")
        return json.loads((folder / "found.json").read_text())

    return run
