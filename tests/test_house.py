"""The floors hold: a module imports its own floor and the floors below, and heavy packages only where they are used."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "prototxt_gen"
FLOORS = {"core": 0, "spec": 1, "nets": 2, "passes": 3, "check": 4, "export": 4, "train": 4, "cli": 5}
HEAVY = {"caffe", "torch", "onnx", "onnxruntime", "cv2", "h5py", "matplotlib", "numpy", "lmdb", "PIL", "jinja2"}


def imports(path):
    """Yield (imported module, stands at the top level, is relative) for each import of a file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            yield name, node in tree.body, isinstance(node, ast.ImportFrom) and node.level > 0


def test_every_module_keeps_to_its_floor():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        for name, at_top, relative in imports(path):
            if relative:
                wrong.append(f"{path}: relative import of {name}")
            if at_top and name.split(".")[0] in HEAVY:
                wrong.append(f"{path}: {name} at the top level")
            other = name.split(".")[1] if name.startswith("prototxt_gen.") else None
            if room in FLOORS and other in FLOORS:
                above = FLOORS[other] > FLOORS[room]
                next_door = FLOORS[other] == FLOORS[room] and other != room
                if above or next_door:
                    wrong.append(f"{path}: {room} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_command_line_prints_or_exits():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("cli", "__main__.py"):
            continue
        called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {one.id for one in called if isinstance(one, ast.Name)}
        assert not names & {"print", "exit", "quit", "input"}, path
