"""Page 9.1: no verdict without its check, no number that its page does not have."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = pd.read_csv(
    ROOT / "urlm_helpers" / "results" / "claims.csv", keep_default_na=False, dtype=str
)
VERDICTS = {"held", "under a condition", "did not hold", "not shown here"}
EVIDENCE = {"real data", "simulation", "argument or program"}
LETTERS = {"R": "real data", "S": "simulation", "A": "argument or program"}
VERDICT = re.compile(r"\*\*(.+?)\*\*(?: \((.+)\))? ([RSA])")
FOUND = re.compile(r"(.+) \(\[.+\]\(\.\./(.+)\.ipynb\)\)")
NUMBER = re.compile(r"\d[\d,.]*\d|\.\d+|\d")


@cache
def text(page: str) -> str:
    """Sources, printed outputs and alt texts of a page."""
    book = nbformat.read(ROOT / "book" / f"{page}.ipynb", as_version=4)
    parts = []
    for cell in book.cells:
        parts.append(cell.source)
        parts.append(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
        for output in cell.get("outputs", []):
            parts.append(output.get("text", ""))
            parts.append(output.get("data", {}).get("text/plain", ""))
    return "\n".join(parts)


def has(page: str, number: str) -> bool:
    """Say whether a page has a number, .5 being 0.5."""
    whole = number.removeprefix("0") if number.startswith("0.") else number
    return bool(re.search(rf"(?<![\d])0?{re.escape(whole)}(?!\d)", text(page)))


@pytest.mark.parametrize("row", list(CLAIMS.itertuples()), ids=lambda row: row.section)
def test_a_verdict_has_a_check_and_its_page_the_numbers(row: tuple[str, ...]) -> None:
    section, claim, verdict, condition, found, page, check, evidence = row[1:]
    assert verdict in VERDICTS, f"{section}: {verdict!r} is none of {VERDICTS}"
    assert (verdict == "under a condition") == bool(condition), section
    assert evidence in EVIDENCE, f"{section}: {evidence!r} is none of {EVIDENCE}"
    title = f"# @title ✓ Checked: {check}"
    assert title in text(page).splitlines(), f"{page} has no cell {title!r}: {claim}"
    lost = [number for number in NUMBER.findall(found) if not has(page, number)]
    assert not lost, f"{page} no longer has {lost} of {found!r}"


def test_the_page_prints_each_row_once() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text("9-trends/9-1-found").splitlines()
        if re.match(r"\| (\d|A)[.\d]* \|", line) and "**" in line
    ]
    printed = {
        (
            section,
            claim,
            *VERDICT.findall(verdict)[0][:2],
            *FOUND.findall(found)[0],
            LETTERS[VERDICT.findall(verdict)[0][2]],
        )
        for section, claim, verdict, found in rows
    }
    wanted = {(*row[1:7], row.evidence) for row in CLAIMS.itertuples()}
    assert len(rows) == len(CLAIMS) and printed == wanted


def test_every_section_of_the_document_has_a_claim() -> None:
    """Those of Parts 1 to 7, the summary and the six questions."""
    sections = {section[:3] for section in CLAIMS["section"]}
    wanted = {
        f"{part}.{n}"
        for part, last in ((1, 3), (2, 3), (3, 4))
        for n in range(1, last + 1)
    }
    wanted |= {f"{part}.{n}" for part in (4, 6, 7) for n in (1, 2, 3)}
    wanted |= {"5.1", "5.2", "5.4", "9.1"} | {f"A.{n}" for n in range(1, 7)}
    assert sections == wanted
