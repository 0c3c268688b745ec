"""The reference of the package, on a package of one module and a book of two pages."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book/_ext"))

import package_reference  # noqa: E402

CONFIGURATION = """
extensions = ["myst_nb", "package_reference"]
# Sphinx writes an extension's endings into a default that all its runs here share.
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"
nitpicky = True
root_doc = "book/list"
"""
LIST = """# The list

```{toctree}
page
```

```{eval-rst}
.. wing:: counts
```
"""
MODULE = '''"""What counts."""

import tensorflow  # is not there, and must not be asked for

LIMIT: int = 3
"""No more than so many."""
HIDDEN = 4


def count(x: "Array", *, k: int = LIMIT) -> int:
    r"""Count, as in [1]_.

    .. math:: n = \\\\sum_i x_i

    Parameters
    ----------
    x : array, shape (n,)
        As of :meth:`Counter.fit`.

    References
    ----------
    .. [1] A. Author,
       "A title".
    """


def _private() -> None:
    """Not to be seen."""


class Counter:
    """Counts; see :func:`count` and :func:`numpy.sum`.

    Attributes
    ----------
    total : float
    """

    def __init__(self, start: int) -> None:
        """Start."""

    def fit(self) -> None:
        """Fit."""
'''
CODE = "from urlm_helpers.counts import Counter\n%matplotlib inline\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The built site, and the warnings."""
    top = tmp_path_factory.mktemp("site")
    for folder in ("book", "urlm_helpers/counts"):
        (top / folder).mkdir(parents=True)
    (top / "conf.py").write_text(CONFIGURATION)
    (top / "book/list.md").write_text(LIST)
    (top / "urlm_helpers/counts/__init__.py").write_text(
        "from urlm_helpers.counts.all import Counter\n"
    )
    (top / "urlm_helpers/counts/all.py").write_text(MODULE.replace("\\\\\\\\", "\\\\"))
    cell = {"cell_type": "code", "source": CODE, "execution_count": 1}
    cells = [
        {"cell_type": "markdown", "source": "# 7.7 A page\n\nText.", "metadata": {}},
        {**cell, "outputs": [], "metadata": {}},
    ]
    language = {"language_info": {"name": "python", "pygments_lexer": "python"}}
    page = {"cells": cells, "metadata": language, "nbformat": 4, "nbformat_minor": 4}
    (top / "book/page.ipynb").write_text(json.dumps(page))
    warnings = StringIO()
    with docutils_namespace():
        app = Sphinx(
            top, top, top / "out", top / "trees", "html", status=None, warning=warnings
        )
        app.build()
    return top / "out/book", warnings.getvalue()


def read(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_docstrings_become_entries(site: tuple[Path, str]) -> None:
    folder, warnings = site
    assert warnings == ""
    page = read(folder / "list.html")
    anchors = {str(each["id"]) for each in page.select("dt.sig")}
    names = {"urlm_helpers.counts.all.count", "urlm_helpers.counts.all.LIMIT"}
    names |= {"urlm_helpers.counts.Counter", "urlm_helpers.counts.Counter.fit"}
    assert anchors == names  # as one imports them; nothing private, no __init__
    said = page.get_text()
    assert "count(x, *, k=LIMIT)" in said and "Counter(start)" in said
    assert "array, shape (n,)" in said and "as in [1]" in said
    assert page.select_one(".math") is not None
    assert [each.get_text() for each in page.select("ol li")] == [
        "A. Author,\n“A title”."
    ]
    links = {str(each.get("href")) for each in page.select("a.reference")}
    assert {
        "#urlm_helpers.counts.Counter.fit",
        "#urlm_helpers.counts.all.count",
    } <= links


def test_names_and_pages_are_linked_both_ways(site: tuple[Path, str]) -> None:
    folder, _ = site
    on_pages = read(folder / "list.html").select("dl.class a[href='page.html']")
    assert [each.get_text() for each in on_pages] == ["7.7"]
    assert not read(folder / "list.html").select("dl.function a[href='page.html']")
    back = read(folder / "page.html").select(
        "a[href='list.html#urlm_helpers.counts.Counter']"
    )
    assert [each.get_text() for each in back] == ["Counter"]


def test_a_name_that_is_not_there_is_reported(site: tuple[Path, str]) -> None:
    """The site is built with warnings as errors."""
    folder = site[0].parents[1]
    module = folder / "urlm_helpers/counts/all.py"
    module.write_text(MODULE.replace(":func:`count`", ":func:`lost`"))
    package_reference.wing.cache_clear()
    warnings = StringIO()
    with docutils_namespace():
        app = Sphinx(
            folder,
            folder,
            folder / "out",
            folder / "trees",
            "html",
            status=None,
            warning=warnings,
            freshenv=True,
        )
        app.build(force_all=True)
    assert "reference target not found: lost" in warnings.getvalue()
