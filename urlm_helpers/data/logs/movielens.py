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

from urlm_helpers.data.download import Source, fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import DataCard, Dataset, Schema

LIKED = 4
"""Ratings from here on count as a like."""

GENRES = (
    "Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
FLAGS = {g: "genre_" + g.lower().replace("-", "_").replace("'", "") for g in GENRES}
TERMS = "research use only; no redistribution, no commercial use without permission"
SOURCE_100K = Source(
    title="MovieLens 100K",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    folder="ml-100k",
    files=("u.data", "u.item", "u.user"),
    license=TERMS,
    checksum="sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    size=4_924_029,
    counts={"ratings": 100_000, "users": 943, "movies": 1_682},
)
SOURCE_1M = Source(
    title="MovieLens 1M",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    folder="ml-1m",
    files=("ratings.dat", "movies.dat", "users.dat"),
    license=TERMS,
    checksum="sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    size=5_917_549,
    counts={
        "ratings": 1_000_209,
        "users": 6_040,
        "movies": 3_883,
        "rated movies": 3_706,
    },
)
PROBLEMS = (
    "There are no impressions: only movies that a user chose to rate are in the log, "
    "so `like` is 'liked, given that it was rated'. More than half of the rows are 1.",
    "The time is when the rating was typed in, not when the movie was seen. Most users "
    "rated dozens of movies in one session, so the order within a user says little.",
    "Users with fewer than 20 ratings were removed: there is no cold start.",
)


def _card(title: str, origin: str, problems: tuple[str, ...]) -> DataCard:
    return DataCard(
        title=title,
        origin=f"GroupLens Research, University of Minnesota: {origin}.",
        license="Free for research. You may not redistribute the data, use it "
        "commercially or to earn money without GroupLens's permission, or suggest that "
        "GroupLens or the university endorses you; publications must cite it.",
        citation="F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and "
        "Context. ACM Transactions on Interactive Intelligent Systems 5(4), 2015, "
        "article 19. doi:10.1145/2827872",
        known_problems=(*PROBLEMS, *problems),
    )


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
    card = _card(
        "MovieLens 100K",
        "ratings of movies on its site, September 1997 to April 1998",
        ("18 movies have two ids each. One movie's title is unknown.",),
    )
    return _dataset("movielens-100k", ratings, users, items, card, True)


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
    card = _card(
        "MovieLens 1M",
        "ratings of movies on its site by users who joined in 2000",
        (
            "Age is given in seven brackets and the occupation as a code.",
            "177 of the movies listed have no rating.",
        ),
    )
    return _dataset("movielens-1m", ratings, users, items, card, False)


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
    name: str,
    ratings: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    card: DataCard,
    age_is_number: bool,
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
    if name == "movielens-1m":
        counts["rated movies"] = ratings["item"].nunique()
    about = ("gender", "occupation", "zip_prefix")
    return from_frames(
        ratings,
        users.drop(columns="zip"),
        items[["item", "title", "genres", "year", *FLAGS.values()]],
        schema=Schema(
            scenarios=("movies",),
            tasks=("like",),
            user_categorical=about if age_is_number else (*about, "age"),
            user_numeric=("age",) if age_is_number else (),
            item_numeric=("year", *FLAGS.values()),
            item_name="title",
        ),
        name=name,
        card=replace(card, counts=counts),
    )
