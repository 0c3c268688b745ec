"""The impressions of the Complete Journey against a plain reading of its tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Dataset, load
from urlm_helpers.data.logs import complete_journey as cj
from urlm_helpers.data.logs import complete_journey_tables as tables


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Return the dataset as every chapter loads it."""
    return load("complete-journey")


@pytest.fixture(scope="module")
def some(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return 300 visits and everything that they were offered."""
    met = dataset.extra["visits"].sample(300, random_state=0)
    return met, cj.all_offers(dataset, met)


def test_it_has_the_counts_of_the_source(dataset: Dataset) -> None:
    report = dataset.extra["cleaning"]
    dropped = report.loc[report["table"] == "transactions", "dropped"].sum()
    assert len(dataset.events) + dropped == 1_469_307
    assert dataset.users["user"].nunique() == len(dataset.users) == 2_469
    assert len(dataset.items) == 92_331
    assert set(dataset.interactions["scenario"]) == set(cj.SCENARIOS)


def test_every_purchase_of_an_offered_product_is_kept(
    dataset: Dataset, some: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    met, offered = some
    key = [*cj.VISIT, "item"]
    kept = dataset.interactions.merge(met[cj.VISIT], on=cj.VISIT)
    sold = offered[offered["buy"] == 1]
    assert len(sold) > 100
    columns = [*key, "scenario", *cj.TASKS, "coupon_at_hand"]
    left, right = (
        table[columns].sort_values(key, ignore_index=True)
        for table in (sold, kept[kept["buy"] == 1])
    )
    pd.testing.assert_frame_equal(left, right, check_dtype=False)


def test_the_share_of_kept_impressions_is_the_stated_one(
    dataset: Dataset, some: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    rate = dataset.schema.negative_rate
    kept = (dataset.interactions["buy"] == 0).sum()
    pairs = dataset.extra["visits"]["offered"].sum()
    unbought = pairs - (dataset.interactions["buy"] == 1).sum()
    error = np.sqrt(unbought * rate * (1 - rate))
    assert abs(kept - unbought * rate) < 4 * error
    met, offered = some
    assert len(offered) == met["offered"].sum()


def test_labels_are_those_of_the_baskets(
    dataset: Dataset, some: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    _, offered = some
    key = [*cj.VISIT, "item"]
    sold = offered[offered["buy"] == 1].set_index(key).to_dict("index")
    baskets = dataset.events.merge(offered[key], on=key)
    assert baskets.duplicated(key).sum() > 10  # bought in more than one basket
    for place, basket in baskets.groupby(key):
        row = sold[place]
        assert row["several"] == (basket["quantity"].sum() >= 2)
        assert row["coupon"] == basket["coupon"].max()
        assert row["time"] <= basket["time"].min()
    assert len(sold) == baskets.groupby(key).ngroups


def test_the_catalog_knows_the_warm_up_weeks_only(dataset: Dataset) -> None:
    products = tables.products_table()
    events = dataset.events
    early = events[events["week"] < cj.FIRST_WEEK]
    np.testing.assert_array_equal(
        cj.catalog(events, products), cj.catalog(early, products)
    )
    assert not dataset.interactions["week"].lt(cj.FIRST_WEEK).any()


def test_the_draw_depends_on_the_seed_alone(dataset: Dataset) -> None:
    met, promoted = dataset.extra["visits"].head(500), dataset.extra["promotions"]
    one, same, other = (cj.impressions(met, promoted, 0.05, s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
