"""The long run of LightGCN: its split, its metrics, its steps, worked out by hand."""

import importlib
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("graph_study")

# User 0 listens to artists 0 and 1, user 1 to artist 1.
TWO = sparse.csr_array(np.array([[1.0, 1], [0, 1]], np.float32))


def test_a_tenth_of_each_users_artists_tests_and_a_tenth_says_when_to_stop() -> None:
    part = study.split(np.repeat([0, 1, 2], [30, 3, 2]), seed=0)
    assert np.bincount(part[:30]).tolist() == [24, 3, 3]
    assert sorted(part[30:33]) == [0, 1, 2]  # of three artists, one each
    assert part[33:].tolist() == [0, 0]  # too few to take any away


def test_metrics_by_hand() -> None:
    score = np.tile(np.arange(20.0, 0, -1), (3, 1))  # artist 0 stands first
    hide, truth = np.zeros((2, 3, 20))
    hide[0, 0] = 1  # so that artist 1 comes first
    truth[0, [1, 3, 15]] = 1  # at places 1 and 3 of ten; the third is not shown
    truth[1, 0] = 1
    ndcg, recall = study.top_ten(score, *map(sparse.csr_array, (hide, truth)))
    best = 1 + 1 / np.log2(3) + 1 / 2
    assert ndcg == pytest.approx([(1 + 1 / 2) / best, 1])  # nobody wants a third user
    assert recall == pytest.approx([2 / 3, 1])


def test_links_weigh_by_the_roots_of_both_ends() -> None:
    half, root = 1 / 2, 1 / np.sqrt(2)  # users have 2 and 1 artists, artists 1 and 2
    rows = [[0, 0, root, half], [0, 0, 0, root], [root, 0, 0, 0], [half, root, 0, 0]]
    assert study.links(TWO).toarray() == pytest.approx(np.array(rows))


def test_three_steps_along_the_links_by_hand() -> None:
    spread = study.spread(study.links(TWO), np.eye(4, dtype=np.float32)[:, :1])[:, 0]
    # A one at user 0 is (√½, ½) at the artists after a step, back at the users
    # (¾, ½√½) after two, and (¾√½, ¾·½ + ¼) at the artists after three.
    root = np.sqrt(0.5)
    by_hand = [1 + 0.75, 0.5 * root, root + 0.75 * root, 0.5 + 0.375 + 0.25]
    assert spread == pytest.approx(np.array(by_hand) / 4)


def test_training_puts_what_a_circle_listens_to_above_the_rest() -> None:
    circle = np.kron(np.eye(2), np.ones((6, 6)))
    x = sparse.csr_array((circle - np.eye(12)).astype(np.float32))
    first, *_, last = islice(study.light_gcn(x), 60)
    held = np.eye(12, dtype=bool)  # each user lacks one artist of the circle
    ahead = [s[held].mean() - s[circle == 0].mean() for s in (first, last)]
    assert ahead[1] > 1 > ahead[0]


def test_an_artist_that_is_known_is_no_counterexample() -> None:
    everything = sparse.csr_array(np.ones((3, 4), np.float32))
    first, second = islice(study.light_gcn(everything), 2)
    assert (first == second).all()  # no pair to learn from
