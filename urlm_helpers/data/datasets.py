"""Real logs by name: packaged or fetched, counted, all in the shape of `schema`.

Each dataset has a module of its own with its source, reader and data card; this one
finds it by name and checks that what was read is what the publisher counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from urlm_helpers.data.download import Source
from urlm_helpers.data.logs import kuairand, lastfm, movielens
from urlm_helpers.data.schema import Dataset


class CountError(ValueError):
    """A dataset does not have the rows that its publisher counted."""


class Entry(NamedTuple):
    """A dataset that can be loaded by name.

    `build` returns the `Dataset`, with the counts found in its card; `source` is None
    when a Python package brings the data.
    """

    build: Callable[[], Dataset]
    source: Source | None


def _complete_journey() -> Dataset:
    from urlm_helpers.data.logs import complete_journey  # reads Parquet files

    return complete_journey.build()


REGISTRY: dict[str, Entry] = {
    "complete-journey": Entry(_complete_journey, None),
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
    terms = "see the data card: education, no conclusion on shoppers"
    rows = {}
    for name, (_, source) in REGISTRY.items():
        size = round(source.size / 1e6, 1) if source and source.size else None
        rest = (source.license, source.url) if source else (terms, "a Python package")
        rows[name] = (size, *rest)
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
    if verify and source:
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
