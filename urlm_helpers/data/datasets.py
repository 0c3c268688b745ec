"""Real logs by name: packaged or fetched, counted, all in the shape of `schema`.

Each dataset has a module of its own with its source, reader and data card; this one
finds it by name and checks that what was read is what the publisher counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from urlm_helpers.data.download import Source
from urlm_helpers.data.logs import kuairand, lastfm, movielens
from urlm_helpers.data.schema import Dataset


class CountError(ValueError):
    """A dataset does not have the rows that its publisher counted."""


@dataclass(frozen=True)
class Entry:
    """A dataset that can be loaded by name.

    Parameters
    ----------
    build : callable
        Returns the `Dataset`, with the counts found in its card.
    license : str
        One line.
    counts : mapping of str to int
        What the publisher counted. Empty when `build` checks by itself.
    source : Source, optional
        None when a Python package brings the data.
    """

    build: Callable[[], Dataset]
    license: str
    counts: Mapping[str, int] = field(default_factory=dict)
    source: Source | None = None


def _complete_journey() -> Dataset:
    from urlm_helpers.data.logs import (
        complete_journey,  # needs the package with the data
    )

    return complete_journey.build()


REGISTRY: dict[str, Entry] = {
    "complete-journey": Entry(
        _complete_journey, "see the data card: education, no conclusion on shoppers"
    ),
    "movielens-100k": Entry(
        movielens.build_100k,
        movielens.TERMS,
        {"ratings": 100_000, "users": 943, "movies": 1_682},
        movielens.SOURCE_100K,
    ),
    "movielens-1m": Entry(
        movielens.build_1m,
        movielens.TERMS,
        {
            "ratings": 1_000_209,
            "users": 6_040,
            "movies": 3_883,
            "rated movies": 3_706,
        },
        movielens.SOURCE_1M,
    ),
    "lastfm-2k": Entry(
        lastfm.build,
        lastfm.SOURCE.license,
        {
            "links": 92_834,
            "users": 1_892,
            "artists": 17_632,
            "friend pairs": 25_434,
        },
        lastfm.SOURCE,
    ),
    "kuairand-pure": Entry(
        kuairand.build,
        kuairand.SOURCE.license,
        {
            "standard impressions": 1_436_609,
            "random impressions": 1_186_059,
            "users": 27_285,
            "videos": 7_583,
        },
        kuairand.SOURCE,
    ),
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
    rows = []
    for name, entry in REGISTRY.items():
        size = entry.source.size if entry.source else None
        rows.append(
            {
                "dataset": name,
                "download_mb": round(size / 1e6, 1) if size else None,
                "license": entry.license,
                "from": entry.source.url if entry.source else "a Python package",
            }
        )
    return pd.DataFrame(rows).set_index("dataset")


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
    entry = REGISTRY[name]
    dataset = entry.build()
    if verify:
        found = dataset.card.counts
        wrong = [
            f"{what}: expected {expected:,}, found {found.get(what, 0):,}"
            for what, expected in entry.counts.items()
            if found.get(what) != expected
        ]
        if wrong:
            where = entry.source.folder if entry.source else "the package"
            raise CountError(
                f"{name} is not what its publisher counted ({'; '.join(wrong)}). "
                f"Delete the folder {where!r} in the cache and its archive to fetch "
                "them again, or pass verify=False to use the data as it is."
            )
    return dataset
