"""What the build of Caffe needs from the system, and the Debian packages that bring it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from prototxt_gen.core.errors import Error

# program -> Debian package
PROGRAMS = {"cmake": "cmake", "ninja": "ninja-build", "protoc": "protobuf-compiler"}
COMPILER_PACKAGE = "g++"
# Debian package -> a header of it, as it may be included
HEADERS = {
    "libboost-system-dev": ("boost/system/error_code.hpp",),
    "libboost-thread-dev": ("boost/thread.hpp",),
    "libboost-filesystem-dev": ("boost/filesystem.hpp",),
    "libboost-python-dev": ("boost/python.hpp",),
    "libprotobuf-dev": ("google/protobuf/message.h",),
    "libgoogle-glog-dev": ("glog/logging.h",),
    "libgflags-dev": ("gflags/gflags.h",),
    "libopenblas-dev": ("cblas.h", "openblas/cblas.h"),
    "libdnnl-dev": ("dnnl.hpp",),
    "liblmdb-dev": ("lmdb.h",),
    "libhdf5-dev": ("hdf5.h", "hdf5/serial/hdf5.h"),
    "libjpeg62-turbo-dev": ("jpeglib.h",),
    "libopencv-imgcodecs-dev": ("opencv4/opencv2/imgcodecs.hpp", "opencv2/imgcodecs.hpp"),
    "libopencv-highgui-dev": ("opencv4/opencv2/highgui/highgui_c.h", "opencv2/highgui/highgui_c.h"),
}
# What CMake calls a thing it did not find -> Debian package
CMAKE_NAMES = {
    "CMAKE_CXX_COMPILER": COMPILER_PACKAGE, "CMAKE_MAKE_PROGRAM": "ninja-build", "Protobuf": "libprotobuf-dev",
    "GLOG": "libgoogle-glog-dev", "GFLAGS": "libgflags-dev", "LMDB": "liblmdb-dev", "HDF5": "libhdf5-dev",
    "JPEG": "libjpeg62-turbo-dev",
    "CBLAS": "libopenblas-dev", "OPENBLAS": "libopenblas-dev", "DNNL": "libdnnl-dev", "OpenMP": COMPILER_PACKAGE,
    "OPENCV_INCLUDE": "libopencv-highgui-dev",
    "OPENCV_core": "libopencv-imgcodecs-dev", "OPENCV_imgproc": "libopencv-imgcodecs-dev",
    "OPENCV_imgcodecs": "libopencv-imgcodecs-dev", "boost_system": "libboost-system-dev",
    "boost_thread": "libboost-thread-dev", "boost_filesystem": "libboost-filesystem-dev",
    "boost_python": "libboost-python-dev", "BoostConfig": "libboost-python-dev",
}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BOOST_PYTHON = f"boost_python{sys.version_info.major}{sys.version_info.minor}"


def compiler() -> List[str]:
    """Return the C++ compiler as a command: ``$CXX``, else c++."""
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def debian_packages() -> List[str]:
    """Return the Debian packages that the build needs beside Python itself."""
    return sorted({COMPILER_PACKAGE, *PROGRAMS.values(), *HEADERS})


def check() -> None:
    """Raise Error naming everything that is missing, with one command that installs it."""
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if shutil.which(compiler()[0]) is None:
        # Without a compiler its headers cannot be asked for; naming them all is right on a machine that lacks it.
        raise _missing([f"a C++ compiler ('{compiler()[0]}')", *missing], debian_packages())
    for package in _missing_headers():
        missing.append(HEADERS[package][0])
        packages.append(package)
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append(f"Python.h of Python {PYTHON}")
        packages.append(f"python{PYTHON}-dev")
    if missing:
        raise _missing(missing, packages)
    _check_python()


def _missing(what: List[str], packages: List[str]) -> Error:
    return Error(f"the build of Caffe needs {', '.join(what)}", hint=install_hint(packages))


def install_hint(packages: List[str]) -> str:
    """Return the command that installs Debian packages."""
    return f"on Debian: apt-get install --no-install-recommends {' '.join(sorted(set(packages)))}"


def _missing_headers() -> List[str]:
    """Return the packages none of whose headers the compiler sees; one run of the preprocessor tells."""
    lines = []
    for package, headers in HEADERS.items():
        seen = " || ".join(f"__has_include(<{header}>)" for header in headers)
        lines += [f"#if !({seen})", f"missing {package}", "#endif"]
    command = [*compiler(), "-E", "-P", "-x", "c++", "-"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode != 0:
        raise Error(f"the C++ compiler does not run: {' '.join(command)}", hint=done.stderr.strip()[-400:])
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("missing ")]


def _check_python() -> None:
    """Raise Error unless this Python has a shared library and Boost has a Python library for exactly this version."""
    found = subprocess.run([*compiler(), f"-print-file-name=lib{BOOST_PYTHON}.so"], capture_output=True, text=True)
    if not os.path.isabs(found.stdout.strip()):
        others = sorted(path.name[3:-3] for path in _library_folder().glob("libboost_python3*.so"))
        hint = f"Boost has {', '.join(others)}: run prototxt-gen with that Python" if others else install_hint(
            ["libboost-python-dev"])
        raise Error(f"Boost has no library for Python {PYTHON}: lib{BOOST_PYTHON}.so is missing", sys.executable, hint)
    if libpython() is None:
        hint = f"on Debian: apt-get install python{PYTHON}-dev; elsewhere build Python with --enable-shared"
        raise Error(f"Python {PYTHON} has no shared library, which the caffe program links", sys.executable, hint)


def _library_folder() -> Path:
    """Return the folder that holds Boost's libraries."""
    found = subprocess.run([*compiler(), "-print-file-name=libboost_system.so"], capture_output=True, text=True)
    return Path(found.stdout.strip()).resolve().parent


def libpython() -> Optional[Path]:
    """Return the shared library of the running Python."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY")
    path = Path(folder or "", name or "")
    for candidate in (path, path.parent / (sysconfig.get_config_var("MULTIARCH") or "") / path.name):
        if candidate.suffix == ".so" and candidate.is_file():
            return candidate
    return None


def versions() -> Dict[str, str]:
    """Return the versions of what is compiled against: Debian packages, else what pkg-config knows."""
    packages = _debian_versions()
    if packages:
        return packages
    found = {}
    for name in ("protobuf", "libglog", "gflags", "openblas", "lmdb", "hdf5", "opencv4"):
        done = output(["pkg-config", "--modversion", name])
        if done:
            found[name] = done.strip()
    return found


def _debian_versions() -> Dict[str, str]:
    command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\\n", *HEADERS]
    rows: List[Tuple[str, ...]] = [tuple(line.split()) for line in output(command).splitlines()]
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}


def compiler_version() -> str:
    """Return the first line that the compiler says of itself."""
    return output([*compiler(), "--version"]).partition("\n")[0]


def output(command: List[str]) -> str:
    """Return what a command prints, whatever its exit status; nothing when it does not exist."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""


def package_for(log_text: str) -> Optional[str]:
    """Return the Debian package behind what CMake says it could not find."""
    errors = log_text[log_text.find("CMake Error"):] if "CMake Error" in log_text else ""
    return next((package for name, package in CMAKE_NAMES.items() if name in errors), None)
