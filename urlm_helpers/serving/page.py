"""A trained model as one script that a web page loads, and that computes its scores.

No library and no server: the script holds the weights and the forward pass
(``forward.js``), which knows a few layers and no other. So `export_page` refuses every
model that has one it does not know. It is a classic script, since browsers refuse
modules and requests for data to a page that was opened from the disk.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from urlm_helpers.serving.exports import ExportError

if TYPE_CHECKING:
    from urlm_helpers.model import UnifiedRecommender

LARGEST = 2**24
"""Whole numbers up to here are exact in float32."""


class LivePage(NamedTuple):
    """What stands in a script that `export_page` wrote.

    Parameters
    ----------
    meta : dict
        ``spec``, the sizes of the layers, ``notes``, and the order of the arrays.
    arrays : dict of str to ndarray
        The weights by layer, float32, and the tables.
    """

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def page_variables(model: UnifiedRecommender) -> dict[str, Any]:
    """Return a model's variables under the names that ``forward.js`` calls them by.

    Parameters
    ----------
    model : UnifiedRecommender

    Returns
    -------
    dict of str to keras.Variable
        ``table``, ``project/kernel``, ``cross_0/kernel``, …, ``heads/bias``.

    Raises
    ------
    ExportError
        If the model has a layer, or an option, that the script does not know.
    """
    _refuse(model)
    layers = {"project": model.project, "bottom": model.bottom.layers[0]}
    layers |= {f"cross_{c}": cross.dense for c, cross in enumerate(model.crosses)}
    layers |= {f"expert_{e}": t.layers[0] for e, t in enumerate(model.sharing.experts)}
    layers |= {"gate": model.sharing.gate, "heads": model.heads}
    found = {"table": model.embedding.table.embeddings}
    for name, layer in layers.items():
        found[f"{name}/kernel"] = layer.kernel
        if layer.bias is not None:
            found[f"{name}/bias"] = layer.bias
    return found


def export_page(
    model: UnifiedRecommender,
    path: str | Path,
    *,
    tables: Mapping[str, np.ndarray] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as a script that sets ``window.liveModel``.

    ``liveModel.probabilities({fields, numeric, history, scenario})`` takes one encoded
    row, as plain lists, and returns the probability of each task along the funnel.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained; with `MeanPool`, `MMoE`, one bottom layer and any number of crosses.
    path : path
        Of the script; an older one is overwritten.
    tables : mapping of str to ndarray, optional
        What the page shows beside the model, such as the codes of its items; whole
        numbers below 2**24, or float32.
    notes : mapping, optional
        Anything that JSON can say: names, and where the weights came from.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ExportError
        If the model has a layer or an option that the script does not know, a number
        is not finite or does not fit float32, or a table has a weight's name.
    """
    arrays = {name: np.asarray(v) for name, v in page_variables(model).items()}
    arrays["table"] = arrays["table"] * model.embedding.scale
    if taken := sorted(set(arrays) & set(tables or {})):
        raise ExportError(f"tables: {taken} are names of weights, choose others")
    arrays |= {name: np.asarray(each) for name, each in (tables or {}).items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ExportError(f"{name!r} must be finite numbers, got {array.dtype}")
        if array.dtype.kind in "iu" and np.abs(array).max(initial=0) > LARGEST:
            raise ExportError(f"{name!r} has whole numbers above 2**24: not exact")
    spec, sharing = model.spec, model.sharing
    meta = {
        "spec": spec.to_dict(),
        "dim": model.dim,
        "bottom": model.bottom_units,
        "crosses": len(model.crosses),
        "experts": sharing.n_experts,
        "units": sharing.width,
        "scenarios": len(spec.scenarios),
        "offsets": model.embedding.offsets,
        "parents": spec.parents,
        "user": list(spec.fields).index("user"),
        "item": list(spec.fields).index("item"),
        "history": model.history_columns,
        "notes": dict(notes or {}),
        "arrays": [[name, list(array.shape)] for name, array in arrays.items()],
    }
    numbers = np.concatenate([array.ravel() for array in arrays.values()]).astype("<f4")
    letters = base64.b64encode(numbers.tobytes()).decode()
    script = Template(forward_script()).substitute(
        meta=json.dumps(meta), numbers=letters
    )
    path = Path(path)
    path.write_text(script, encoding="utf-8")
    return path


def read_page(path: str | Path) -> LivePage:
    """Read a script that `export_page` wrote.

    Raises
    ------
    ExportError
        If the file is no such script.
    """
    text = Path(path).read_text(encoding="utf-8")
    meta = re.search(r"^  const meta = (.*);$", text, re.MULTILINE)
    letters = re.search(r'atob\("([A-Za-z0-9+/=]*)"\)', text)
    if meta is None or letters is None:
        raise ExportError(f"{path} is no script of export_page: no meta or no numbers")
    described = json.loads(meta[1])
    numbers = np.frombuffer(base64.b64decode(letters[1]), "<f4")
    shapes = dict(described["arrays"])
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if sum(sizes) != len(numbers):
        raise ExportError(
            f"{path} has {len(numbers):,} numbers, its arrays need {sum(sizes):,}: it "
            "was cut or changed by hand; export it again"
        )
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    arrays = {
        name: part.reshape(shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    return LivePage(described, arrays)


def forward_script(only: bool = False) -> str:
    """Return ``forward.js``: the whole template, or `only` its forward pass."""
    text = (files("urlm_helpers") / "serving" / "forward.js").read_text("utf-8")
    if not only:
        return text
    inside = text.split("// [the forward pass\n")[1].split("  // the forward pass]")[0]
    return re.sub(r"^  ", "", inside, flags=re.MULTILINE)


def _refuse(model: UnifiedRecommender) -> None:
    """Raise where the forward pass of the script would not be that of the model."""
    import keras
    from keras_rs.layers import FeatureCross

    from urlm_helpers.features import FieldEmbedding, MeanPool
    from urlm_helpers.model import Heads
    from urlm_helpers.sharing import MMoE

    ours = [FieldEmbedding, MeanPool, MMoE, Heads, FeatureCross]
    layers = keras.layers
    known = [*ours, keras.Sequential, layers.Dense, layers.Embedding, layers.InputLayer]
    training = [] if model.balance is None else model.balance._flatten_layers()
    for layer in model._flatten_layers(include_self=False):
        if type(layer) not in known and layer not in training:
            names = ", ".join(sorted(each.__name__ for each in known))
            raise ExportError(
                f"the layer {layer.name!r} is a {type(layer).__name__}, which the "
                f"script does not know; it knows {names}"
            )
    cross = [
        each.projection_dim is None and not each.diag_scale and each.use_bias
        for each in model.crosses
    ]
    told = {
        "history='match' and a history": model.multiplies and model.history_columns,
        "a bottom layer": model.bottom_units,
        "imputed=False": not model.imputed,
        "experts of one layer": len(model.sharing.units) == 1,
        "no towers": not model.sharing.tower_units,
        "plain crosses": all(cross),
        "heads by scenario": model.heads.scenarios == len(model.spec.scenarios),
        "float32": {v.dtype for v in model.variables} == {"float32"},
    }
    if lacking := [what for what, fine in told.items() if not fine]:
        raise ExportError(f"the script takes a model with {', '.join(lacking)} only")
    dense = [each.layers[0] for each in (model.bottom, *model.sharing.experts)]
    linear = [model.project, model.sharing.gate, *(c.dense for c in model.crosses)]
    wanted = {"relu": dense, "linear": linear}
    for activation, layers in wanted.items():
        for layer in layers:
            if layer.activation.__name__ != activation:
                raise ExportError(
                    f"the layer {layer.name!r} ends with {layer.activation.__name__}, "
                    f"the script's with {activation}"
                )
