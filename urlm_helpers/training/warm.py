"""A trained model that goes on: new days, new ids, a new scenario.

A model keeps what it has learned while its tables grow: `grow_encoder` and `grow`
append, so that a known value keeps its code and its vector; `warm_start` goes on with
the new days; `fit_scenario` teaches a new scenario and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from urlm_helpers.data.schema import Dataset
from urlm_helpers.data.times import moment
from urlm_helpers.features.embedding import FieldEmbedding
from urlm_helpers.model.unified import UnifiedRecommender
from urlm_helpers.preprocessing.columns import Vocabulary
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.training.loop import fit

SCENARIO = "scenario"


def grow_encoder(
    encoder: Encoder,
    dataset: Dataset,
    until: str | pd.Timestamp | int | None = None,
    *,
    min_count: int = 10,
) -> Encoder:
    """Return an encoder that knows what came since; known values, scales, buckets stay.

    Parameters
    ----------
    encoder : Encoder
    dataset : Dataset
        The whole log. Its schema may have more scenarios, behind the encoder's.
    until : str, Timestamp or int, optional
        Values are collected from rows and events before it; by default from all.
    min_count : int
        How often a value must have come in these to get a code of its own.

    Returns
    -------
    Encoder
        Without `encoded` rows; `Encoder.transform` makes them.

    Raises
    ------
    ValueError
        If the schema has other columns or tasks, or lacks a scenario.
    """
    was, now = encoder.schema, dataset.schema
    if replace(now, scenarios=was.scenarios) != was:
        raise ValueError("the schema differs in more than its scenarios: encode anew")
    _appended(was.scenarios, now.scenarios)
    grown = copy.copy(encoder)
    grown.dataset, grown.schema = dataset, now
    grown.events = grown._describe_events()
    grown._numbers = {key: Vocabulary.fit(grown.events[key]) for key in grown._numbers}
    grown._key_events = grown._numbered(grown.events)
    rows, events = grown._integrate(dataset.interactions), grown.events
    if until is not None:
        cut = moment("until", until, now.time_unit)
        rows, events = rows[rows["time"] < cut], events[events["time"] < cut]
    grown.vocabularies = {}
    for name, known in encoder.vocabularies.items():
        found = Vocabulary.fit(rows[name], min_count)
        if name in encoder.history_fields:
            found = found | Vocabulary.fit(events[name], min_count)
        new = found.values.difference(known.values)
        grown.vocabularies[name] = Vocabulary(known.values.append(new))
    grown.encoded = {}
    return grown


def grow(model: UnifiedRecommender, spec: InputSpec) -> UnifiedRecommender:
    """Return a model for larger tables and more scenarios, that scores as this one.

    A new value starts with the vector of what is unseen, so it is scored as before
    until it learns; a new scenario with the mean of the others, in all that a scenario
    has of its own.

    Parameters
    ----------
    model : UnifiedRecommender
    spec : InputSpec
        As the model's, but for fields with more values and scenarios behind the others.

    Raises
    ------
    ValueError
        If the inputs differ in more than that.
    NotImplementedError
        If the sharing scheme keeps a scenario's weights in layers of their own, or the
        embedding is a compact one.

    Examples
    --------
    >>> spec = InputSpec(fields={"user": 9, "item": 7}, numeric=(), history_fields=(),
    ...                  history_length=0, scenarios=("shop", "feed"),
    ...                  tasks=("click",), funnel={})
    >>> model = UnifiedRecommender(spec, dim=4)
    >>> larger = replace(spec, fields={"user": 9, "item": 8},
    ...                  scenarios=("shop", "feed", "mail"))
    >>> grown = grow(model, larger)
    >>> x = {"fields": np.array([[1, 0], [1, 7]]), "numeric": np.zeros((2, 0)),
    ...      "history": np.zeros((2, 0, 0), int), "history_age": np.zeros((2, 0)),
    ...      "scenario": np.array([1, 1])}
    >>> known, new = grown.logits(x)
    >>> before = model.logits({name: rows[:1] for name, rows in x.items()})[0]
    >>> bool(np.allclose(known, before)), bool((known == new).all())
    (True, True)
    """
    old = model.spec
    _appended(old.scenarios, spec.scenarios)
    smaller = [n for n, size in old.fields.items() if spec.fields.get(n, 0) < size]
    same = replace(spec, fields=old.fields, scenarios=old.scenarios)
    if smaller or same != old or [*old.fields] != [*spec.fields]:
        raise ValueError("the inputs differ in more than new values and scenarios")
    grown = _resized(model, spec)
    axes, values = _axes(model, grown), []
    table = [w is model.embedding.table.embeddings for w in model.weights]
    for weight, target, axis, is_table in zip(
        model.weights, grown.weights, axes, table, strict=True
    ):
        value = ops.convert_to_numpy(weight)
        if is_table:
            value = _table(value, old, spec)
        elif model.branch is not None and weight is model.branch.kernel:
            value = _columns(value, model.branch.names, grown.branch.names)
        if axis is not None:
            value = _blocks(value, axis, old, spec)
        if value.shape != target.shape:
            raise NotImplementedError(f"{target.path} can't grow: train it anew")
        values.append(value)
    grown.set_weights(values)
    return grown


def warm_start(
    model: UnifiedRecommender,
    encoder: Encoder,
    dataset: Dataset,
    since: str | pd.Timestamp | int,
    until: str | pd.Timestamp | int | None = None,
    *,
    min_count: int = 10,
    replay: float = 0.0,
    epochs: int = 1,
    seed: int = 0,
    **options: Any,
) -> tuple[UnifiedRecommender, Encoder]:
    """Go on with the new days, and return a grown model and encoder.

    Parameters
    ----------
    model, encoder
        As of the last training; not changed.
    dataset : Dataset
        The whole log, with the new days.
    since, until : str, Timestamp or int
        The new days, ``until`` not among them; by default to the end.
    min_count : int
        As of `grow_encoder`.
    replay : float
        Older rows, drawn at random, that are learned again for each new one.
    epochs : int
        Passes over these rows. No validation rows are kept back, for the newest are
        worth the most: tune step size and passes on earlier days.
    seed : int
        Of the batches and the replay.
    **options
        Of :func:`~urlm_helpers.training.fit`.

    """
    grown_encoder = grow_encoder(encoder, dataset, until, min_count=min_count)
    grown = grow(model, grown_encoder.spec)
    time, unit = dataset.interactions["time"], dataset.schema.time_unit
    old = (time < moment("since", since, unit)).to_numpy()
    new = ~old
    if until is not None:
        new &= (time < moment("until", until, unit)).to_numpy()
    fresh, past = np.flatnonzero(new), np.flatnonzero(old)
    if not len(fresh):
        raise ValueError(f"no row is new since {since}")
    again = min(round(replay * len(fresh)), len(past))
    drawn = np.random.default_rng(seed).choice(past, again, replace=False)
    rows = dataset.interactions.iloc[np.sort(np.concatenate([drawn, fresh]))]
    x = grown_encoder.transform(rows)
    y = rows[list(dataset.schema.tasks)].to_numpy("int8")
    every = np.arange(len(rows))
    parts = {"train": every, "valid": every[-len(fresh) :]}
    options |= {"epochs": epochs, "patience": epochs}
    fit(grown, x, y, parts, seed=seed, **options)
    return grown, grown_encoder


def fit_scenario(
    model: UnifiedRecommender,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    parts: Mapping[str, np.ndarray],
    scenario: str,
    **options: Any,
) -> pd.DataFrame:
    """Train what belongs to one scenario; no score of another one moves by a bit.

    Its own are its outputs, its gates and the vector of its name. Returns as `fit`.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained in place.
    x, y, parts
        As of :func:`~urlm_helpers.training.fit`. Rows of other scenarios are left out.
    scenario : str
        Its name.
    **options
        Of :func:`~urlm_helpers.training.fit`.
    """
    number, spec = model.spec.scenarios.index(scenario), model.spec
    own = {k: r[x["scenario"][r] == number] for k, r in parts.items()}
    more = replace(spec, scenarios=(*spec.scenarios, "one more"))
    axes, before = _axes(model, _resized(model, more)), model.get_weights()
    masks = [np.zeros(value.shape, bool) for value in before]
    for weight, axis, mask in zip(model.weights, axes, masks, strict=True):
        if axis is not None:
            size = mask.shape[axis] // len(spec.scenarios)
            np.moveaxis(mask, axis, 0)[number * size : (number + 1) * size] = True
        elif weight is model.embedding.table.embeddings:
            if row := _row(x, own["train"], spec):
                mask[row] = True
    work = _resized(model, spec)
    work.set_weights(before)
    for variable, mask, value in zip(work.weights, masks, before, strict=True):
        variable.trainable = variable.trainable and bool(mask.any())
        variable.constraint = _Kept(mask, value)
    history = fit(work, x, y, own, row_wise=False, **options)
    pairs = zip(masks, work.get_weights(), before, strict=True)
    model.set_weights([np.where(mask, new, old) for mask, new, old in pairs])
    return history


class _Kept(keras.constraints.Constraint):
    """Puts everything outside of a mask back after each step."""

    def __init__(self, mask: np.ndarray, value: np.ndarray) -> None:
        self.mask, self.value = mask, value

    def __call__(self, w: Any) -> Any:
        return ops.where(self.mask, w, self.value)


def _appended(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    if new[: len(old)] != old:
        raise ValueError(f"new scenarios must stand behind {list(old)}, got {new}")


def _resized(model: UnifiedRecommender, spec: InputSpec) -> UnifiedRecommender:
    """Return a new model with the same settings for another spec."""
    if type(model.embedding) is not FieldEmbedding:
        raise NotImplementedError(f"{type(model.embedding).__name__} can't grow")
    config = copy.deepcopy(model.get_config())
    config["spec"] = spec.to_dict()
    if config["embedding"] is not None:
        config["embedding"]["config"]["sizes"] = list(spec.fields.values())
    config["sharing"]["config"]["scenarios"] = len(spec.scenarios)
    return type(model).from_config(config)


def _axes(model: UnifiedRecommender, grown: UnifiedRecommender) -> list[int | None]:
    """Return for each weight the axis that is longer with more scenarios, or None."""
    old, new = len(model.spec.scenarios), len(grown.spec.scenarios)
    if len(model.weights) != len(grown.weights):
        raise NotImplementedError(
            f"{type(model.sharing).__name__} has layers for each scenario: train anew"
        )
    axes: list[int | None] = []
    for weight, target in zip(model.weights, grown.weights, strict=True):
        sizes = list(zip(weight.shape, target.shape, strict=True))
        longer = [a for a, (n, m) in enumerate(sizes) if n * new == m * old and n != m]
        is_table = weight is model.embedding.table.embeddings
        axes.append(longer[0] if longer and not is_table else None)
    return axes


def _row(x: Mapping[str, np.ndarray], rows: np.ndarray, spec: InputSpec) -> int | None:
    """Return the row of the table that has the vector of the rows' scenario."""
    names = list(spec.fields)
    if SCENARIO not in names or not len(rows):
        return None
    column = names.index(SCENARIO)
    code = int(x["fields"][rows[0], column])
    return sum(list(spec.fields.values())[:column]) + code if code else None


def _table(table: np.ndarray, old: InputSpec, new: InputSpec) -> np.ndarray:
    """Return a table with rows for the new values of each field."""
    parts, start = [], 0
    for name, size in old.fields.items():
        own = table[start : start + size]
        begin = own[1:].mean(axis=0) if name == SCENARIO and size > 1 else own[0]
        parts += [own, np.tile(begin, (new.fields[name] - size, 1))]
        start += size
    return np.concatenate(parts)


def _blocks(value: np.ndarray, axis: int, old: InputSpec, new: InputSpec) -> np.ndarray:
    """Append the mean of the scenarios' blocks along an axis, for each new one."""
    blocks = np.split(value, len(old.scenarios), axis)
    more = len(new.scenarios) - len(old.scenarios)
    return np.concatenate([*blocks, *[np.mean(blocks, axis=0)] * more], axis)


def _columns(kernel: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> Any:
    """Return a regression's weights for more columns, a new value's as of unseen."""
    at = {name: column for column, name in enumerate(old)}
    taken = [at.get(n, at.get(f"{n.rpartition(' = ')[0]} = 0", -1)) for n in new]
    if -1 in taken or not set(old) <= set(new):
        raise ValueError("a field of the regression has too many values now: fit anew")
    return kernel[..., taken]
