"""Take a trained model out of Python: SavedModel, LiteRT, and both read back.

A model that is to be served must give the scores that were evaluated. So `export`
asks every file that it writes for the scores of some rows and compares. What it
writes maps encoded rows to probabilities; the encoder that makes such rows stays
Python and has to be kept beside it.

LiteRT files are run here with ``tf.lite.Interpreter``. TensorFlow announces that this
class will move to a package of its own (``ai-edge-litert``); as long as the versions
that the book admits have it, nothing more must be installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urlm_helpers.preprocessing.files import save_encoder, vocabulary_version

if TYPE_CHECKING:
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.preprocessing.encode import Encoder

OUTPUT = "probabilities"
ROWS_AT_ONCE = 8192
"""Rows that a LiteRT file scores at a time, which bounds the memory."""


class ExportError(ValueError):
    """A model can't be exported, or its copy gives other scores."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and how far its scores are from the model's.

    Parameters
    ----------
    files : mapping of str to Path
        ``saved_model`` (a folder), ``float32`` and ``int8`` (files).
    difference : mapping of str to float
        Largest absolute difference of a probability, per entry of `files`.
    """

    files: Mapping[str, Path]
    difference: Mapping[str, float]

    @property
    def bytes(self) -> dict[str, int]:
        """Size of each on disk, with everything in the folder of the SavedModel."""
        return {
            name: sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
            for name, path in self.files.items()
        }


class SavedScores:
    """The scores of a SavedModel that `export` wrote.

    Parameters
    ----------
    folder : path
        ``Exported.files["saved_model"]``.
    """

    def __init__(self, folder: str | Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(folder))  # owns the weights
        self._tensor = tf.constant
        self._serve = self._loaded.signatures["serving_default"]

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the probability of each task, ``(rows, tasks)`` float32."""
        tensors = {name: self._tensor(array) for name, array in x.items()}
        scores: np.ndarray = self._serve(**tensors)[OUTPUT].numpy()
        return scores


class LiteScores:
    """The scores of a LiteRT file that `export` wrote; one call at a time.

    Parameters
    ----------
    path : path
        ``Exported.files["float32"]`` or ``["int8"]``.

    Attributes
    ----------
    version : str
        12 characters that another file would not have.
    """

    def __init__(self, path: str | Path) -> None:
        import tensorflow as tf

        content = Path(path).read_bytes()  # its own error names a missing file
        self.version = hashlib.sha256(content).hexdigest()[:12]
        with _quiet():  # the class is to move, see above
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
            self._run = interpreter.get_signature_runner("serving_default")
            details = self._run.get_input_details()
            self._dtypes = {name: d["dtype"] for name, d in details.items()}
            row = {n: np.zeros(d["shape"], d["dtype"]) for n, d in details.items()}
            self._run(**row)  # sets up what it announces on stderr
        self._lock = threading.Lock()

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the probability of each task, ``(rows, tasks)`` float32."""
        x = {name: np.asarray(x[name], dtype) for name, dtype in self._dtypes.items()}
        parts = []
        for at in range(0, len(x["scenario"]), ROWS_AT_ONCE):
            batch = {name: array[at : at + ROWS_AT_ONCE] for name, array in x.items()}
            with self._lock:
                parts.append(self._run(**batch)[OUTPUT].copy())
        return np.concatenate(parts)


def export(
    model: UnifiedRecommender,
    folder: str | Path,
    x: Mapping[str, np.ndarray],
    *,
    tolerance: float = 1e-6,
    encoder: Encoder | None = None,
) -> Exported:
    """Write a model as a SavedModel and as two LiteRT files, and check them.

    All take the inputs of the model by name, any number of rows at once, and return
    ``probabilities`` ``(rows, tasks)`` along the funnel. ``spec.json`` beside them
    says what the columns mean.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained, on the TensorFlow backend.
    folder : path
        Where to write; made if it is not there, files of an earlier export are
        overwritten.
    x : mapping of str to ndarray
        Rows to compare scores on.
    tolerance : float
        How far a probability of the SavedModel and of the ``float32`` file may be
        from the model's.
    encoder : Encoder, optional
        The one that encoded the model's training rows. It is written too, as
        ``encoder.npz``, and ``spec.json`` names its vocabulary, so that a service
        refuses another encoder of as many words.

    Returns
    -------
    Exported
        ``int8`` has its large weights in 8 bits [1]_. It is not held to `tolerance`:
        `difference` says what it costs in probability, and what that costs in AUC has
        to be measured.

    Raises
    ------
    ExportError
        Another backend, no rows, rows that do not fit the model, a conversion that
        fails, or scores that are not finite or differ by more than `tolerance`.

    Notes
    -----
    There is no file that computes in 8 bits throughout. LiteRT's fast kernels gave
    wrong products and sums of 8-bit values for these models (its reference kernels,
    fed the same numbers, gave others), so that every score came out the same.

    References
    ----------
    .. [1] B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
       Integer-Arithmetic-Only Inference", CVPR 2018. arXiv:1712.05877
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"export needs the TensorFlow backend, this is {backend}: save the model "
            "as .keras, set KERAS_BACKEND=tensorflow and load it there"
        )
    _check_rows(model, x)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = model.spec.to_dict()
    if encoder is not None:
        save_encoder(encoder, folder / "encoder.npz")
        description["vocabulary"] = vocabulary_version(encoder)
    text = json.dumps(description, indent=1)
    (folder / "spec.json").write_text(text, encoding="utf-8")
    files = {"saved_model": folder / "saved_model"}
    with _quiet(), tempfile.TemporaryDirectory() as frozen:
        _save(model, files["saved_model"], frozen=False)
        _save(model, Path(frozen), frozen=True)
        for name in ("float32", "int8"):
            files[name] = folder / f"{name}.tflite"
            files[name].write_bytes(_convert(frozen, name))
    expected = model.probabilities(x)
    difference = {}
    for name, path in files.items():
        copy = SavedScores(path) if name == "saved_model" else LiteScores(path)
        largest = float(np.abs(copy.probabilities(x) - expected).max())  # NaN stays
        exact = name != "int8"
        if not np.isfinite(largest) or (exact and largest > tolerance):
            raise ExportError(
                f"{path.name} gives other scores than the model: they differ by up to "
                f"{largest:.2g} on {len(expected):,} rows, allowed is {tolerance:g}. "
                "Do not serve it. Where the model itself gives NaN, look at its "
                "inputs; where the sums are long, float32 may need a larger tolerance"
            )
        difference[name] = largest
    return Exported(files, difference)


def _check_rows(model: UnifiedRecommender, x: Mapping[str, np.ndarray]) -> None:
    """Refuse rows that are none, or not such as the model takes."""
    example = model.spec.example()
    if set(x) != set(example):
        raise ExportError(f"x must have the inputs {sorted(example)}, got {sorted(x)}")
    rows = len(x["scenario"])
    if rows == 0:
        raise ExportError("x has no rows: scores can be compared on rows only")
    for name, like in example.items():
        shape = (rows, *like.shape[1:])
        if x[name].shape != shape:
            raise ExportError(
                f"x[{name!r}] must have the shape {shape}, got {x[name].shape}: encode "
                "the rows with the encoder of this model"
            )


def _save(model: UnifiedRecommender, folder: Path, *, frozen: bool) -> None:
    """Write a SavedModel; `frozen` has constants where it had variables.

    The converter to LiteRT loses the variables of a Keras 3 model: its files had
    neither weights nor an error, and scored NaN.
    """
    import keras
    import tensorflow as tf

    spec = model.spec
    inputs = {
        name: tf.TensorSpec([None, *array.shape[1:]], array.dtype, name=name)
        for name, array in spec.example().items()
    }
    weights = [
        [tf.constant(v.numpy()) for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def logits(x: Mapping[str, Any]) -> Any:
        if frozen:
            return model.stateless_call(*weights, x, training=False)[0]
        return model(x, training=False)

    class Server(tf.Module):
        @tf.function(input_signature=[inputs])
        def serve(self, x: Mapping[str, Any]) -> dict[str, Any]:
            p = keras.ops.sigmoid(logits(x))
            columns: list[Any] = []
            for task, parent in enumerate(spec.parents):
                own = p[:, task]
                columns.append(own * columns[parent] if parent >= 0 else own)
            return {OUTPUT: tf.stack(columns, axis=1)}

    server = Server()
    if not frozen:
        server.model = model  # a SavedModel holds what its module holds
    tf.saved_model.save(server, str(folder), signatures=server.serve)


def _convert(folder: str, name: str) -> bytes:
    """Convert a frozen SavedModel to one of the LiteRT files."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        content: bytes = converter.convert()
    except Exception as error:
        raise ExportError(
            "LiteRT can't express this model with its own operations; use the "
            f"SavedModel, or another encoder or sharing. The converter says: {error}"
        ) from error
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from stderr what TensorFlow remarks on success, in C++ and in Python.

    ``sys.stderr`` stays what it is: a logger that is used for the first time here
    keeps the stream that it finds.
    """
    sys.stderr.flush()
    kept, level = os.dup(2), logging.root.manager.disable
    logging.disable()
    try:
        with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        logging.disable(level)
        os.dup2(kept, 2)
        os.close(kept)
