"""The study of page 9.4a: its tokens, blocks and masks, and what it counts."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keras import ops

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
study: Any = importlib.import_module("backbone_study")
PAGE = ROOT / "book" / "9-trends" / "9-4a-backbone.ipynb"


def test_each_column_is_in_one_token() -> None:
    spec = SimpleNamespace(
        fields={"user": 9, "item": 7, "user × item: count (bucket)": 3, "hour": 25},
        numeric=("user: count", "rating", "query_match", "user: count (bucket)"),
        user_side=("user", "user: count"),
        item_side=("item", "rating"),
    )
    assert study.groups_of(spec) == {
        "user": ([0], [0, 3]),
        "item": ([1], [1]),
        "cross": ([2], [2]),
        "context": ([3], []),
    }


def test_mixing_gives_token_h_slice_h_of_each() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 4, 12)).astype("float32")
    mixed = ops.convert_to_numpy(study.Mixer().mixed(ops.convert_to_tensor(tokens)))
    for h in range(4):
        slices = [tokens[:, t, 3 * h : 3 * h + 3] for t in range(4)]
        np.testing.assert_array_equal(mixed[:, h], np.concatenate(slices, axis=1))


@pytest.mark.parametrize("moved", [2, 4, 6])
def test_attention_looks_back_and_not_at_padding(moved: int) -> None:
    block = study.Attending(8, 4)
    tokens = np.random.default_rng(1).normal(size=(1, 7, 8)).astype("float32")
    mask = np.array([[0, 1, 1, 1, 1, 1, 1]], "float32")
    first = ops.convert_to_numpy(block(tokens, mask))
    other = tokens.copy()
    other[0, [0, moved]] += 1.0  # the padded one, and another
    change = np.abs(ops.convert_to_numpy(block(other, mask)) - first).max(axis=-1)[0]
    assert change[1:moved].max() == 0.0
    assert (change[moved:] > 1e-6).all()


def test_events_share_weights_and_features_do_not() -> None:
    layer = study.Mixed(3, events=2)
    tokens = np.ones((1, 4, 5), "float32")
    out = ops.convert_to_numpy(layer(tokens))[0]
    np.testing.assert_array_equal(out[0], out[1])
    assert np.abs(out[2] - out[3]).max() > 1e-3
    assert layer.count_params() == 3 * 5 * 3  # one for events, one per feature


def test_operations_of_products_are_counted() -> None:
    hlo = """
  %p.1 = f32[10,4]{1,0} parameter(0)
  %p.2 = f32[4,6]{1,0} parameter(1)
  %dot.3 = f32[10,6]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %dot.4 = f32[10]{0} dot(f32[10,6]{1,0} %dot.3, f32[6]{0} %p.5), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %add.5 = f32[10,6]{1,0} add(%dot.3, %dot.3)
"""  # noqa: E501
    assert study.dot_operations(hlo) == 2 * 10 * 6 * 4 + 2 * 10 * 6


@pytest.mark.parametrize(("start", "low"), [(2, 2), (1, 5), (6, 3)])
def test_search_ends_between_two_worse_ones(start: int, low: int) -> None:
    asked: list[int] = []

    def loss(place: int) -> float:
        asked.append(place)
        return abs(place - low)

    assert study.search(loss, start, 8) == low
    assert len(asked) == len(set(asked)) and {low - 1, low + 1} <= set(asked)


def test_search_refuses_an_end() -> None:
    with pytest.raises(ValueError, match="end of the grid"):
        study.search(lambda place: place, 1, 8)


def test_passes_are_doubled_as_long_as_that_gains() -> None:
    known = {(2, 2): 1.0, (2, 4): 0.95, (1, 4): 0.9, (1, 8): 0.95, (0, 8): 0.8999}
    assert study.longer(known.__getitem__, (2, 2)) == (1, 4)
    falling = {(0, passes): -float(passes) for passes in (2, 4, 8, 16, 32)}
    assert study.longer(falling.__getitem__, (0, 2)) == (0, study.MOST)


def test_auc_is_taken_within_scenarios() -> None:
    y, z = np.array([[0], [1], [0], [1], [1]]), np.array([[0.0], [1], [9], [8], [10]])
    # Within the first place 1, in the second 1/2; two rows and three.
    found = study.auc_of_root(y, z, np.array([0, 0, 1, 1, 1]))
    assert found == pytest.approx((2 * 1 + 3 * 0.5) / 5)


def plain(node: ast.AST) -> str:
    """Return a class without docstrings and annotations."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            part.returns = None
            every = [*part.args.args, *part.args.kwonlyargs, part.args.vararg]
            for argument in filter(None, every):
                argument.annotation = None
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def classes(source: str) -> Iterator[tuple[str, str]]:
    """Yield name and body of the classes in a source."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, plain(node)


def test_the_page_shows_the_blocks_that_were_measured() -> None:
    cells = json.loads(PAGE.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    shown = dict(found for s in code if "%pip" not in s for found in classes(s))
    measured = dict(classes(Path(study.__file__).read_text()))
    for name in ("Mixer", "Mixed", "Attending"):
        assert shown[name] == measured[name]
