"""Devices and memory: what the model runs on, what it needs, and whether it fits."""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from urlm_helpers.data.arrays import GIB, available_memory

FLOAT_BYTES = 4
XLA = True
"""Whether XLA compiles the steps of training. Tests of something else do without."""
_KEEP = {-8: 1, -4: 0, -1: -1, -2: 2**26}
"""Options of glibc's ``mallopt``: ARENA_MAX, MMAP_MAX, TRIM (-1 is "never") and PAD."""


def device_report() -> str:
    """Say what the model will run on.

    Returns
    -------
    str
        Backend and version, devices, floating-point precision.
    """
    backend = keras.backend.backend()
    devices = keras.distribution.list_devices()
    kind = "GPU" if any(d.startswith(("gpu", "cuda")) for d in devices) else "CPU"
    return (
        f"Keras {keras.__version__} on {backend}, {len(devices)} {kind} "
        f"device{'s' * (len(devices) > 1)} ({', '.join(devices)}), "
        f"{keras.mixed_precision.dtype_policy().name}"
    )


@dataclass(frozen=True)
class Choice:
    """How to train on the devices that there are.

    Parameters
    ----------
    devices : tuple of str
        Names of the devices in use.
    precision : str
        A Keras dtype policy.
    compiled : bool
        Whether XLA compiles the step.
    strategy : object
        A ``tf.distribute.Strategy`` whose ``scope()`` the model is made in.
    why : str
        The reasons, for a reader.
    """

    devices: tuple[str, ...]
    precision: str
    compiled: bool
    strategy: Any
    why: str


def choose_devices(devices: list[str] | None = None) -> Choice:
    """Choose devices, precision and compiler; make the model in ``strategy.scope()``.

    One device: no strategy, and XLA. Several: ``tf.distribute.MirroredStrategy``, one
    copy of the weights on each and the gradients added up between them, without XLA,
    which cannot compile a step that waits for another device. Half precision is
    for GPUs with units for it (compute capability 7.0 and later): a CPU computes
    bfloat16 by converting to float32 and back.

    Parameters
    ----------
    devices : list of str, optional
        Such as ``["CPU:0", "CPU:1"]``; by default all GPUs, or else the CPU.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If a device is asked for that is not there.
    RuntimeError
        If the backend is not TensorFlow, whose strategies these are.

    Examples
    --------
    >>> choose_devices().compiled
    True
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "choose_devices is for the TensorFlow backend; on "
            f"{keras.backend.backend()} see keras.distribution"
        )
    import tensorflow as tf

    there = {
        d.name.removeprefix("/device:"): d
        for d in tf.config.list_logical_devices()
        if d.device_type in ("CPU", "GPU")
    }
    gpus = [name for name in there if name.startswith("GPU")]
    chosen = devices or gpus or ["CPU:0"]
    if missing := sorted(set(chosen) - set(there)):
        raise ValueError(f"no device {missing}; there are {sorted(there)}")
    halves = all(
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0,))
        >= (7, 0)
        for gpu in tf.config.list_physical_devices("GPU")
    )
    precision = "mixed_float16" if set(chosen) <= set(gpus) and halves else "float32"
    several = len(chosen) > 1
    strategy = (
        tf.distribute.MirroredStrategy(chosen)
        if several
        else tf.distribute.get_strategy()
    )
    why = (
        f"{len(chosen)} x {chosen[0].split(':')[0]}; {precision}"
        f"{'' if precision == 'float32' else ', the products in half precision'}; "
        + ("a copy on each device, no XLA" if several else "XLA compiles the step")
    )
    return Choice(tuple(chosen), precision, not several, strategy, why)


def compiling(steps: int, several: bool = False) -> dict[str, Any]:
    """Return what ``compile`` needs for so many steps a call, joined by XLA.

    PyTorch has neither; on several devices XLA can't compile a step, which waits for
    the others.
    """
    if keras.backend.backend() == "torch":
        return {"steps_per_execution": 1, "jit_compile": "auto"}
    compiled = XLA and not several
    return {"steps_per_execution": 1 if several else steps, "jit_compile": compiled}


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for the next step.

    A step allocates some tens of megabytes for what its layers return, and frees them.
    By default glibc hands blocks of that size back to the kernel each time, which
    fills the next ones with zeros, page by page; on a CPU this took up to
    half of a step. From this call on they come from one heap that only grows.

    Returns
    -------
    bool
        Whether the C library has such options: glibc on Linux does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all([mallopt(option, value) == 1 for option, value in _KEEP.items()])


def training_memory(
    table_rows: int,
    dim: int,
    *,
    dense_parameters: int = 0,
    row_wise: bool = True,
    batch_bytes: int = 0,
) -> pd.DataFrame:
    """Predict what training takes, before anything is allocated.

    Parameters
    ----------
    table_rows : int
        Rows of all tables, the sum of the vocabulary sizes.
    dim : int
        Length of a vector.
    dense_parameters : int
        Weights that are not in a table.
    row_wise : bool
        With :class:`~urlm_helpers.training.RowAdam`, which keeps one integer
        per row and needs no gradient as large as the table.
    batch_bytes : int
        Inputs of one batch and what the layers make of it, forward and backward.

    Returns
    -------
    DataFrame
        One row per part, ``GiB``; the last is the sum.

    Examples
    --------
    >>> parts = training_memory(10_000_000, 32)
    >>> parts.round(2).set_index("part")["GiB"].to_dict()["weights"]
    1.19
    """
    table, dense = table_rows * dim * FLOAT_BYTES, dense_parameters * FLOAT_BYTES
    parts = {
        "weights": table + dense,
        "moments of Adam": 2 * (table + dense),
        "slots": 4 * table_rows if row_wise else 0,
        "gradients": dense + (0 if row_wise else table),
        "copy of the best pass": table + dense,
        "one batch": batch_bytes,
    }
    parts["sum"] = sum(parts.values())
    return pd.DataFrame(
        {"part": list(parts), "GiB": np.array(list(parts.values())) / GIB}
    )


def check_memory(needed: pd.DataFrame, already: int = 0) -> None:
    """Refuse a training that would not fit, and say what to change.

    Parameters
    ----------
    needed : DataFrame
        Of :func:`training_memory`.
    already : int
        Bytes of it that are allocated: the weights of a model that exists.

    Raises
    ------
    MemoryError
        If more is needed than there is.
    """
    more = needed["GiB"].iloc[-1] - already / GIB
    free = available_memory() / GIB
    if more > free:
        shown = ", ".join(
            f"{part} {size:.1f}"
            for part, size in needed.itertuples(index=False)
            if size >= 0.05
        )
        raise MemoryError(
            f"training needs {more:.1f} GiB more, {free:.1f} GiB are free "
            f"(GiB: {shown}). All but the last batch grows with rows x dim of the "
            "tables: raise min_count of the encoder (fewer rows), lower dim, or put "
            "large vocabularies into a CompactEmbedding; a smaller batch_size only "
            "lowers 'one batch'"
        )
