"""Real logs by name: fetched, counted, all in the shape of `schema`.

Each dataset has a module of its own with its source, reader and data card; this one
finds it by name and checks that what was read is what the publisher counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from urlm_helpers.data.download import Source
from urlm_helpers.data.logs import (
    complete_journey,
    complete_journey_tables,
    kuairand,
    lastfm,
    movielens,
)
from urlm_helpers.data.schema import Dataset


class CountError(ValueError):
    """A dataset does not have the rows that its publisher counted."""


class Entry(NamedTuple):
    """A dataset that can be loaded by name.

    `build` returns the `Dataset`, with the counts found in its card.
    """

    build: Callable[[], Dataset]
    source: Source


REGISTRY: dict[str, Entry] = {
    "complete-journey": Entry(complete_journey.build, complete_journey_tables.SOURCE),
    "movielens-100k": Entry(movielens.build_100k, movielens.SOURCE_100K),
    "movielens-1m": Entry(movielens.build_1m, movielens.SOURCE_1M),
    "lastfm-2k": Entry(lastfm.build, lastfm.SOURCE),
    "kuairand-pure": Entry(kuairand.build, kuairand.SOURCE),
}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows.

    Examples
    --------
    >>> "movielens-100k" in names()
    True
    """
    return tuple(REGISTRY)


def overview() -> pd.DataFrame:
    """Return one row per dataset: download size (MB), license, where it comes from.

    Examples
    --------
    >>> float(overview().loc["movielens-1m", "download_mb"])
    5.9
    """
    rows = {}
    for name, (_, source) in REGISTRY.items():
        size = round(source.size / 1e6, 1) if source.size else None
        rows[name] = (size, source.license, source.url)
    table = pd.DataFrame(rows.values(), index=pd.Index(rows, name="dataset"))
    return table.set_axis(["download_mb", "license", "from"], axis=1)


def load(name: str, *, verify: bool = True) -> Dataset:
    """Load a dataset by name, fetching it the first time.

    Parameters
    ----------
    name : str
        One of `names`.
    verify : bool
        Compare the counts found with the publisher's.

    Returns
    -------
    Dataset
        ``print(dataset.card)`` says where it comes from, on what terms, and what is
        wrong with it.

    Raises
    ------
    ValueError
        The name is unknown.
    CountError
        Rows are missing or too many.
    urlm_helpers.data.DownloadError
        The data is not in the cache and can't be fetched.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown dataset {name!r}; known are {', '.join(REGISTRY)}")
    build, source = REGISTRY[name]
    dataset = build()
    if verify:
        found = dataset.card.counts
        wrong = [
            f"{what}: expected {expected:,}, found {found.get(what, 0):,}"
            for what, expected in source.counts.items()
            if found.get(what) != expected
        ]
        if wrong:
            raise CountError(
                f"{name} is not what its publisher counted ({'; '.join(wrong)}). "
                f"Delete the folder {source.folder!r} in the cache and its archive to "
                "fetch them again, or pass verify=False to use the data as it is."
            )
    return dataset
