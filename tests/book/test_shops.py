"""The study of pairs of shops: what it takes out, estimates and counts."""

from __future__ import annotations

import importlib
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse, stats

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = {
    "phone_sport": ("0 0\n1 0\n0 1\n1 2\n2 2\n2 4\n", "0 3\n1 3\n2 1\n"),
    "sport_phone": ("0 5\n2 5\n0 4\n2 2\n1 1\n0 3\n0 6\n1 6\n", "1 4\n2 3\n2 6\n"),
}


@pytest.fixture
def studied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The studies' modules, on two small shops."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("URLM_DATA", str(tmp_path))
    for name, parts in ROWS.items():
        folder = tmp_path / "amazon-cross-domain" / name
        folder.mkdir(parents=True)
        for part, text in zip(("train", "test_original"), parts, strict=True):
            (folder / f"{part}.txt").write_text(text)
    for name in ("shops", "shop_models"):
        importlib.reload(importlib.import_module(name))  # forgets the rows it read
    return importlib.import_module


def test_twins_have_the_same_buyers_held_out_rows_included(studied: Any) -> None:
    shops = studied("shops")
    # Users 0 and 1 bought 0 and 3 of phone, and 4 of sport; 0 and 2 bought 1, and 5, 3.
    # One buyer is no evidence (4 and 2), nor are two of three (2 and 6).
    assert shops.twins("phone", "sport").tolist() == [0, 1, 3]
    assert shops.twins("sport", "phone").tolist() == [3, 4, 5]
    assert shops.without_twins("sport", "phone").tolist() == [
        [2, 2],
        [1, 1],
        [0, 6],
        [1, 6],
    ]


def test_missing_shops_are_named_with_where_they_come_from(studied: Any) -> None:
    with pytest.raises(SystemExit, match="cloth_sport is not there.*DisenCDR"):
        studied("shops").shop("cloth", "sport")


def test_hsic_is_the_mean_over_four_different_users(studied: Any) -> None:
    rng, n = np.random.default_rng(0), 6
    k, m = (sparse.csr_array(np.triu(rng.random((n, n)), 1)) for _ in "km")
    k, m = k + k.T, m + m.T
    a, b = k.toarray(), m.toarray()
    each = [
        a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q])
        for i, j, q, r in permutations(range(n), 4)
    ]
    assert studied("shops").hsic(k, m) == pytest.approx(np.mean(each))


def test_agreement_tells_same_tastes_from_others(studied: Any) -> None:
    rng, users = np.random.default_rng(0), 300
    kind = rng.integers(6, size=(2, users))

    def rows(kinds: np.ndarray) -> np.ndarray:
        user = np.repeat(np.arange(users), 12)
        return np.column_stack(
            [user, 10 * kinds[user] + rng.integers(10, size=len(user))]
        )

    agreement = studied("shops").agreement
    assert agreement(rows(kind[0]), rows(kind[0]), users) == pytest.approx(1, abs=0.05)
    assert agreement(rows(kind[0]), rows(kind[1]), users) < 0.25
    # Who resembles whom is 0 or 1, and 1 for a sixth: its variance over the square of
    # its mean is 5. Of the pairs 0.36 keep it where 0.6 of the users keep their kind.
    some = np.where(rng.random(users) < 0.6, kind[0], kind[1])
    known = (np.log1p(0.36 * 5) / np.log1p(5)) ** 0.5
    found = agreement(rows(kind[0]), rows(some), users)
    assert found == pytest.approx(known, abs=0.06)


@pytest.mark.parametrize("width", [2, 9])
def test_vectors_solve_their_normal_equations(studied: Any, width: int) -> None:
    rng = np.random.default_rng(0)
    seen = rng.random((8, 20)) < np.linspace(0, 0.6, 8)[:, None]
    fixed, prior = (rng.normal(size=(n, width)).astype("f4") for n in (20, 8))
    log = sparse.csr_array(seen.astype("f4"))
    found = studied("shop_models").solved(log, fixed, 0.1, 0.05, (prior, 2.0))
    for mine, old, vector in zip(seen, prior, found, strict=True):
        own = 0.05 * (mine.sum() + 0.1 * 20)
        left = fixed.T @ (fixed * (mine + 0.1)[:, None]) + 3 * own * np.eye(width)
        right = fixed.T @ mine + 2 * own * old
        assert left @ vector == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("width", [2, 9])
def test_weights_of_columns_enter_the_normal_equations(
    studied: Any, width: int
) -> None:
    rng = np.random.default_rng(0)
    seen = rng.random((8, 20)) < np.linspace(0, 0.6, 8)[:, None]
    fixed, weight = rng.normal(size=(20, width)), rng.random(20)
    log = sparse.csr_array((seen * np.sqrt(weight)).astype("f4"))
    mass = (seen + 0.1) @ weight
    scaled = (fixed * np.sqrt(weight)[:, None]).astype("f4")
    found = studied("shop_models").solved(log, scaled, 0.1, 0.05, mass=mass)
    for mine, own, vector in zip(seen, mass, found, strict=True):
        loss = (weight * (mine + 0.1))[:, None]
        left = fixed.T @ (fixed * loss) + 0.05 * own * np.eye(width)
        assert left @ vector == pytest.approx(fixed.T @ (weight * mine), abs=1e-4)


def test_ranks_leave_out_what_was_bought_and_halve_ties(studied: Any) -> None:
    models = studied("shop_models")
    case = studied("shops").Case("phone", "sport", 1.0)
    job = models.Job(case, 0, tuning=False)
    assert job.asked.tolist() == [[0, 3], [1, 3], [2, 1]]
    # User 0 has bought 0 and 1: item 2 stands before 3. So it does for user 1, who
    # bought it. User 2 bought 2; 1 ties with 3, but is more popular, and 0 even more.
    score = np.array([[9, 9, 5, 1, 0], [0, 0, 9, 1, 0], [0] * 5], dtype=float)
    assert job.ranks(lambda users: score[users]).tolist() == [1, 0, 1]
    job.popular[:] = [1, 1, 1, 0, 1]  # as popular as item 0: nothing tells them apart
    assert job.ranks(lambda users: score[users]).tolist() == [1, 0, 0.5]
    assert models.recall(np.array([19.5, 20.0])).tolist() == [1, 0]
    assert models.ndcg(np.array([0.0, 2, 20])).tolist() == [1, 0.5, 0]


def test_tuning_takes_its_purchases_out_of_the_rows(studied: Any) -> None:
    case = studied("shops").Case("phone", "sport", 1.0)
    job = studied("shop_models").Job(case, 0, tuning=True)
    assert len(job.asked) == 1 and job.own.nnz == 5
    assert job.own[*job.asked[0]] == 0


def test_climbing_ends_where_no_neighbor_is_better(studied: Any) -> None:
    def height(at: tuple[int, int]) -> int:
        x, y = at
        return x * y - x * x - y * y + 5 * (x + y)

    (x, y), top = studied("shop_models").climb(height, (0, 0))
    near = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
    assert height((x, y)) == top >= max(map(height, near))


def test_the_fit_of_an_order_is_spearmans(studied: Any) -> None:
    rng = np.random.default_rng(0)
    expected, gains = rng.integers(4, size=9), rng.normal(size=(9, 3))
    wanted = [stats.spearmanr(expected, each).statistic for each in gains.T]
    found = studied("cross_domain_study").order_fits(expected, gains)
    assert found == pytest.approx(wanted)
