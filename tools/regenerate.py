#!/usr/bin/env python3
"""Write what is derived from the sources: the compiled schema, and every generated net and solver.

    tools/regenerate.py           write them
    tools/regenerate.py --check   write nothing; show what is out of date and exit with 1 if anything is
"""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

import click
from google.protobuf import descriptor_pb2

from prototxt_gen.core.dialects import DESCRIPTOR_FILE, PROTO_FILE
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import write_text
from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, TRAIN, build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.train.solver import NetFacts, default_preset, render_solver

GENERATED = Path(__file__).resolve().parent.parent / "generated"


def compiled_schema() -> bytes:
    """Return the descriptor set that protoc makes of the schema."""
    if shutil.which("protoc") is None:
        raise Error("protoc is not installed", hint="apt-get install protobuf-compiler")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "caffe.desc"
        subprocess.run(
            ["protoc", f"--proto_path={PROTO_FILE.parent}", f"--descriptor_set_out={out}", PROTO_FILE.name], check=True
        )
        return out.read_bytes()


def generated_texts() -> Dict[str, str]:
    """Return every net in every form, and the solvers, by file name below ``generated/``."""
    texts = {}
    for name, config in NETWORKS.items():
        texts[f"{name}/train.prototxt"] = build(config, TRAIN).dumps()
        texts[f"{name}/deploy.prototxt"] = build(config, DEPLOY).dumps()
        if config.published_name:
            texts[f"{name}/published.prototxt"] = build(config, PUBLISHED).dumps()
            texts[f"{name}/deploy_320.prototxt"] = build(config, DEPLOY, input_size=320).dumps()
        facts = NetFacts(config.name, config.batch_size, config.test_batch_size)
        presets = {"solver": default_preset(config.name)}
        if presets["solver"] == "cifar":
            presets["solver_smoke"] = "smoke"
        for stem, preset in presets.items():
            text = render_solver(facts, preset, net="train.prototxt", snapshot_prefix=f"snapshots/{name}")
            texts[f"{name}/{stem}.prototxt"] = text
    return texts


def stale_schema(compiled: bytes) -> bool:
    """True when the stored schema says anything else; protoc's versions may order their bytes differently."""
    if not DESCRIPTOR_FILE.exists():
        return True
    parse = descriptor_pb2.FileDescriptorSet.FromString
    return parse(DESCRIPTOR_FILE.read_bytes()) != parse(compiled)


def out_of_date(texts: Dict[str, str]) -> List[str]:
    """Return a unified diff for every generated file that is not current, missing or not ours."""
    present = {str(path.relative_to(GENERATED)): path for path in GENERATED.rglob("*") if path.is_file()}
    diffs = []
    for name in sorted({*texts, *present}):
        old = present[name].read_text() if name in present else ""
        lines = difflib.unified_diff(
            old.splitlines(True), texts.get(name, "").splitlines(True), f"generated/{name}", "as generated today"
        )
        diffs += ["".join(lines)] if old != texts.get(name, "") else []
    return diffs


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything is out of date.")
def main(check: bool) -> None:
    schema, texts = compiled_schema(), generated_texts()
    if check:
        diffs = out_of_date(texts)
        if stale_schema(schema):
            diffs.append(f"{DESCRIPTOR_FILE.name} is not what protoc makes of {PROTO_FILE.name}\n")
        click.echo("".join(diffs), nl=False)
        click.echo(f"{len(texts) + 1} derived files, {len(diffs)} out of date", err=True)
        sys.exit(1 if diffs else 0)
    if stale_schema(schema):
        DESCRIPTOR_FILE.write_bytes(schema)
    shutil.rmtree(GENERATED, ignore_errors=True)
    for name, text in texts.items():
        (GENERATED / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(str(GENERATED / name), text)


if __name__ == "__main__":
    main()
