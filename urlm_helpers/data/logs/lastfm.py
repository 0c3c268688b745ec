"""Last.fm 2K (HetRec 2011): who listens to which artist, and who is whose friend."""

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd

from urlm_helpers.data.download import fetch
from urlm_helpers.data.frames import from_frames
from urlm_helpers.data.schema import Dataset, Schema
from urlm_helpers.data.sheets import card, source

SOURCE = source("lastfm-2k")


def build() -> Dataset:
    """Read Last.fm 2K, fetching it when it is not in the cache.

    Returns
    -------
    Dataset
        Untimed; ``extra["friends"]`` holds each friendship in both directions (`user`,
        `friend`). Without the file ``artists.dat`` an artist is named "artist 123".
        ``card.counts`` holds the numbers of `links`, `users`, `artists` and
        `friend pairs` read.
    """
    folder = fetch(SOURCE)
    links = _read(folder / "user_artists.dat", ["user", "item", "plays"])
    links.insert(2, "scenario", "music")
    links["listen"] = 1
    friends = _read(folder / "user_friends.dat", ["user", "friend"])
    users = pd.DataFrame({"user": links["user"].drop_duplicates().sort_values()})
    items = pd.DataFrame({"item": links["item"].drop_duplicates().sort_values()})
    items["name"] = "artist " + items["item"].astype(str)
    if (folder / "artists.dat").is_file():
        artists = _read(folder / "artists.dat", ["item", "name"]).set_index("item")
        items["name"] = items["item"].map(artists["name"]).fillna(items["name"])
    counts = {
        "links": len(links),
        "users": len(users),
        "artists": len(items),
        "friend pairs": len(friends),
    }
    return from_frames(
        links,
        users,
        items,
        schema=Schema(
            scenarios=("music",), tasks=("listen",), item_name="name", timed=False
        ),
        name="lastfm-2k",
        card=replace(card("lastfm-2k"), counts=counts),
        extra={"friends": friends},
    )


def _read(path: Path, names: list[str]) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep="\t",
        header=0,
        names=names,
        usecols=range(len(names)),
        encoding="utf-8",
        encoding_errors="replace",  # a broken letter in a name is no reason to stop
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,  # an artist may be called "NA"
    )
