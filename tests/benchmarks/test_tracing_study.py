"""The study of page 7.3: what its columns count, and how its sequences are laid."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("tracing_study")
LOG = pd.DataFrame(
    {
        "user_id": [0, 0, 0, 1],
        "item_id": [1, 0, 1, 1],
        "skill_id": [1, 0, 1, 1],
        "correct": [1, 0, 1, 1],
    }
)
SKILLS = sparse.csr_matrix(np.array([[1.0, 0.0], [1.0, 1.0]]))  # item 1 asks both


def test_counts_are_those_of_earlier_answers_of_the_same_student() -> None:
    """A row sees neither itself nor another student."""
    x = np.expm1(study.table(LOG, SKILLS).toarray())
    one = np.expm1(1.0)
    np.testing.assert_allclose(x[2, :4], [0, one, one, one])  # the item, its skills
    np.testing.assert_allclose(x[2, 4:8], [2, 1, 1, 1], atol=1e-12)  # per skill
    np.testing.assert_allclose(x[2, 8:], [2, 1, 1, 1], atol=1e-12)  # in all, per item
    np.testing.assert_allclose(x[3, 4:], 0, atol=1e-12)  # the other student is new


def test_a_sequence_shows_the_answer_before_and_asks_the_item_now() -> None:
    """Ids count from 1; 0 is no answer before, or padding."""
    (item, skill, answer, asked, asked_skill), row = study.sequences(LOG)
    assert row[:, :4].tolist() == [[0, 1, 2, -1], [3, -1, -1, -1]]
    assert asked[0, :4].tolist() == [2, 1, 2, 0]
    assert asked_skill[0, :4].tolist() == [2, 1, 2, 0]
    assert item[0, :4].tolist() == [0, 2, 1, 2]
    assert skill[0, :4].tolist() == [0, 2, 1, 2]
    assert answer[0, :4].tolist() == [0, 2, 1, 2]


def test_a_copy_of_the_rival_is_ahead_by_nothing() -> None:
    """Differences are paired: the same students are drawn for both."""
    rng = np.random.default_rng(0)
    y, p, student = rng.integers(0, 2, 200), rng.random(200), np.arange(200) // 5
    assert study.ahead(y, p, p, student) == {"ahead": 0, "low": 0, "high": 0}
    better = study.ahead(y, p + y, p, student)
    assert 0 < better["low"] < better["ahead"] < better["high"]
