"""Draw the book's diagrams: each Mermaid fence, once, into `book/_diagrams/`.

``python tools/diagrams.py``
    draws the fences that have no drawing, and removes drawings that no fence has.
``python tools/diagrams.py --again``
    draws all of them anew, for instance after a change of this file.

Needs Chromium or Chrome on the ``PATH``, or its path in ``CHROMIUM``.

Mermaid lays a diagram out in the browser; what it makes is then reduced to shapes,
lines and texts. Colors come from the style sheet, so that a drawing follows the page's
light or dark mode; the attributes that stay are those of a light page, for readers
who open the file itself. Labels are centered on their boxes, because the font
that a reader has may be wider than the one that was drawn with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import drawings  # noqa: E402  (the extension of the site; it has no package)

SCRIPT = ROOT / "tools" / "_vendor" / "mermaid" / "mermaid.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FENCE = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)
SVG = "{http://www.w3.org/2000/svg}"

# A page's column has about 720 px, a phone's 340 px, and texts are drawn with 16 px.
# A drawing is scaled down to fit, so these keep texts above 14 px and above 11 px.
WIDE, NARROW = 820.0, 510.0
TOLERANCE = 0.08  # of the width or the height, between two machines' fonts
SPACINGS: tuple[dict[str, int], ...] = (
    {"nodeSpacing": 40, "rankSpacing": 40, "padding": 12, "wrappingWidth": 300},
    {"nodeSpacing": 24, "rankSpacing": 32, "padding": 10, "wrappingWidth": 300},
    {"nodeSpacing": 14, "rankSpacing": 28, "padding": 8, "wrappingWidth": 176},
    {"nodeSpacing": 6, "rankSpacing": 26, "padding": 5, "wrappingWidth": 104},
)
CONFIGURATION = {
    "startOnLoad": False,
    "htmlLabels": False,
    "theme": "neutral",
    # Arial and its metric twins are on every system.
    "fontFamily": "Arial, Helvetica, sans-serif",
}
DRAW = """async ([source, configuration]) => {
    mermaid.initialize(configuration);
    return (await mermaid.render("drawing", source)).svg;
}"""

# What is kept of Mermaid's elements, and how they look where no style sheet is.
GEOMETRY = {"transform", "d", "points", "x", "y", "dy", "width", "height"}
GEOMETRY |= {"rx", "ry", "r", "cx", "cy"}
LOOKS = {
    "node": {"fill": "#f3f4f5", "stroke": "#67707b"},
    "edge": {"fill": "none", "stroke": "#67707b"},
    "label": {"fill": "#ffffff"},
    "head": {"fill": "#67707b"},
    "text": {"fill": "#222832", "text-anchor": "middle"},
}


@dataclass(frozen=True)
class Diagram:
    """A Mermaid fence of a page."""

    page: Path
    source: str

    @property
    def name(self) -> str:
        """The name of its drawing."""
        return drawings.drawing_name(self.source)


def fences(root: Path = ROOT) -> list[Diagram]:
    """Return the diagrams of the book, in the order of the files."""
    found = []
    for path in sorted((root / "book").rglob("*")):
        if path.suffix == ".md":
            texts = [path.read_text(encoding="utf-8")]
        elif path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            texts = ["".join(c["source"]) for c in cells if c["cell_type"] != "code"]
        else:
            continue
        found += [Diagram(path, each) for text in texts for each in FENCE.findall(text)]
    return found


def turned(source: str) -> str:
    r"""Return a left-to-right diagram as one from top to bottom.

    Examples
    --------
    >>> turned("flowchart LR\nA --> B")
    'flowchart TB\nA --> B'
    """
    return re.sub(r"^(\s*(?:flowchart|graph)) LR\b", r"\1 TB", source)


def browser_path() -> str:
    """Return where Chromium or Chrome is, or nothing."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    return str(found)


def load_mermaid(page: Page) -> None:
    """Make an empty page of a browser able to draw."""
    page.set_content("<!doctype html><title>drawing</title>")
    page.add_script_tag(path=SCRIPT)


def draw(page: Page, source: str) -> list[str]:
    """Draw a diagram, and again for a phone if its texts would be too small there.

    Returns
    -------
    list of str
        The drawing as SVG, and the narrow one if there is need of it.
    """
    name = drawings.drawing_name(source)
    drawn = [fitted(page, source, name, WIDE)]
    if width(drawn[0]) > NARROW:
        drawn.append(fitted(page, turned(source), f"{name}-narrow", NARROW))
    return drawn


def fitted(page: Page, source: str, name: str, limit: float) -> str:
    """Draw a diagram as loosely as a width allows."""
    for spacing in SPACINGS:
        configuration = {
            **CONFIGURATION,
            "flowchart": {"htmlLabels": False, **spacing},
        }
        svg = reduced(page.evaluate(DRAW, [source, configuration]), name)
        if width(svg) <= limit:
            return svg
    raise SystemExit(f"{name}: {width(svg):.0f} px wide, and {limit:g} are too many")


def width(svg: str) -> float:
    """Return the width of a drawing in its own pixels."""
    return float(ET.fromstring(svg).attrib["viewBox"].split()[2])


def reduced(svg: str, name: str) -> str:
    """Return a drawing of Mermaid's with its shapes, lines and texts, and no more.

    Raises
    ------
    SystemExit
        If the diagram has no title and description for those who cannot see it.
    """
    root = ET.fromstring(svg)
    title, about = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    if title is None or about is None:
        raise SystemExit(f"{name}: a diagram needs `accTitle:` and `accDescr:`")
    box = [rounded(each) for each in root.attrib["viewBox"].split()]
    out = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": " ".join(box),
            "width": box[2],
            "height": box[3],
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
            "font-family": "Arial, Helvetica, sans-serif",
            "font-size": "16",
        },
    )
    ET.SubElement(out, "title", {"id": f"{name}-title"}).text = title.text
    ET.SubElement(out, "desc", {"id": f"{name}-desc"}).text = about.text
    marker = ET.SubElement(
        out,
        "marker",
        {
            "id": f"{name}-head",
            "viewBox": "0 0 10 10",
            "refX": "5",
            "refY": "5",
            "markerUnits": "userSpaceOnUse",
            "markerWidth": "8",
            "markerHeight": "8",
            "orient": "auto",
        },
    )
    ET.SubElement(
        marker, "path", {"class": "head", "d": "M 0 0 L 10 5 L 0 10 z", **LOOKS["head"]}
    )
    for child in root:
        keep(child, out, "", name)
    ET.indent(out, space=" ")
    text = ET.tostring(out, encoding="unicode")
    # A line break inside a text would be a space on the page.
    return re.sub(r">\s+(</?tspan|</text)", r">\1", text) + "\n"


def keep(element: Any, parent: Any, kind: str, name: str) -> None:
    """Copy what is to be seen of an element, and of those inside it, to a parent."""
    tag = element.tag.removeprefix(SVG)
    classes = set(element.get("class", "").split())
    kind = next((each for each in KINDS if each in classes), kind)
    if tag == "g":
        group = parent
        if element.get("transform"):
            group = ET.SubElement(parent, "g", kept(element))
        for child in element:
            keep(child, group, kind, name)
        if group is not parent and len(group) == 0:
            parent.remove(group)
    elif tag == "text":
        keep_text(element, parent)
    elif tag in {"rect", "circle", "ellipse", "polygon", "path"}:
        role = KINDS.get(kind, "")
        if not role or (tag == "rect" and not element.get("width")):
            return
        if role == "node" and "background" in classes:
            return
        look = {"class": role, **LOOKS[role]}
        if "edge-pattern-dotted" in classes or "edge-pattern-dashed" in classes:
            look["stroke-dasharray"] = "3"
        if element.get("marker-end"):
            look["marker-end"] = f"url(#{name}-head)"
        ET.SubElement(parent, tag, kept(element) | look)


KINDS = {"node": "node", "flowchart-link": "edge", "edgeLabel": "label"}


def keep_text(element: Any, parent: Any) -> None:
    """Copy a text, one element a line, centered on the box behind it."""
    lines = [
        ("".join(line.itertext()).strip(), line.get("y", "0"), line.get("dy", "0"))
        for line in element
    ]
    if not any(words for words, _, _ in lines):
        return
    boxes = [each for each in parent if each.get("class") == "label"]
    middle = "0"
    if boxes:
        box = boxes[-1]
        middle = rounded(float(box.get("x", 0)) + float(box.get("width", 0)) / 2)
    text = ET.SubElement(
        parent, "text", {"y": rounded(element.get("y", "0")), **LOOKS["text"]}
    )
    for words, y, dy in lines:
        ET.SubElement(text, "tspan", {"x": middle, "y": y, "dy": dy}).text = words


def kept(element: Any) -> dict[str, str]:
    """Return the attributes of an element that say where and how large it is."""
    return {
        key: rounded(value)
        for key, value in element.attrib.items()
        if key in GEOMETRY and value
    }


def rounded(value: Any) -> str:
    """Round every number of an attribute to a tenth of a pixel.

    Examples
    --------
    >>> rounded("translate(1.0499, -20)")
    'translate(1, -20)'
    """
    return re.sub(
        r"-?\d+\.?\d*(?:e-?\d+)?",
        lambda match: f"{round(float(match[0]), 1) + 0.0:g}",
        str(value),
    )


def differences(committed: str, drawn: str) -> list[str]:
    """List what differs between two drawings of one diagram, fonts aside.

    Compared are the shapes, lines and texts in their order, the title and the
    description, and where each box and label stands, as a share of the width and the
    height: on another machine's fonts all boxes grow or shrink together.
    """
    old, new = structure(committed), structure(drawn)
    faults = [
        f"committed {a}, drawn {b}"
        for a, b in zip_longest(old, new, fillvalue="nothing")
        if a != b
    ]
    if faults:
        return faults
    moved = [
        f"moved from {a} to {b}, in shares of the drawing"
        for a, b in zip(places(committed), places(drawn), strict=True)
        if max(abs(a[0] - b[0]), abs(a[1] - b[1])) > TOLERANCE
    ]
    shape, now = (math.log(each) for each in (proportion(committed), proportion(drawn)))
    if abs(shape - now) > math.log(1 + 2 * TOLERANCE):
        moved.append(f"proportions {math.exp(shape):.2f}, drawn {math.exp(now):.2f}")
    return moved


def structure(svg: str) -> list[str]:
    """Return what a drawing consists of: its shapes, lines and texts, in order."""
    return [
        " ".join(
            filter(
                None,
                [
                    each.tag.removeprefix(SVG),
                    each.get("class"),
                    each.get("stroke-dasharray"),
                    (each.text or "").strip(),
                ],
            )
        )
        for each in ET.fromstring(svg).iter()
    ]


def proportion(svg: str) -> float:
    """Return a drawing's width over its height."""
    wide, high = ET.fromstring(svg).attrib["viewBox"].split()[2:]
    return float(wide) / float(high)


def places(svg: str) -> list[tuple[float, float]]:
    """Return where the groups of a drawing stand, as shares of its width and height."""
    root = ET.fromstring(svg)
    _, _, wide, high = map(float, root.attrib["viewBox"].split())
    moves = [
        re.match(r"translate\((\S+?), (\S+?)\)", each.get("transform", ""))
        for each in root
    ]
    return [
        (round(float(m[1]) / wide, 3), round(float(m[2]) / high, 3)) for m in moves if m
    ]


def main() -> None:
    """Draw what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--again", action="store_true", help="draw all of them anew")
    again = parser.parse_args().again
    path = browser_path()
    if not path:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)}, no $CHROMIUM")
    drawings.DRAWINGS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--headless=new", "--no-sandbox"]
        )
        page = browser.new_page()
        load_mermaid(page)
        for diagram in fences():
            files = drawings.drawing_files(diagram.source)
            if again or not files[0].exists():
                for file, svg in zip(files, draw(page, diagram.source), strict=False):
                    file.write_text(svg, encoding="utf-8")
                    print(f"{diagram.page.name}: {file.relative_to(ROOT)}")
        browser.close()
    wanted = {f for each in fences() for f in drawings.drawing_files(each.source)}
    for file in set(drawings.DRAWINGS.glob("*.svg")) - wanted:
        file.unlink()
        print(f"removed {file.relative_to(ROOT)}: no page has it any more")


if __name__ == "__main__":
    main()
