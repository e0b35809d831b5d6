"""What the ends of failed trainings mean, in words: a table of what Caffe and the kernel say, and what to do then."""

from __future__ import annotations

import re
import signal
from typing import List, NamedTuple, Optional, Pattern, Sequence

from prototxt_gen.core.errors import did_you_mean

SMALLER = "use a smaller batch_size; --total-batch N --iter-size auto keeps the images of an update"
MEMORY_HINT = "the kernel kills a process when memory runs out: dmesg tells; a smaller batch_size needs less"


class Meaning(NamedTuple):
    """One row: a pattern in the log's last lines, what it means, what to do. ``{0}`` is the pattern's first group."""

    pattern: Pattern[str]
    means: str
    advice: str


def _row(pattern: str, means: str, advice: str) -> Meaning:
    return Meaning(re.compile(pattern), means, advice)


# The first row that fits counts: the particular ones stand before the general.
TABLE = (
    _row(r"cudaSuccess \(2 vs\. 0\)|CUDA_ERROR_OUT_OF_MEMORY|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
         "the GPU's memory ran out", f"{SMALLER}; nvidia-smi shows what else is on the GPU"),
    _row(r"std::bad_alloc|host allocation of size|Cannot allocate memory|cannot allocate memory",
         "the computer's memory ran out", SMALLER),
    _row(r"cudaSuccess \((?:35|100|38|999) vs\. 0\)|no CUDA-capable device|CUDA driver version is insufficient",
         "Caffe finds no GPU that it can use", "nvidia-smi tells whether the driver runs; --cpu trains without"),
    _row(r"cudaSuccess \((?:101|10) vs\. 0\)|invalid device ordinal",
         "there is no GPU of that number", "nvidia-smi -L lists them; numbers begin at 0"),
    _row(r"cudaSuccess \((?:209|8|98) vs\. 0\)|no kernel image is available",
         "this Caffe was not compiled for this kind of GPU",
         "prototxt-gen caffe build --cuda --arch N compiles for compute capability N"),
    _row(r"cudaSuccess \((?:700|77|719|4) vs\. 0\)|illegal memory access",
         "a computation on the GPU went wrong; labels outside the classifier's range do this",
         "check the labels and num_output; run once with CUDA_LAUNCH_BLOCKING=1"),
    _row(r"ncclSuccess", "the GPUs could not talk to one another", "NCCL_DEBUG=INFO makes NCCL tell why"),
    _row(r"Multi-GPU execution not available", "this Caffe was built without NCCL",
         "train on one GPU: --gpu 0; prototxt-gen caffe build --cuda --nccl builds one with it"),
    _row(r"mdb_status == 0 \(-3079[0-9] vs\. 0\) (.*)",
         "an LMDB is damaged or of another machine: {0}", "write it anew: prototxt-gen data"),
    _row(r"mdb_status == 0 \(2 vs\. 0\)", "an LMDB that the net reads is not there",
         "look at 'source' in its data layers: paths are taken from the current folder"),
    _row(r"mdb_status == 0 \(13 vs\. 0\)", "an LMDB that the net reads may not be read",
         "its folder must be writable, too, for lock.mdb"),
    _row(r"mdb_status == 0 \(11 vs\. 0\)", "LMDB has no room for another reader", "end other programs that read it"),
    _row(r"mdb_status == 0 \(\d+ vs\. 0\) (.*)", "an LMDB cannot be read: {0}", "prototxt-gen data writes one"),
    _row(r"Unknown layer type: (\S+)", "this Caffe has no layer of the type {0}",
         "check its spelling; prototxt-gen caffe build builds a Caffe with BN and Interp"),
    _row(r"Unknown bottom blob '([^']*)'", "a layer reads blob '{0}', which no layer before it makes",
         "prototxt-gen lint shows which name was meant"),
    _row(r"Cannot copy param (\d+ weights from layer '[^']*'); shape mismatch",
         "the weights are of another shape than this net's: parameter {0}",
         "give the layer another name to learn it anew, as one does for another number of classes"),
    _row(r"Incompatible number of blobs for layer (\S+)", "the weights of layer {0} are of another kind of layer",
         "prototxt-gen convert --pass split-bn or merge-bn turns one kind of normalisation into the other"),
    _row(r"Incorrect length of history blobs", "the snapshot was written by another type of solver, or for another net",
         "--weights starts anew from its caffemodel"),
    _row(r"SerializeToOstream|hdf5|HDF5|H5Fcreate|Couldn't open .* to save",
         "a snapshot could not be written", "the disk may be full, or the folder of the snapshots gone; then --resume"),
    _row(r"Cannot write to snapshot prefix", "the folder of the snapshots is not there or not writable",
         "choose another snapshot_prefix"),
    _row(r"Could not open or find file (\S+)", "an image of the list is not there or is none: {0}",
         "paths in the list are taken after root_folder"),
    _row(r"Could not decode datum", "a record of an LMDB holds no image that can be decoded", "write the LMDB anew"),
    _row(r"datum_(height|width) >= crop_size|Check failed: \w*crop", "an image is smaller than crop_size",
         "write a smaller crop_size, or larger images: prototxt-gen data folder --resize"),
    _row(r"datum_channels == channels|datum_height [<>=]+ height|datum_width [<>=]+ width",
         "the images of an LMDB are not all of one size", "write crop_size, or all images of one size: --size WxH"),
    _row(r"data_mean_|mean_values", "the mean does not fit the images", "give one mean_value, or one for each channel"),
    _row(r"label_value|outer_num_ \* inner_num_ == bottom\[1\]->count",
         "labels and predictions do not fit one another", "labels are one number for each image, from 0 on"),
    _row(r"Error parsing text-format caffe\.(\w+): (.*)", "a prototxt does not parse as {0}",
         "prototxt-gen lint shows the place; this Caffe's schema may lack a field"),
    _row(r"bottom\[[0i]\]->shape\(\) == bottom\[[0i]\]->shape\(\)|top_shape\[j\] == bottom\[i\]->shape\(j\)",
         "a layer joins blobs of different shapes", "prototxt-gen summary shows the shapes"),
    _row(r"error while loading shared libraries: (\S+)", "a library is missing or has another version: {0}",
         "prototxt-gen caffe build builds Caffe for the libraries that are there"),
    _row(r"ModuleNotFoundError: No module named '([^']*)'", "pycaffe needs a Python package: {0}",
         "pip install '.[pycaffe]'"),
)

SIGNALS = {
    signal.SIGKILL: ("", MEMORY_HINT),
    signal.SIGBUS: ("a file ended under Caffe's hands: an LMDB was cut off while it was read, or a disk is full",
                    "prototxt-gen data check names the damaged LMDB; write it anew"),
    signal.SIGSEGV: ("Caffe reached outside its memory; labels outside the classifier's range do this",
                     "check the labels and the classifier's num_output"),
    signal.SIGFPE: ("Caffe divided by zero", "look for a size or an interval of 0 in solver and net"),
    signal.SIGILL: ("this Caffe was compiled for another processor", "prototxt-gen caffe build builds one for this"),
}


def meaning(lines: Sequence[str], status: int, layer_types: Sequence[str] = ()) -> Optional[Meaning]:
    """Return what the end of a training means, from the lines of its failed check, its last lines and its status.

    ``layer_types`` are those that this Caffe has, to name the nearest. None when nothing is known.
    """
    for row in TABLE:
        for line in lines:
            match = row.pattern.search(line)
            if match:
                group = match.group(1).strip().rstrip(".") if match.groups() and match.group(1) else ""
                advice = row.advice
                if "Unknown layer type" in match.group(0):
                    advice = did_you_mean(group, layer_types, advice)
                return Meaning(row.pattern, row.means.format(group), advice)
    if -status in SIGNALS:
        return Meaning(re.compile(""), *SIGNALS[signal.Signals(-status)])
    return None


def first_and_meaning(text: List[str], found: Optional[Meaning]) -> List[str]:
    """Return the lines of a message with what they mean set in after the first."""
    return [text[0], *([f"that is: {found.means}"] if found and found.means else []), *text[1:]]
