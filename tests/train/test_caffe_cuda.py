"""What a build with CUDA needs and what is said where it is missing, its key, and which of several builds is used.

nvcc is a stand-in here, and a toolkit's files are empty; tools/check-cuda makes the real build.
"""

import json
import os
from dataclasses import replace

import pytest

from prototxt_gen.cli.caffe import _lines as lines
from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe, caffe_cuda, gpus
from prototxt_gen.train import caffe_build as builder
from prototxt_gen.train.caffe_cuda import CudaOptions

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {release}, V{release}.88";;
--list-gpu-arch) printf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_100\\n';;
--dryrun) echo '#$ TOP={top}' >&2;;
esac
"""


def install(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Make a stand-in for nvcc the only one, of a toolkit with no libraries; return the toolkit's folder."""
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(caffe_cuda, "DEFAULT_NVCC", "/nowhere/nvcc")
    monkeypatch.setattr(caffe_cuda, "_package_folders", lambda: [])
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho libnone.so\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    def make(release="13.0"):
        # As a script elsewhere on PATH, which knows where the toolkit is.
        program = tmp_path / "bin/nvcc"
        program.parent.mkdir(exist_ok=True)
        program.write_text(NVCC.format(release=release, top=tmp_path / "toolkit/bin/.."))
        program.chmod(0o755)
        (tmp_path / "toolkit/bin").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        return tmp_path / "toolkit"

    return make


SOLVER = 'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 9\n'
CUBLAS = ("include/cublas_v2.h", "lib64/libcublas.so", "lib64/libcublasLt.so")
CURAND = ("include/curand.h", "lib64/libcurand.so")


def refusal(options=CudaOptions()):
    with pytest.raises(Error) as caught:
        caffe_cuda.find(options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_without_nvcc(toolkit, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs nvcc" in refusal() and "/nowhere/nvcc" in refusal() and "nvidia-cuda-toolkit" in refusal()
    monkeypatch.setenv("CUDACXX", "/opt/nvcc")
    assert "CUDACXX names no program: '/opt/nvcc'" in refusal()


@pytest.mark.parametrize("release, wheels", [
    ("13.0", "nvidia-cublas nvidia-curand nvidia-nccl-cu13 nvidia-cudnn-cu13"),
    ("12.4", "nvidia-cublas-cu12 nvidia-curand-cu12 nvidia-nccl-cu12 nvidia-cudnn-cu12"),
])
def test_all_that_is_missing_is_named_with_what_installs_it(toolkit, release, wheels):
    toolkit(release)
    said = refusal(CudaOptions(nccl=True, cudnn=True))
    assert "needs cuBLAS, cuRAND, NCCL, cuDNN" in said and said.endswith(f"pip install {wheels}")


def test_only_what_is_asked_for_and_missing_is_named(toolkit):
    install(toolkit(), CURAND)
    assert "needs cuBLAS: " in refusal()
    install(toolkit(), CUBLAS)
    caffe_cuda.find(CudaOptions())
    assert "needs NCCL: " in refusal(CudaOptions(nccl=True))


def test_a_library_without_its_header_does_not_count(toolkit):
    install(toolkit(), [*CUBLAS, *CURAND[1:]])
    assert "needs cuRAND: " in refusal()


def test_old_toolkits_and_unknown_architectures(toolkit):
    toolkit("10.2")
    assert "nvcc 10.2.88 is too old" in refusal()
    toolkit()
    said = refusal(CudaOptions((90, 60, 75)))
    assert "does not compile for 60" in said and "75, 80, 90, 100" in said


def test_the_toolkit_comes_before_wheels_and_wheels_give_what_it_lacks(toolkit, monkeypatch, tmp_path):
    install(toolkit(), CUBLAS)
    packages = tmp_path / "site-packages"
    install(packages, ["nvidia/cu13/include/curand.h", "nvidia/cu13/lib/libcurand.so.10",
                       "nvidia/cu13/include/cublas_v2.h", "nvidia/cu13/lib/libcublas.so.13",
                       "nvidia/cu13/lib/libcublasLt.so.13", "nvidia/nccl/include/nccl.h",
                       "nvidia/nccl/lib/libnccl.so.2", "nvidia/curand/lib/libcurand.so.10",
                       "nvidia/curand/include/curand.h"])
    monkeypatch.setattr(caffe_cuda, "_package_folders", lambda: [tmp_path / "empty", packages])
    found = caffe_cuda.find(CudaOptions(nccl=True))
    root, wheels = tmp_path / "toolkit", packages / "nvidia"
    assert found.version == "13.0.88" and found.nvcc == str(tmp_path / "bin/nvcc")
    assert found.libraries == tuple(map(str, (
        root / "lib64/libcublas.so", root / "lib64/libcublasLt.so", wheels / "cu13/lib/libcurand.so.10",
        wheels / "nccl/lib/libnccl.so.2")))
    assert found.includes == tuple(map(str, (root / "include", wheels / "cu13/include", wheels / "nccl/include")))


def test_wheels_of_another_cuda_are_not_taken(toolkit, monkeypatch, tmp_path):
    install(toolkit(), CURAND)
    install(tmp_path, ["nvidia/cublas/include/cublas_v2.h", "nvidia/cublas/lib/libcublas.so.12",
                       "nvidia/cublas/lib/libcublasLt.so.12"])
    monkeypatch.setattr(caffe_cuda, "_package_folders", lambda: [tmp_path])
    assert "needs cuBLAS: headers and libraries of CUDA 13" in refusal()


# ---- The build and its key -----------------------------------------------------------------------------------------


def test_the_key_follows_the_toolkit_and_every_option(toolkit):
    root = toolkit()
    install(root, [*CUBLAS, *CURAND, "include/nccl.h", "lib64/libnccl.so"])
    options = [None, CudaOptions(), CudaOptions((80,)), CudaOptions((75, 80)), CudaOptions(nccl=True)]
    keys = [builder.key_of(builder.ingredients(one)) for one in options]
    toolkit("13.1")
    keys.append(builder.key_of(builder.ingredients(CudaOptions())))
    assert len(set(keys)) == len(keys)
    same = CudaOptions((80, 75, 80))
    assert builder.key_of(builder.ingredients(CudaOptions((75, 80)))) == builder.key_of(
        builder.ingredients(same))


def test_the_key_of_a_build_for_the_cpu_leaves_kernels_out(toolkit, tmp_path, monkeypatch):
    install(toolkit(), [*CUBLAS, *CURAND])
    native = tmp_path / "native"
    install(native, ["CMakeLists.txt", "layers/a.cpp", "layers/a.cu", "cuda/a.hpp"])
    monkeypatch.setattr(builder.caffe_source, "NATIVE_DIR", native)

    def both():
        return [builder.ingredients(one)["native"] for one in (None, CudaOptions())]

    seen = [both()]
    for name in ("layers/a.cu", "cuda/a.hpp"):
        (native / name).write_text("changed")
        seen.append(both())
    assert len({cpu for cpu, _ in seen}) == 1 and len({cuda for _, cuda in seen}) == 3


def test_cmake_is_told_to_compile_for_each_architecture_and_portably_for_the_highest(toolkit):
    install(toolkit(), [*CUBLAS, *CURAND])
    options = CudaOptions((90, 75, 80))
    told = caffe_cuda.settings(options, caffe_cuda.find(options))
    assert told["CMAKE_CUDA_ARCHITECTURES"] == "75-real;80-real;90"
    assert (told["CPU_ONLY"], told["USE_NCCL"], told["USE_CUDNN"]) == ("OFF", "OFF", "OFF")
    assert caffe_cuda.settings(CudaOptions(), caffe_cuda.find(options))["CMAKE_CUDA_ARCHITECTURES"] == "75"


# ---- Which build is used -------------------------------------------------------------------------------------------


@pytest.fixture
def cache(caffe_build, tmp_path, monkeypatch):
    """An empty cache; cache(name, options) puts a build there that is the real one with a record of other options."""
    monkeypatch.delenv("CAFFE_ROOT", raising=False)
    monkeypatch.setenv("PROTOTXT_GEN_CACHE", str(tmp_path / "cache"))
    made = []

    def put(cuda, **changed):
        options = {"cuda": "13.0.88", "archs": [75, 90]} if cuda else {"cuda": False}
        parts = {**builder._common(bool(cuda)), "options": options, **changed}
        root = builder.cache_dir() / (f"with-{cuda}" if cuda else builder.key_of(parts))
        root.mkdir(parents=True)
        for name in ("bin", "python", "lib"):
            (root / name).symlink_to(caffe_build.root / name)
        (root / "build.json").write_text(json.dumps(parts))
        made.append(root)
        os.utime(root / "build.json", (len(made), len(made)))
        return root

    return put


def test_a_gpu_is_used_with_the_newest_build_with_cuda_and_all_else_with_the_one_for_the_cpu(cache):
    cache("one")
    for_cpu, two = cache(None), cache("two")
    assert caffe.find().root == for_cpu and caffe.find(gpu=True).root == two


def test_the_only_build_there_is_used(cache):
    with_cuda = cache("one")
    assert caffe.find().root == caffe.find(gpu=True).root == with_cuda


def test_without_cuda_the_build_for_the_cpu_is_used_and_refuses(cache):
    for_cpu = cache(None)
    found = caffe.find(gpu=True)
    assert found.root == for_cpu
    with pytest.raises(Error) as caught:
        gpus.check_built(found, "0")
    assert "built for the CPU only" in caught.value.what and "caffe build --cuda" in caught.value.hint


def test_a_stale_build_with_cuda_is_not_used(cache):
    stale = cache("one", native="older")
    with pytest.raises(caffe.NoCaffe) as caught:
        caffe.find(gpu=True)
    assert f"{stale} is stale" in caught.value.what


# ---- Before a GPU is used ------------------------------------------------------------------------------------------


def test_a_gpu_that_caffe_cannot_use_is_an_error_before_the_start(caffe_build):
    """The program really is asked; this one knows no GPU at all."""
    with pytest.raises(Error) as caught:
        gpus.check_usable(replace(caffe_build, cuda=True), "0")
    assert caught.value.exit_code == 2 and "GPU 0 cannot be used: " in caught.value.what
    assert "Cannot use GPU in CPU-only Caffe" in caught.value.what


@pytest.mark.parametrize("mode, options, wanted", [
    ("GPU", {}, True), ("CPU", {}, False), (None, {}, False), ("GPU", {"cpu": True}, False),
    ("CPU", {"gpu": "0"}, True), ("CPU", {"settings": {"solver_mode": "GPU"}}, True),
])
def test_what_a_training_wants(tmp_path, mode, options, wanted):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER + (f"solver_mode: {mode}\n" if mode else ""))
    given = {"settings": {}, "cpu": False, "gpu": None, **options}
    assert gpus.wanted(str(solver), None, **given) is wanted


def test_what_a_training_wants_is_left_open_where_the_solver_cannot_be_read(tmp_path):
    assert gpus.wanted(str(tmp_path / "none"), None, {}, cpu=False, gpu=None) is False
    assert gpus.wanted(None, None, {}, cpu=False, gpu=None) is False


# ---- The command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, said", [
    (["--nccl"], "--nccl wants --cuda"),
    (["--arch", "75"], "--arch wants --cuda"),
    (["--cuda", "--arch", "7.5"], "--arch 7.5 names no compute capabilities"),
    (["--cuda"], "CUDACXX names no program: '/nowhere/nvcc'"),
])
def test_build_refuses(cli, arguments, said, tmp_path):
    environment = {"CUDACXX": "/nowhere/nvcc", "PROTOTXT_GEN_CACHE": str(tmp_path)}
    done = cli("caffe", "build", *arguments, environment=environment)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_info_tells_what_a_build_with_cuda_was_built_for(caffe_build):
    rows = dict(line.split(None, 1) for line in lines(replace(caffe_build, cuda=True, nccl=True, toolkit="13.0.88",
                                                               archs=(75, 90))))
    assert rows["CUDA"] == "13.0.88; compute capability 75, 90; with NCCL"
    rows = dict(line.split(None, 1) for line in lines(caffe_build))
    assert rows["CUDA"] == "no"
