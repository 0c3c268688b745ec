"""The study of going on: its search, its days, its correction, its winners."""

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("one backend is enough", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("warm_study")

from urlm_helpers.model import UnifiedRecommender  # noqa: E402
from urlm_helpers.training import grow  # noqa: E402


def test_a_correction_mends_slope_and_level() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-z))).astype(int)
    wrong = 1 / (1 + np.exp(-(0.5 * z + 2)))
    mended = study.recalibrated(wrong, y, wrong)
    assert np.abs(study.logit(mended) - z).mean() < 0.1
    nobody = np.zeros(20_000, int)
    np.testing.assert_array_equal(study.recalibrated(wrong, nobody, wrong), wrong)


@pytest.fixture(scope="module")
def days() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "ROWS", 6_000)
    try:
        yield study.Days(1)
    finally:
        patch.undo()


def test_a_day_knows_only_what_came_before(days: Any) -> None:
    rows, last = days.rows(1, study.LAST), max(study.TESTS) - 1
    assert days.log.day[rows].max() == study.LAST
    specs = [days.specs[day] for day in (study.LAST, last)]
    assert specs[0].fields["user"] < specs[1].fields["user"]
    late = days.rows(last, last)
    x = days.inputs(late, study.LAST)
    sizes = np.array([*specs[0].fields.values()])
    assert (x["fields"] < sizes).all() and (days.x["fields"][late] >= sizes).any()
    expected = days.encoder.transform(days.log.rows.iloc[late])
    for name, array in expected.items():
        np.testing.assert_array_equal(x[name], array, err_msg=name)


def test_new_values_start_as_the_package_lets_them(days: Any) -> None:
    small = UnifiedRecommender(days.specs[study.LAST], bottom=64, match=32)
    small.reset(3)
    whole = grow(small, days.specs[max(study.TESTS) - 1])
    grown = grow(small, days.specs[study.LAST + 1])
    again = grow(grown, days.specs[max(study.TESTS) - 1])
    found = days.grown(whole.get_weights(), study.LAST + 1)
    for one, two in zip(found, again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_winner_stands_at_the_end_of_its_grid() -> None:
    lines = pd.read_csv(study.DAYS.path)
    tuned = lines[lines["seed"] == study.TUNING]
    for _, own in tuned.groupby("method"):
        if own["settings"].nunique() == 1:
            continue  # nothing to choose
        mean = own.groupby("settings")["excess"].mean()
        rate = {text: ast.literal_eval(text)["rate"] for text in mean.index}
        assert min(rate.values()) < rate[mean.idxmin()] < max(rate.values())
    assert set(lines["seed"]) == {study.TUNING, *study.SEEDS}


@pytest.fixture(scope="module")
def opening() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "ROWS", 8_000)
    patch.setattr(study, "FEW", (60,))
    patch.setattr(study.devices, "XLA", False)
    try:
        yield study.Opening(1)
    finally:
        patch.undo()


def test_a_new_scenario_is_judged_by_later_rows(opening: Any) -> None:
    log, scenario = opening.log, opening.log.rows["scenario"].to_numpy()
    assert set(scenario[opening.own]) == set(scenario[opening.asked]) == {study.NEW}
    assert study.NEW not in {*scenario[opening.before], *scenario[opening.others]}
    assert log.day[opening.before].max() < log.day[opening.own].min()
    assert log.day[opening.own].max() < log.day[opening.asked].min()
    assert opening.grown.spec.scenarios[-1] == study.NEW
    assert (opening.x["scenario"][opening.own] == 2).all()


def test_only_what_goes_on_moves_the_old_scenarios(opening: Any) -> None:
    kept = opening.run("its own part", 60, 0.01)
    assert kept["old_moved"] == 0 and kept["excess"] > 0
    assert opening.run("as it is", 60, 0.0)["excess"] != kept["excess"]
    assert opening.run("goes on", 60, 0.001)["old_moved"] > 1e-4


def test_a_search_ends_between_worse_neighbors() -> None:
    asked: list[float] = []

    def ask(rate: float) -> float:
        asked.append(rate)
        return abs(np.log(rate / 8))

    study.search(ask, 1.0, 2.0)
    assert 8.0 in asked and {4.0, 16.0} <= set(asked) and max(asked) == 16


def test_the_winners_of_a_new_scenario_have_worse_neighbors() -> None:
    lines = pd.read_csv(study.SCENARIO.path)
    tuned = lines[lines["seed"] == study.TUNING]
    for (method, n), own in tuned.groupby(["method", "rows"]):
        by = own.set_index("settings")["excess"]
        if study.WAYS[method][1] and len(by) > 1:
            larger = by[by.index > by.idxmin()].sort_index()
            assert len(larger), (method, n)
            alike = larger.iloc[0] - by.min() < study.ALIKE  # as no step at all
            assert by.index.min() < by.idxmin() or alike, (method, n)
    others = lines[lines["seed"] != study.TUNING]
    assert (others.loc[others["method"] == "its own part", "old_moved"] == 0).all()
