"""The site's own extension, on a book of one page."""

from __future__ import annotations

import base64
import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book/_ext"))

import drawings  # noqa: E402

FENCE = "flowchart LR\naccTitle: Two steps\naccDescr: A, then B.\nA --> B"
PAGE = f"""# 1.1 History

*发展历程*

*Not a subtitle.* A question?

```mermaid
{FENCE}
```

:::{{figure-of}} other.ipynb
A caption.
:::

<div data-live="toy">A sentence for readers without scripts.</div>
"""
CONFIGURATION = """
extensions = ["myst_parser", "offline_site"]
source_suffix = {".md": "markdown"}  # else Sphinx writes into its shared default
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
html_theme = "pydata_sphinx_theme"
exclude_patterns = ["**.ipynb"]
"""
PNG = base64.b64encode(b"\x89PNG figure").decode()
CELL = {
    "cell_type": "code",
    "metadata": {"mystnb": {"image": {"alt": "A line going up."}}},
    "outputs": [{"output_type": "display_data", "data": {"image/png": PNG}}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "conf.py").write_text(CONFIGURATION)
    (folder / "index.md").write_text(PAGE, encoding="utf-8")
    (folder / "other.ipynb").write_text(json.dumps({"cells": [CELL]}))
    (folder / "drawn").mkdir()
    return folder


def build(folder: Path) -> tuple[BeautifulSoup, str]:
    """Build the page anew and return it with the warnings."""
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
    html = (folder / "out" / "index.html").read_text(encoding="utf-8")
    return BeautifulSoup(html, "html.parser"), warnings.getvalue()


def test_fence_without_a_drawing_fails_and_one_with_it_shows_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawings, "DRAWINGS", folder / "drawn")
    page, warnings = build(folder)
    assert "no drawing of the diagram 'two-steps-" in warnings
    assert "run `make diagrams`" in warnings
    assert page.select_one(".diagram") is None

    wide, narrow = drawings.drawing_files(FENCE, folder / "drawn")
    wide.write_text("<svg id='wide'></svg>")
    page, warnings = build(folder)
    assert "no drawing" not in warnings
    assert page.select_one(".diagram > .only > #wide")
    narrow.write_text("<svg id='narrow'></svg>")
    page, _ = build(folder)
    assert page.select_one(".diagram > .wide > #wide")
    assert page.select_one(".diagram > .narrow > #narrow")

    # Chinese in italics under the title, and no other line, is a subtitle.
    lines = page.select(".page-subtitle")
    assert [(line.get_text(), line["lang"]) for line in lines] == [("发展历程", "zh")]
    assert page.select_one("h1 + .page-subtitle")

    image = page.select_one("figure img[alt='A line going up.']")
    assert image is not None
    assert (folder / "out" / str(image["src"])).read_bytes() == b"\x89PNG figure"
    caption = page.select_one("figcaption")
    assert caption is not None and "A caption." in caption.get_text()

    scripts = " ".join(str(each["src"]) for each in page.select("script[src]"))
    assert "bootstrap.js" in scripts
    for name in ("fontawesome", "searchindex", "searchtools", "mathjax", "mermaid"):
        assert name not in scripts
    search = (folder / "out" / "search.html").read_text(encoding="utf-8")
    assert "searchindex.js" in search and "fontawesome.js" not in search
    # The numbers of a live box come before what draws it, and on no other page.
    assert -1 < scripts.find("_static/live-toy.js") < scripts.find("_static/live.js")
    assert "live" not in search


def test_edited_fence_has_another_drawing() -> None:
    name = drawings.drawing_name(FENCE)
    assert name != drawings.drawing_name(FENCE.replace("A -->", "A -.->"))
    assert name == drawings.drawing_name(FENCE.replace("\n", "\n    "))


def test_notebook_without_a_figure_is_named() -> None:
    with pytest.raises(ValueError, match="no figure"):
        drawings.cover({"cells": []})


def test_cover_goes_before_the_first_figure() -> None:
    """It has its own text with it."""

    def figure(text: str, *tags: str) -> dict[str, Any]:
        data = {"image/png": base64.b64encode(text.encode()).decode()}
        meta = {"tags": list(tags), "mystnb": {"image": {"alt": f"alt of {text}"}}}
        return {"metadata": meta, "outputs": [{"data": data}]}

    empty: dict[str, Any] = {"metadata": {}, "outputs": []}
    cells = [empty, figure("one"), figure("two", "hide-input", "cover")]
    assert drawings.cover({"cells": cells}) == (b"two", "alt of two")
    assert drawings.cover({"cells": cells[:2]}) == (b"one", "alt of one")
