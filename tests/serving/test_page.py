"""A model as a script of a page: its numbers, its scores in a browser, its refusals."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diagrams
import keras
import numpy as np
import pytest
from keras_rs.layers import FeatureCross
from playwright.sync_api import Browser, sync_playwright

from urlm_helpers.features import CompactEmbedding, ConvPool, FieldEmbedding
from urlm_helpers.model import UncertaintyWeights, UnifiedRecommender
from urlm_helpers.preprocessing import InputSpec
from urlm_helpers.serving import (
    ExportError,
    export_page,
    forward_script,
    page_variables,
    read_page,
)
from urlm_helpers.sharing import MMoE, SharedBottom

SPEC = InputSpec(
    fields={"user": 5, "item": 40, "kind": 4, "scenario": 4},
    numeric=("price",),
    history_fields=("item", "kind"),
    history_length=6,
    scenarios=("shop", "feed", "search"),
    tasks=("click", "like", "buy"),
    funnel={"like": "click", "buy": "like"},
)
SIZES = list(SPEC.fields.values())


def experts(**options: Any) -> MMoE:
    return MMoE(3, 3, **{"units": (6,), "experts": 3, **options})


def model(sharing: Any = None, **options: Any) -> UnifiedRecommender:
    """A small model with every weight away from 0, as training leaves it."""
    keras.utils.set_random_seed(0)
    options = {"dim": 4, "bottom": 10, "crosses": 1, **options}
    made = UnifiedRecommender(SPEC, sharing=sharing or experts(), **options)
    rng = np.random.default_rng(1)
    for variable in made.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return made


def rows(n: int) -> dict[str, np.ndarray]:
    """Rows with histories of every length, an event without an item among them."""
    rng = np.random.default_rng(2)
    history = rng.integers(0, (40, 4), (n, 6, 2))
    history[np.arange(6) < rng.integers(0, 7, n)[:, None]] = 0
    return {
        "fields": rng.integers(0, SIZES, (n, 4)).astype("int32"),
        "numeric": rng.normal(size=(n, 1)).astype("float32"),
        "history": history.astype("int32"),
        "history_age": np.zeros((n, 6), "float32"),
        "scenario": (np.arange(n) % 3).astype("int32"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not (path := diagrams.browser_path()):
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail("no browser: the script's scores can't be compared")
        pytest.skip("no browser")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path, args=["--headless=new", "--no-sandbox"]
        )
        yield running
        running.close()


@pytest.mark.parametrize(
    ("crosses", "sure"), [(0, 0), (1, 0), (2, 0), (1, 800)], ids=str
)
def test_scores_in_a_browser_are_those_of_keras(
    browser: Browser, tmp_path: Path, crosses: int, sure: float
) -> None:
    embedding = FieldEmbedding(SIZES, 4, scale=2.0)
    made, x = model(embedding=embedding, crosses=crosses), rows(300)
    bias = made.sharing.gate.bias  # at 800 the gates' exponentials are infinite
    bias.assign(bias + np.tile([0, sure, 0], 9))
    script = export_page(made, tmp_path / "live.js")
    page = browser.new_page()
    page.add_script_tag(path=script)
    given = {name: array.tolist() for name, array in x.items()}
    found = page.evaluate(
        """x => x.scenario.map((scenario, i) => liveModel.probabilities({
            fields: x.fields[i], numeric: x.numeric[i], history: x.history[i],
            scenario}))""",
        given,
    )
    page.close()
    expected = made.probabilities(x)
    assert (expected.std(axis=0) > 0.1 * expected.mean(axis=0)).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    made = model(balance=UncertaintyWeights())
    codes = np.arange(12, dtype="int32").reshape(4, 3)
    notes = {"kinds": ["tea", "$numbers"], "from": "page 3.2.4c"}
    path = export_page(made, tmp_path / "a.js", tables={"items": codes}, notes=notes)
    meta, arrays = read_page(path)
    assert meta["notes"] == notes and meta["spec"]["fields"] == SPEC.fields
    np.testing.assert_array_equal(arrays.pop("items"), codes)
    variables = page_variables(made)
    assert set(arrays) == set(variables)
    for name, variable in variables.items():
        np.testing.assert_array_equal(arrays[name], variable.numpy(), err_msg=name)
    served = sum(np.size(v) for v in made.weights) - 3  # of the tasks' balance
    assert sum(array.size for array in arrays.values()) == served


def test_the_script_asks_for_nothing_and_its_forward_pass_can_be_shown() -> None:
    whole, shown = forward_script(), forward_script(only=True)
    assert not re.search(r"\b(import|export|fetch|require|https?:)\b", whole)
    assert shown.startswith("function dense(") and shown.rstrip().endswith("}")
    assert all(line.strip() in whole for line in shown.splitlines())
    assert len(shown.splitlines()) < 50


def scaled_cross(made: UnifiedRecommender) -> None:
    made.crosses[0].diag_scale = 0.5


def other_activation(made: UnifiedRecommender) -> None:
    made.bottom.layers[0].activation = keras.activations.tanh


def no_number(made: UnifiedRecommender) -> None:
    made.heads.bias.assign(np.full((3, 3), np.nan))


REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "encoder": ({"encoder": ConvPool()}, None, "is a ConvPool, which the script"),
    "sharing": ({"sharing": SharedBottom(3, 3)}, None, "is a SharedBottom"),
    "table": (
        {"embedding": CompactEmbedding(SIZES, 4, rows=20, above=30)},
        None,
        "is a CompactEmbedding",
    ),
    "match": ({"match": 4}, None, "is a Match"),
    "fingerprint": ({"history": "vector"}, None, "history='match' and a history"),
    "no bottom": ({"bottom": 0}, None, "a bottom layer only"),
    "imputed": ({"imputed": True}, None, "imputed=False only"),
    "deep experts": (
        {"sharing": experts(units=(6, 5))},
        None,
        "experts of one layer only",
    ),
    "towers": ({"sharing": experts(towers=(5,))}, None, "no towers only"),
    "cross": ({}, scaled_cross, "plain crosses only"),
    "activation": ({}, other_activation, "ends with tanh, the script's with relu"),
    "not a number": ({}, no_number, "'heads/bias' must be finite numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_it_does_not_know(tmp_path: Path, case: str) -> None:
    options, change, message = REFUSED[case]
    made = model(**options)
    if change:
        change(made)
    with pytest.raises(ExportError, match=message):
        export_page(made, tmp_path / "live.js")
    assert not (tmp_path / "live.js").exists()


def test_refuses_tables_that_would_not_come_back(tmp_path: Path) -> None:
    made, path = model(), tmp_path / "live.js"
    for table, message in {
        "heads/bias": "are names of weights",
        "names": "must be finite numbers",
        "ids": "not exact",
    }.items():
        bad = {"names": np.array(["a"]), "ids": np.array([2**24 + 1])}
        with pytest.raises(ExportError, match=message):
            export_page(made, path, tables={table: bad.get(table, np.zeros(1))})


CUTS: dict[str, Callable[[str], str]] = {
    "no script": lambda text: "const a = 1;",
    "cut": lambda text: re.sub(r'atob\("(.{400})[^"]*"', r'atob("\1"', text),
}


@pytest.mark.parametrize("cut", CUTS)
def test_refuses_a_file_that_is_not_whole(tmp_path: Path, cut: str) -> None:
    path = export_page(model(), tmp_path / "live.js")
    path.write_text(CUTS[cut](path.read_text("utf-8")), encoding="utf-8")
    with pytest.raises(ExportError, match="export it again|no script of export_page"):
        read_page(path)


def test_the_layers_that_the_script_computes_are_those_of_the_libraries() -> None:
    cross = FeatureCross()
    x, y = np.ones((1, 3), "float32"), np.full((1, 3), 2, "float32")
    cross(x)
    kernel, bias = (v.numpy() for v in cross.dense.weights)
    np.testing.assert_allclose(cross(x, y), x * (y @ kernel + bias) + y, rtol=1e-6)
