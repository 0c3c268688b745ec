"""MovieLens 100K and 1M: one row per rating, one scenario, one task (`like`).

A rating is the outcome, so it is kept as a column but is no feature. The genres of a
movie stand in alphabetical order, so "the first genre" means nothing: they become one
0/1 column each, and the text with all of them stays for people to read.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from urlm_helpers.data.download import fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import Dataset, Schema
from urlm_helpers.data.sheets import card, source

LIKED = 4
"""Ratings from here on count as a like."""

GENRES = (
    "Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
FLAGS = {g: "genre_" + g.lower().replace("-", "_").replace("'", "") for g in GENRES}
SOURCE_100K, SOURCE_1M = source("movielens-100k"), source("movielens-1m")


def build_100k() -> Dataset:
    """Read MovieLens 100K, fetching it when it is not in the cache.

    Returns
    -------
    Dataset
        ``card.counts`` holds the numbers of `ratings`, `users` and `movies` read.
    """
    folder = fetch(SOURCE_100K)
    ratings = _read(folder / "u.data", "\t", ["user", "item", "rating", "time"])
    names = ["user", "age", "gender", "occupation", "zip"]
    users = _read(folder / "u.user", "|", names)
    names = ["item", "title", "date", "video_date", "url", "unknown", *GENRES]
    items = _read(folder / "u.item", "|", names)
    has = items[GENRES].to_numpy() == 1
    items["genres"] = ["|".join(np.compress(row, GENRES)) for row in has]
    return _dataset("movielens-100k", ratings, users, items)


def build_1m() -> Dataset:
    """Read MovieLens 1M, fetching it when it is not in the cache.

    Returns
    -------
    Dataset
        ``card.counts`` holds the numbers of `ratings`, `users`, `movies` listed and
        `rated movies` read.
    """
    folder = fetch(SOURCE_1M)
    # "::" would need pandas' slow parser; ":" with an empty column between is the same
    names = ["user", "", "item", "", "rating", "", "time"]
    ratings = _read(folder / "ratings.dat", ":", names)
    names = ["user", "", "gender", "", "age", "", "occupation", "", "zip"]
    users = _read(folder / "users.dat", ":", names)
    lines = (folder / "movies.dat").read_text("latin-1").splitlines()
    rows = [line.split("::") for line in lines if line]
    items = pd.DataFrame(rows, columns=["item", "title", "genres"])
    items["item"] = items["item"].astype("int64")
    return _dataset("movielens-1m", ratings, users, items)


def _read(path: Path, separator: str, names: list[str]) -> pd.DataFrame:
    used = [i for i, name in enumerate(names) if name]
    return pd.read_csv(
        path,
        sep=separator,
        header=None,
        usecols=used,
        names=[names[i] for i in used],
        dtype={"zip": str},
        encoding="latin-1",
        quoting=csv.QUOTE_NONE,
    )


def _dataset(
    name: str, ratings: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> Dataset:
    ratings["scenario"] = "movies"
    ratings["like"] = (ratings["rating"] >= LIKED).astype("int8")
    ratings = ratings[["user", "item", "scenario", "time", "like", "rating"]]
    users["zip_prefix"] = users["zip"].str[0]  # a group of states; five digits: a few
    year = items["title"].str.extract(r".*\((\d{4})\)", expand=False)
    items["year"] = pd.to_numeric(year).astype("float64")
    for genre, flag in FLAGS.items():
        has = ("|" + items["genres"] + "|").str.contains(f"|{genre}|", regex=False)
        items[flag] = has.astype("int8")
    counts = {"ratings": len(ratings), "users": len(users), "movies": len(items)}
    about: tuple[str, ...] = ("gender", "occupation", "zip_prefix")
    age: tuple[str, ...] = ("age",)
    if name == "movielens-1m":  # which has brackets of age
        counts["rated movies"] = ratings["item"].nunique()
        about, age = (*about, *age), ()
    return from_frames(
        ratings,
        users.drop(columns="zip"),
        items[["item", "title", "genres", "year", *FLAGS.values()]],
        schema=Schema(
            scenarios=("movies",),
            tasks=("like",),
            user_categorical=about,
            user_numeric=age,
            item_numeric=("year", *FLAGS.values()),
            item_name="title",
        ),
        name=name,
        card=replace(card(name), counts=counts),
    )
