"""The Complete Journey as impressions: who stood in front of which promoted product.

The logs of 84.51° hold what 2,469 households bought, and which products were on
display or in the mailer in which store and week. Put together they say more than
either alone: a household that shopped in a store in a week *could have bought* each
product promoted there. One row is one such pair, and the promotion is its scenario.
"""

from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.cleaning import clean
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.logs.complete_journey_tables import (
    CARD,
    DEMOGRAPHICS,
    FIRST_WEEK,
    coupon_at_hand,
    households_table,
    products_table,
    promotions,
    purchases,
)
from urlm_helpers.data.schema import Dataset, Schema

MIN_PURCHASES = 20
"""Baskets in weeks 1-13 that a product needs to be in the catalog."""

NEGATIVE_RATE = 0.02
"""Share of the impressions without a purchase that the log keeps."""

NOT_PRODUCTS = ["COUPON", "FUEL", "MISCELLANEOUS", "TRAVEL & LEISURE"]
SCENARIOS = ("display", "mailer", "both")
TASKS = ("buy", "several", "coupon")
READING: dict[str, Any] = {
    "valid_from": "2017-09-25 04:00",
    "test_from": "2017-10-30 04:00",
    "look_back": [
        ["user", "item"],
        ["user", "product_type"],
        ["user", "product_category"],
        ["user", "manufacturer_id"],
        ["user"],
        ["user", "store"],
        ["item"],
        ["item", "store"],
        ["product_type"],
    ],
    "history_fields": ["item", "product_type"],
    "history_length": 20,
}
"""How Part 5 reads the log: arguments of :func:`urlm_helpers.preprocessing.prepare`.
Weeks 14 to 39 train, 40 to 44 validate, 45 to 53 test (weeks begin on Monday at four).
"""

VISIT = ["user", "store", "week"]


def catalog(bought: pd.DataFrame, products: pd.DataFrame) -> np.ndarray:
    """Choose the products to recommend from, with the warm-up weeks' sales alone.

    Parameters
    ----------
    bought : DataFrame
        As of :func:`purchases`.
    products : DataFrame
        The package's table of products.

    Returns
    -------
    ndarray
        Sorted ids of the products with at least ``MIN_PURCHASES`` baskets before
        week ``FIRST_WEEK``; fuel, coupons and trips are no shelf products.
    """
    early = bought.loc[bought["week"] < FIRST_WEEK, "item"].value_counts()
    shelf = products.loc[~products["department"].isin(NOT_PRODUCTS), "item"]
    return np.intersect1d(early.index[early >= MIN_PURCHASES], shelf)


def visits(bought: pd.DataFrame) -> pd.DataFrame:
    """Return each household's visit to a store in a week, with its first moment."""
    since = bought[bought["week"] >= FIRST_WEEK]
    return since.groupby(VISIT, as_index=False, sort=True).agg({"time": "min"})


def offers(visits: pd.DataFrame, promoted: pd.DataFrame) -> pd.DataFrame:
    """Return the block of ``promoted`` that each visit met.

    Parameters
    ----------
    visits : DataFrame
        As of :func:`visits`.
    promoted : DataFrame
        As of :func:`promotions`: sorted by store and week, with a default index.

    Returns
    -------
    DataFrame
        ``visits`` in stores with promotions, with ``first`` (row of ``promoted``)
        and ``offered`` (how many rows from there on).
    """
    place = promoted.groupby(["store", "week"], sort=True)["item"]
    blocks = place.size().rename("offered").reset_index()
    blocks["first"] = blocks["offered"].cumsum() - blocks["offered"]
    return visits.merge(blocks, on=["store", "week"])


def impressions(
    visits: pd.DataFrame, promoted: pd.DataFrame, rate: float, seed: int
) -> pd.DataFrame:
    """Draw impressions, each pair of a visit and an offered product alike.

    Every one of the some 30 million pairs is kept with probability ``rate``,
    independently. Gaps between kept pairs are then geometric, so the pairs that are
    not kept are never made.

    Parameters
    ----------
    visits : DataFrame
        As of :func:`offers`.
    promoted : DataFrame
        As of :func:`promotions`.
    rate : float
        In (0, 1]; 1 keeps every pair.
    seed : int
        Of the draw.

    Returns
    -------
    DataFrame
        ``user``, ``store``, ``week``, ``time``, ``item``, ``display``, ``mailer``,
        ``scenario``.
    """
    ends = visits["offered"].cumsum().to_numpy()
    total = int(ends[-1])
    if rate < 1:
        rng = np.random.default_rng(seed)
        guess = int(total * rate + 6 * np.sqrt(total * rate) + 10)
        at = np.cumsum(rng.geometric(rate, guess)) - 1
        at = at[at < total]
    else:
        at = np.arange(total)
    visit = np.searchsorted(ends, at, side="right")
    within = at - (ends[visit] - visits["offered"].to_numpy()[visit])
    row = visits["first"].to_numpy()[visit] + within
    met = visits[[*VISIT, "time"]].iloc[visit].reset_index(drop=True)
    shown = promoted[["item", "display", "mailer", "scenario"]].iloc[row]
    return pd.concat([met, shown.reset_index(drop=True)], axis=1)


def outcomes(bought: pd.DataFrame) -> pd.DataFrame:
    """Return what each visit bought: one row per visit and product, with the labels.

    Returns
    -------
    DataFrame
        ``user``, ``store``, ``week``, ``item`` and the tasks: ``buy`` (1),
        ``several`` (two units or more over the week), ``coupon`` (at least one unit
        with a manufacturer's coupon).
    """
    since = bought[bought["week"] >= FIRST_WEEK]
    each = since.groupby([*VISIT, "item"], as_index=False)
    table = each.agg(quantity=("quantity", "sum"), coupon=("coupon", "max"))
    table["buy"] = np.int8(1)
    table["several"] = (table["quantity"] >= 2).astype("int8")
    return table.drop(columns="quantity")


def with_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Add what else was known when the visit began: coupon, weekday and hour."""
    hours = np.array([f"{hour:02d}" for hour in range(24)], dtype=object)
    return rows.assign(
        coupon_at_hand=coupon_at_hand(rows),
        weekday=rows["time"].dt.day_name().str[:3],
        hour=hours[rows["time"].dt.hour],
    )


def label(rows: pd.DataFrame, outcome: pd.DataFrame) -> pd.DataFrame:
    """Join the labels of :func:`outcomes`; what was not bought is 0 everywhere."""
    tasks = list(TASKS)
    labelled = rows.merge(outcome, on=[*VISIT, "item"], how="left")
    labelled[tasks] = labelled[tasks].fillna(0).astype("int8")
    return labelled


def build(negative_rate: float = NEGATIVE_RATE, seed: int = 0) -> Dataset:
    """Make the impressions of weeks 14 to 53 and everything around them.

    Parameters
    ----------
    negative_rate : float
        Share of the impressions without a purchase to keep; every purchase is kept.
    seed : int
        Of that draw.

    Returns
    -------
    Dataset
        Scenarios ``display``, ``mailer``, ``both``; tasks ``buy`` → ``several`` and
        ``buy`` → ``coupon``; ``events`` are all purchases, promoted or not, from
        week 1 on; ``extra`` holds ``cleaning`` (the report), ``promotions`` and
        ``visits`` (as of :func:`offers`), from which any visit's full list of
        offers can be made.
    """
    bought, report = purchases()
    products = products_table()
    listed = {"item": lambda item: item.isin(products["item"])}
    bought, unlisted = clean(bought, name="transactions", valid=listed)
    items = catalog(bought, products)
    promoted, promotion_report = promotions(items)
    met = offers(visits(bought), promoted)
    outcome = outcomes(bought)

    drawn = label(impressions(met, promoted, negative_rate, seed), outcome)
    unbought = drawn[drawn["buy"] == 0]
    sold = met[[*VISIT, "time"]].merge(outcome[outcome["item"].isin(items)], on=VISIT)
    sold = sold.merge(promoted, on=["store", "week", "item"])
    rows = pd.concat([sold[unbought.columns], unbought], ignore_index=True)
    rows = with_context(rows.sort_values(["time", *VISIT, "item"], ignore_index=True))
    cleaning = pd.concat([report, unlisted, promotion_report], ignore_index=True)
    kinds = products[["item", "product_category", "product_type"]]
    return from_frames(
        rows,
        households_table(bought),
        products,
        schema=Schema(
            scenarios=SCENARIOS,
            tasks=TASKS,
            funnel={"several": "buy", "coupon": "buy"},
            user_categorical=tuple(DEMOGRAPHICS),
            item_categorical=(
                "department",
                "product_category",
                "product_type",
                "manufacturer_id",
                "brand",
            ),
            context_categorical=(
                "store",
                "display",
                "mailer",
                "coupon_at_hand",
                "weekday",
                "hour",
            ),
            item_name="name",
            consumed_again=True,
            negative_rate=negative_rate,
        ),
        events=bought.merge(kinds, on="item"),
        name="complete-journey",
        card=CARD,
        extra={"cleaning": cleaning, "promotions": promoted, "visits": met},
    )


def all_offers(dataset: Dataset, met: pd.DataFrame) -> pd.DataFrame:
    """Return every product that was promoted where and when the given visits were.

    Parameters
    ----------
    dataset : Dataset
        As of :func:`build`.
    met : DataFrame
        Rows of ``dataset.extra["visits"]``.

    Returns
    -------
    DataFrame
        As ``dataset.interactions``, with nothing sampled: the full list of offers of
        each visit, some 480 a visit.
    """
    rows = impressions(met, dataset.extra["promotions"], rate=1.0, seed=0)
    since = met["time"].min()
    rows = label(rows, outcomes(dataset.events[dataset.events["time"] >= since]))
    return with_context(rows)
