"""The study of page 9.3b: its gradients, its roundings, the bytes that it counts."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("compression_study")
EVERY = [[np.arange(6)], [np.arange(4)]]
PAIRS = [[np.arange(6) % 3, 3 + np.arange(6) // 3], [np.arange(4)]]


@pytest.mark.parametrize(("maps", "network"), [(EVERY, True), (EVERY, False)])
def test_gradients_are_the_slopes_of_the_loss(maps: Any, network: bool) -> None:
    """Of the summed loss for both vectors, of its mean for the dense weights."""
    rng = np.random.default_rng(0)
    net = study.Net(5, maps, network)
    net.tables = [t.astype(float) for t in net.tables]
    net.dense = [rng.normal(size=w.shape) for w in net.dense]
    user, item = np.array([0, 5, 2]), np.array([3, 1, 0])
    context, y = rng.normal(size=(3, 4)), np.array([0, 1, 1])

    def loss() -> float:
        z = net.forward(user, item, context)[3]
        return float((np.logaddexp(0, z) - y * z).sum())

    found = net.forward(user, item, context)
    dense, sides = study.gradients(net, found, (expit(found[3]) - y)[:, None])
    places: list[Any] = [(net.tables[0], (5, k), sides[0][1, k]) for k in (0, 4)]
    places += [(net.tables[1], (3, k), sides[1][0, k]) for k in (1, 4)]
    if network:
        places += [(net.dense[k], 0, 3 * dense[k][0]) for k in (1, 3, 5)]
        places += [(net.dense[k], (2, 0), 3 * dense[k][2, 0]) for k in (0, 2, 4)]
    for array, at, slope in places:
        kept = array[at]
        array[at] = kept + 1e-6
        up = loss()
        array[at] = kept - 1e-6
        down = loss()
        array[at] = kept
        assert slope == pytest.approx((up - down) / 2e-6, abs=1e-5)


def test_a_row_of_two_tables_is_their_product() -> None:
    """Quotients start at 1; user 4 has remainder 1 and quotient 1."""
    net = study.Net(5, PAIRS)
    assert net.tables[0].shape == (5, 5) and (net.tables[0][3:] == 1).all()
    remainder, quotient = net.vectors(0, np.array([4]))
    np.testing.assert_array_equal(remainder, net.tables[0][[1]])
    np.testing.assert_array_equal(quotient, net.tables[0][[4]])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_number_moves_by_half_a_step_at_most(bits: int) -> None:
    """And the packed rows are the rounded ones, where bytes hold them."""
    table = np.random.default_rng(1).normal(size=(50, 16)).astype("f")
    small = study.rounded(table, bits)
    step = (table.max(axis=1) - table.min(axis=1)) / (2**bits - 1)
    assert (np.abs(small - table).max(axis=1) < 0.51 * step + 2e-3).all()
    assert max(len(np.unique(row)) for row in small) <= 2**bits
    if bits in (4, 8):
        rows = np.array([7, 0, 7])
        packed = study.packed(table, bits)
        np.testing.assert_allclose(study.look(packed, rows), small[rows], atol=5e-3)
        assert packed[0].nbytes + 4 * 50 == study.table_bytes(50, 16, bits)


def test_bytes_of_rows() -> None:
    """Whole bytes of codes and four for the grid; four a number without one."""
    assert study.table_bytes(10, 16, 32) == 640
    assert study.table_bytes(10, 16, 2) == 80
    assert study.table_bytes(10, 4, 3) == 60


@pytest.mark.parametrize("method", ["hash", "frequent", "quotient and remainder"])
def test_fewer_rows_are_a_quarter_of_all(method: str) -> None:
    """No user is without a row; the frequent ones have their own; items keep theirs."""
    users, items = study.USERS, study.ITEMS
    seen = np.concatenate([np.arange(users), np.repeat([17, 4_000], 9)])
    log = SimpleNamespace(user=seen, train=np.arange(len(seen)))
    (*own,), every = study.maps_of(method, 0.25, log)
    rows = max(int(each.max()) for each in own) + 1
    assert rows + items <= (users + items) / 4 and rows + items > (users + items) / 4.2
    assert len(own[0]) == users and every[0].tolist() == list(range(items))
    if method == "frequent":
        assert sorted(own[0][[17, 4_000]]) == [1, 2] and (own[0] == 0).sum() > users / 2
    if method == "quotient and remainder":
        assert len({*zip(*(each.tolist() for each in own), strict=True)}) == users


def test_pruning_keeps_the_largest_numbers_and_their_bits() -> None:
    """A bit for each number and four bytes for each that is kept make the part."""
    net = study.Net(16, [[np.arange(90)], [np.arange(10)]])
    small, masks = study.pruned(net, 0.25)
    kept = sum(int(mask.sum()) for mask in masks)
    assert 4 * kept + 1600 // 8 == pytest.approx(1600, abs=4)
    least = min(np.abs(t[t != 0]).min() for t in small.tables)
    gone = [np.abs(t[~m]).max() for t, m in zip(net.tables, masks, strict=True)]
    assert least >= max(gone)
