"""The built site, in a browser: every page, over http and opened from the disk.

Build it first (`make book`; `make test-book` does both). The browser is the system's
Chromium, or what `$CHROMIUM` names. Without one the tests are skipped, except on CI,
where that is a failure. `$URLM_SITE` names another folder with a built site.

A page is opened twice, over http and from the disk. Each time it is looked at in two
widths and two color schemes, the first as it was opened, the second after the window
and the scheme were changed, and each look goes through all checks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diagrams
import drawings
import live_map
import numpy as np
import pandas as pd
import pytest
import site_checks as checks
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("URLM_SITE", ROOT / "_build" / "html"))
REPOSITORY = checks.Repository(ROOT)
PAGES = REPOSITORY.pages
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"phone": 390, "desktop": 1280}
LOOKS = {
    "http": [("phone", "dark"), ("desktop", "light")],
    "file": [("desktop", "dark"), ("phone", "light")],
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = diagrams.browser_path()
    if not path:
        reason = "no browser: neither Chromium nor Chrome found, CHROMIUM not set"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.fail("the site is not built: run `make book`")
    return SITE


@pytest.fixture(scope="session")
def addresses(site: Path) -> Iterator[dict[str, str]]:
    with checks.served(site) as http:
        yield {"http": http, "file": site.as_uri()}


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, str]:
    return {page: (site / f"{page}.html").read_text(encoding="utf-8") for page in PAGES}


def report(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


# --- every page of the book -----------------------------------------------------------


def as_found(page: Page, width: str, scheme: str) -> list[str]:
    return (
        checks.wrong_scheme(page, scheme)
        + checks.faulty_diagrams(page)
        + checks.untypeset_math(page)
        + checks.images_without_alt(page)
        + checks.code_before_the_story(page)
        + checks.loud_folds(page)
        + checks.overflow(page)
    )


def unfolded(page: Page, width: str, scheme: str) -> list[str]:
    clipped = checks.clipped_code(page) if width == "desktop" else []
    return checks.overflow(page) + clipped


def read_aloud(page: Page, width: str, scheme: str) -> list[str]:
    return checks.wrong_scheme(page, scheme) + checks.axe_violations(page)


@pytest.mark.parametrize("address", LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_page(
    browser: Browser, addresses: dict[str, str], page: str, address: str
) -> None:
    url = f"{addresses[address]}/{page}.html"
    looks = LOOKS[address]
    width, scheme = looks[0]
    faults = []
    with checks.visit(browser, url, width=WIDTHS[width], scheme=scheme) as seen:
        for check in (as_found, unfolded, read_aloud):
            if check is unfolded:
                checks.unfold(seen.page)
            for width, scheme in looks:
                checks.turn(seen.page, WIDTHS[width], scheme)
                found = check(seen.page, width, scheme)
                faults += [f"{width}, {scheme}: {fault}" for fault in found]
        if address == "http":
            limit = checks.LANDING if page == PAGES[0] else None
            faults += checks.too_heavy(seen, limit)
        report(
            faults
            + checks.outside_requests(seen)
            + checks.failed_requests(seen)
            + checks.unused_scripts(seen)
            + checks.console_noise(seen)
        )


@pytest.mark.parametrize("address", ["http", "file"])
def test_search_finds_a_word_of_each_page_and_each_subtitle(
    browser: Browser, addresses: dict[str, str], pages: dict[str, str], address: str
) -> None:
    root = addresses[address]
    with checks.visit(browser, f"{root}/search.html") as seen:
        texts = {page: checks.prose(seen.page, html) for page, html in pages.items()}
        words = checks.own_words({page: text for page, (text, _) in texts.items()})
        headings = {page: heading for page, (_, heading) in texts.items()}
        for wanted in (words, headings):
            queries = {f"{page}.html": word for page, word in wanted.items() if word}
            report(checks.search_misses(seen.page, root, queries))
        report(checks.outside_requests(seen) + checks.console_noise(seen))


@pytest.mark.parametrize("page", PAGES)
def test_chinese_heading_is_a_subtitle_and_not_in_the_navigation(
    pages: dict[str, str], page: str
) -> None:
    named = [] if page == PAGES[0] else checks.nameless_section(pages[page])
    report(named + checks.foreign_navigation(pages[page]))


@pytest.mark.parametrize("page", PAGES)
def test_buttons_lead_to_the_sources(
    site: Path, pages: dict[str, str], page: str
) -> None:
    report(checks.wrong_buttons(pages[page], site, page, REPOSITORY))


def test_links_and_anchors_inside_the_site_resolve(site: Path) -> None:
    pages = sorted(p for p in site.rglob("*.html") if "_static" not in p.parts)
    assert len(pages) > len(PAGES)
    report(checks.broken_links(site, pages))


def test_the_site_has_the_pages_of_the_contents_and_no_other(site: Path) -> None:
    built = {
        path.relative_to(site).with_suffix("").as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    assert built - {"index", "search", "genindex"} == set(PAGES)


# --- the boxes that come alive -------------------------------------------------------

LIVE = "book/3-algorithm/3-2-4c-live"
MAP = "book/1-background/1-3-unified"
ADDRESSES = pytest.mark.parametrize("address", ["http", "file"])


@pytest.fixture(scope="session")
def live() -> tuple[Any, Any]:
    """The model of the committed script, as Keras computes it, and the script."""
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.serving import page_variables, read_page
    from urlm_helpers.sharing import MMoE

    script = read_page(ROOT / "urlm_helpers" / "results" / "live-ranker.js")
    meta = script.meta
    sharing = MMoE(3, 3, units=(meta["units"],), experts=meta["experts"])
    sizes = {"bottom": meta["bottom"], "crosses": meta["crosses"], "dim": meta["dim"]}
    model = UnifiedRecommender(meta["spec"], sharing=sharing, **sizes)
    for name, variable in page_variables(model).items():
        variable.assign(script.arrays[name])
    return model, script


def live_rows(script: Any, history: np.ndarray, **codes: Any) -> dict[str, np.ndarray]:
    """Rows as the model takes them; one history may stand for all."""
    names, n = list(script.meta["spec"]["fields"]), len(codes["item"])
    fields = np.zeros((n, len(names)), "int32")
    for name, code in codes.items():
        if name in names:
            fields[:, names.index(name)] = code
    return {
        "fields": fields,
        "numeric": np.zeros((n, 0), "float32"),
        "history": np.broadcast_to(history, (n, 10, 2)).astype("int32"),
        "history_age": np.zeros((n, 10), "float32"),
        "scenario": np.broadcast_to(codes["where"], n).astype("int32"),
    }


@ADDRESSES
def test_a_thousand_scores_of_the_live_model_are_those_of_keras(
    browser: Browser, addresses: dict[str, str], live: tuple[Any, Any], address: str
) -> None:
    model, script = live
    rng = np.random.default_rng(0)
    sizes = script.meta["spec"]["fields"]
    history = rng.integers(0, (sizes["item"], sizes["category"]), (1000, 10, 2))
    history[np.arange(10) < rng.integers(0, 11, 1000)[:, None]] = 0
    codes = {name: rng.integers(0, size, 1000) for name, size in sizes.items()}
    x = live_rows(script, history, **codes, where=rng.integers(0, 3, 1000))
    with checks.visit(browser, f"{addresses[address]}/{LIVE}.html") as seen:
        found = seen.page.evaluate(
            """x => x.scenario.map((scenario, i) => liveModel.probabilities({
                fields: x.fields[i], history: x.history[i], numeric: [], scenario}))""",
            {name: array.tolist() for name, array in x.items()},
        )
    expected = model.probabilities(x)
    assert expected[:, 0].std() > 0.02
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def shown(page: Page) -> list[int]:
    """The items of the live list, as their buttons are named aloud."""
    buttons = page.get_by_role("button", name=re.compile(r"^Click on item \d+, cat"))
    names = buttons.evaluate_all("all => all.map(each => each.ariaLabel)")
    return [int(name.split(",")[0].split()[-1]) for name in names]


@ADDRESSES
def test_live_list_is_the_models_and_answers_the_keyboard(
    browser: Browser, addresses: dict[str, str], live: tuple[Any, Any], address: str
) -> None:
    model, script = live
    notes, items = script.meta["notes"], script.arrays["items"].astype(int)
    clicked: list[int] = []

    def best(where: int = 0, query: int = 0, powers: Any = (1, 0, 0)) -> list[int]:
        history = np.zeros((10, 2), int)
        if clicked:
            history[-len(clicked) :] = items[clicked]
        codes = {"item": items[:, 0], "category": items[:, 1], "where": where}
        codes |= {"scenario": notes["scenarios"][where]}
        codes |= {"query": notes["queries"][query][1]}
        score = np.log(model.probabilities(live_rows(script, history, **codes)))
        ranked = np.argsort(-(score @ powers), kind="stable").tolist()
        return [i for i in ranked if i not in clicked][:10]

    with checks.visit(browser, f"{addresses[address]}/{LIVE}.html", width=390) as seen:
        page = seen.page
        status = page.get_by_role("status").first
        first = best()
        assert shown(page) == first
        assert status.inner_text().startswith(f"First is item {first[0]}, category")
        page.get_by_role("button", name=f"Click on item {first[2]},").focus()
        page.keyboard.press("Enter")
        clicked.append(first[2])
        assert shown(page) == best() and shown(page) != first
        assert "are new in the list" in status.inner_text()
        focus = page.evaluate("document.activeElement.ariaLabel")
        assert focus.startswith(f"Click on item {shown(page)[2]},")  # the same place
        page.keyboard.press("Space")
        clicked.append(best()[2])
        assert shown(page) == best()
        page.get_by_role("button", name="Undo the last click").press("Enter")
        clicked.pop()
        assert shown(page) == best()
        query = page.get_by_role("combobox", name="Query (search only)")
        assert query.is_disabled()
        page.get_by_role("combobox", name="Scenario").select_option("search")
        query.select_option(index=2)
        assert shown(page) == best(where=2, query=2)
        page.get_by_role("slider", name="click").press("Home")  # and buys alone count
        page.get_by_role("slider", name="buy").press("End")
        page.get_by_role("slider", name="click").press("Home")
        assert shown(page) == best(where=2, query=2, powers=(0, 0, 1))
        page.get_by_role("combobox", name="App user").select_option(index=3)
        clicked[:] = notes["visitors"][2]
        assert shown(page) == best(where=2, query=2, powers=(0, 0, 1))
        report(checks.outside_requests(seen) + checks.console_noise(seen))


@ADDRESSES
def test_live_map_says_what_the_study_found(
    browser: Browser, addresses: dict[str, str], address: str
) -> None:
    data = live_map.found(pd.read_csv(live_map.STUDY))
    with checks.visit(browser, f"{addresses[address]}/{MAP}.html", width=390) as seen:
        page = seen.page
        page.get_by_role("combobox", name="Rows of search").select_option("4,000")
        page.get_by_role("combobox", name="The app").select_option("half thresholds")
        knob = page.get_by_role("slider", name="Shift of the scenarios' tastes")
        knob.press("ArrowRight")  # from .6 to .9
        assert "shift 0.9, agreement" in str(knob.get_attribute("aria-valuetext"))
        table = page.get_by_role("table", name="From popularity")
        rows = table.get_by_role("row").all_inner_texts()[1:]
        expected = dict(zip(data["methods"], data["closed"][1][2][3], strict=True))
        for row, (method, numbers) in zip(rows, expected.items(), strict=True):
            name, _, mean, ends = row.split("\t")
            wanted = (round(float(n)) for n in numbers)
            found = [int(n) for n in re.findall(r"-?\d+", f"{mean} {ends}")]
            assert name == method
            assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))
        best = max(expected, key=lambda method: expected[method][0])
        said = page.locator("[data-live=map] [role=status]").inner_text()
        assert f"the largest mean is that of {best}," in said


def test_the_numbers_of_the_live_map_are_those_of_the_study() -> None:
    fresh = live_map.script(pd.read_csv(live_map.STUDY))
    assert live_map.SCRIPT.read_text("utf-8") == fresh


# --- the diagrams ---------------------------------------------------------------------

FENCES = diagrams.fences()


@pytest.fixture(scope="session")
def canvas(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    diagrams.load_mermaid(page)
    yield page
    page.close()


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.name)
def test_committed_drawing_is_what_its_source_draws(
    canvas: Page, fence: diagrams.Diagram
) -> None:
    drawn = diagrams.draw(canvas, fence.source)
    files = [path for path in drawings.drawing_files(fence.source) if path.exists()]
    assert len(files) == len(drawn), f"run `{drawings.COMMAND}`"
    for path, svg in zip(files, drawn, strict=True):
        report(diagrams.differences(path.read_text(encoding="utf-8"), svg))


def test_no_drawing_is_left_over() -> None:
    wanted = {path for each in FENCES for path in drawings.drawing_files(each.source)}
    assert set(drawings.DRAWINGS.iterdir()) <= wanted


def test_difference_of_two_drawings_is_seen(canvas: Page) -> None:
    head = "accTitle: Steps\naccDescr: One after the other.\n"

    def svg(source: str) -> str:
        return diagrams.draw(canvas, source)[0]

    before = svg(f"flowchart TB\n{head}A[one] --> B[two]")
    assert diagrams.differences(before, before) == []
    for after in (
        f"flowchart LR\n{head}A[one] --> B[two]",
        f"flowchart TB\n{head}A[one] --> B[too]",
        f"flowchart TB\n{head}A[one] -.-> B[two]",
        f"flowchart TB\n{head}A[one] --> B[two] --> C[three]",
        f"flowchart TB\n{head.replace('other', 'next')}A[one] --> B[two]",
    ):
        assert diagrams.differences(before, svg(after)), after


def test_diagram_without_description_is_not_drawn(canvas: Page) -> None:
    with pytest.raises(SystemExit, match="accDescr"):
        diagrams.draw(canvas, "flowchart LR\naccTitle: Steps\nA --> B")


def test_long_chain_turns_downwards_on_a_phone(canvas: Page) -> None:
    boxes = " --> ".join(f"{name}[a longer step {name}]" for name in "ABCDE")
    source = f"flowchart LR\naccTitle: Steps\naccDescr: Five steps.\n{boxes}"
    wide, narrow = diagrams.draw(canvas, source)
    assert diagrams.width(wide) > diagrams.NARROW >= diagrams.width(narrow)


# --- each check speaks up about a page that is bad in just that way -------------------

GOOD = """<!doctype html><html lang="en" data-theme="light"><head><title>t</title>
<link rel="icon" href="data:,"></head>
<body><main><h1>Title</h1>{}</main></body></html>"""


DRAWING = """<svg role="img" aria-labelledby="t d" viewBox="0 0 100 50" width="100"
height="50"><title id="t">Two steps</title><desc id="d">A, then B.</desc>
<text font-size="16">A</text></svg>"""


def on_page(check: Callable[[Any], list[str]]) -> Callable[[checks.Visit], list[str]]:
    return lambda seen: check(seen.page)


def in_folds(seen: checks.Visit) -> list[str]:
    checks.unfold(seen.page)
    return checks.axe_violations(seen.page)


BROWSER_CHECKS: dict[str, tuple[Callable[[checks.Visit], list[str]], str, str]] = {
    "an image from another host": (
        checks.outside_requests,
        '<img src="https://elsewhere.invalid/a.png" alt="a">',
        "elsewhere.invalid",
    ),
    "a script from another host": (
        checks.outside_requests,
        '<script src="https://cdn.invalid/mermaid.js"></script>',
        "cdn.invalid",
    ),
    "a fetch from another host": (
        checks.outside_requests,
        "<script>fetch('https://late.invalid/x').catch(() => 0)</script>",
        "late.invalid",
    ),
    "a file that is not there": (
        checks.failed_requests,
        '<script src="missing.js"></script>',
        "missing.js",
    ),
    "an error in the console": (
        checks.console_noise,
        "<script>console.error('broken')</script>",
        "error: broken",
    ),
    "a warning in the console": (
        checks.console_noise,
        "<script>console.warn('old')</script>",
        "warning: old",
    ),
    "a constant declared twice": (
        checks.console_noise,
        "<script>const a = 1</script><script>const a = 1</script>",
        "already been declared",
    ),
    "a diagram script": (
        checks.unused_scripts,
        '<script src="mermaid.min.js"></script>',
        "mermaid without",
    ),
    "a script of icons": (
        checks.unused_scripts,
        '<script src="fontawesome.js"></script>',
        "fontawesome.js without",
    ),
    "a search index for no search": (
        checks.unused_scripts,
        '<script src="searchindex.js"></script>',
        "searchindex.js without",
    ),
    "a formula script for no formula": (
        checks.unused_scripts,
        '<script src="mathjax/startup.js"></script>',
        "mathjax/ without",
    ),
    "a heavy page": (
        lambda seen: checks.too_heavy(seen, 0.001),
        f"<p>{'word ' * 400}</p>",
        "and 0.001 are allowed",
    ),
    "a line wider than a phone": (
        on_page(checks.overflow),
        '<p style="width: 3000px">wide</p>',
        "too wide",
    ),
    "code cut off at the edge": (
        on_page(checks.clipped_code),
        f"<article><pre style='overflow: auto'>{'x' * 200}</pre></article>",
        "cut off at 200 columns",
    ),
    "a diagram nobody drew": (
        on_page(checks.faulty_diagrams),
        '<pre class="mermaid">flowchart LR</pre>',
        "not drawn",
    ),
    "no drawing on a phone": (
        on_page(checks.faulty_diagrams),
        '<div class="diagram"><svg style="display: none"></svg></div>',
        "0 drawings",
    ),
    "two drawings at once": (
        on_page(checks.faulty_diagrams),
        f'<div class="diagram">{DRAWING}{DRAWING}</div>',
        "2 drawings",
    ),
    "a diagram without description": (
        on_page(checks.faulty_diagrams),
        '<div class="diagram">' + DRAWING.replace('id="d"', "") + "</div>",
        "says nothing aloud",
    ),
    "a diagram too small to read": (
        on_page(checks.faulty_diagrams),
        f'<div class="diagram">{DRAWING.replace("0 0 100", "0 0 200")}</div>',
        "texts of 8.0 px",
    ),
    "code above the story": (
        on_page(checks.code_before_the_story),
        '<article><div class="cell_input">import os</div><h2>A puzzle</h2></article>',
        "open above the story: import os",
    ),
    "a fold that stands open": (
        on_page(checks.loud_folds),
        "<details open><summary>Set-up</summary>import os</details>",
        "open: Set-up",
    ),
    "a fold with another label": (
        on_page(checks.loud_folds),
        '<details><summary aria-label="Toggle">Set-up</summary>import os</details>',
        "labeled: Set-up",
    ),
    "a fold without a line": (
        on_page(checks.loud_folds),
        "<details><summary></summary>import os</details>",
        "not one line",
    ),
    "a formula left as text": (
        on_page(checks.untypeset_math),
        r'<span class="math">\(x\)</span>',
        "not typeset",
    ),
    "a formula that cannot be read": (
        on_page(checks.untypeset_math),
        '<span class="math"><mjx-container><mjx-merror>x</mjx-merror></mjx-container>'
        "</span>",
        "error in",
    ),
    "an image without a text": (
        on_page(checks.images_without_alt),
        '<img src="data:," alt="">',
        "<img",
    ),
    "an image whose text is its path": (
        on_page(checks.images_without_alt),
        '<img src="data:," alt="../_images/1a2b3c.png">',
        "<img",
    ),
    "an axe violation": (
        on_page(checks.axe_violations),
        '<p style="color: #eee; background: #fff">pale</p>',
        "color-contrast",
    ),
    "an axe violation in a fold": (
        in_folds,
        "<details><summary>more</summary><button></button></details>",
        "button-name",
    ),
    "pale words of code": (
        on_page(checks.axe_violations),
        "<pre><span>fine</span> <span>fine</span> <span style='color: #eee'>pale</span>"
        "</pre>",
        "color-contrast",
    ),
    "pale words of a table": (
        on_page(checks.axe_violations),
        "<table><tr><th>a</th></tr><tr><td>fine</td></tr>"
        "<tr><td style='color: #eee'>pale</td></tr></table>",
        "color-contrast",
    ),
    "a pale head of a table": (
        on_page(checks.axe_violations),
        "<table><tr><th>fine</th><th style='color: #eee'>pale</th></tr></table>",
        "color-contrast",
    ),
    "a pale box of code": (
        on_page(checks.axe_violations),
        "<pre>fine</pre><pre style='color: #eee'>pale</pre>",
        "color-contrast",
    ),
    "a pale line of text": (
        on_page(checks.axe_violations),
        "<p>fine</p><p>fine <b>fine</b></p><p><em style='color: #eee'>pale</em></p>",
        "color-contrast",
    ),
    "a line on a ground like its color": (
        on_page(checks.axe_violations),
        "<p>fine</p><div style='background: #222'><p>dark</p></div>",
        "color-contrast",
    ),
    "a line that floats above its color": (
        on_page(checks.axe_violations),
        "<p>fine</p><div style='background: #222; height: 90px'></div>"
        "<p style='position: absolute; top: 150px'>dark</p>",
        "color-contrast",
    ),
    "a page that stays light": (
        on_page(lambda page: checks.wrong_scheme(page, "dark")),
        "<p>light</p>",
        "asked for dark",
    ),
}


@pytest.mark.parametrize("fault", BROWSER_CHECKS)
def test_check_sees(browser: Browser, tmp_path: Path, fault: str) -> None:
    check, body, complaint = BROWSER_CHECKS[fault]
    (tmp_path / "bad.html").write_text(GOOD.format(body), encoding="utf-8")
    with checks.served(tmp_path) as address:
        with checks.visit(browser, f"{address}/bad.html", width=390) as seen:
            assert any(complaint in each for each in check(seen)), check(seen)


def test_no_check_speaks_up_about_a_good_page(browser: Browser, tmp_path: Path) -> None:
    body = f"<p>Text.</p><div class='diagram'>{DRAWING}</div>"
    (tmp_path / "good.html").write_text(GOOD.format(body), encoding="utf-8")
    with checks.served(tmp_path) as address:
        with checks.visit(browser, f"{address}/good.html", width=390) as seen:
            for fault, (check, _, _) in BROWSER_CHECKS.items():
                if fault not in {"a page that stays light", "a heavy page"}:
                    assert check(seen) == [], fault
            assert checks.too_heavy(seen) == []


SEARCH = """<div id="search-results"></div><script>
const Search = {performSearch: word => {
    const hit = word === "gates" ? '<li><a href="book/a.html#x">A</a></li>' : "";
    document.querySelector("#search-results").innerHTML =
        '<p class="search-summary">Search finished.</p><ul class="search">' + hit
        + "</ul>";
}};
</script>"""


def test_check_sees_a_word_that_search_does_not_find(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "search.html").write_text(GOOD.format(SEARCH), encoding="utf-8")
    root = tmp_path.as_uri()

    def misses(word: str, page: str) -> list[str]:
        return checks.search_misses(seen.page, root, {page: word})

    with checks.visit(browser, f"{root}/search.html") as seen:
        assert misses("gates", "book/a.html") == []
        assert misses("tower", "book/a.html") != []
        assert misses("gates", "book/b.html") != []


def test_check_sees_a_chinese_heading_in_the_wrong_place() -> None:
    entry = "<div class='bd-sidebar-primary'><a>1.1 History{}</a></div>"
    assert checks.foreign_navigation(entry.format("")) == []
    assert checks.foreign_navigation(entry.format(" (发展历程)")) != []
    line = "<h1>1.1</h1><p {}>{}</p>"
    good = 'class="page-subtitle" lang="zh"'
    assert checks.nameless_section(line.format(good, "发展历程")) == []
    assert checks.nameless_section(line.format(good, "History")) != []
    assert checks.nameless_section(line.format("", "发展历程")) != []
    assert checks.nameless_section(line.format(good[:21], "发展历程")) != []


def test_prose_is_the_text_without_code_and_outputs(canvas: Page) -> None:
    article = "one <b>t</b>wo<div class='cell'>two</div><pre>three</pre><!--four-->"
    html = f"<nav>menu</nav><article>{article}</article>"
    assert checks.prose(canvas, html)[0].split() == ["one", "t", "wo"]
    article = f"<h1>A</h1><p class='page-subtitle'>发展</p><p>{article}</p>"
    assert checks.prose(canvas, f"<article>{article}</article>")[1] == "发展"
    assert checks.prose(canvas, "<p>no article</p>") == ("", "")


def test_check_sees_broken_links(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        '<p id="here">x</p><a href="#here">1</a><a href="#gone">2</a>'
        '<a href="b.html">3</a><a href="../outside.html">4</a><img src="no.png">'
        '<a href="https://example.org/">5</a><a href="#">6</a>',
        encoding="utf-8",
    )
    (tmp_path.parent / "outside.html").write_text("x", encoding="utf-8")
    links = [fault.split(": ")[1] for fault in checks.broken_links(tmp_path, [page])]
    assert links == ["#gone", "b.html", "../outside.html", "no.png"]


def test_check_sees_missing_and_wrong_buttons(
    site: Path, pages: dict[str, str]
) -> None:
    notebooks = (p for p in PAGES if REPOSITORY.source(p).endswith(".ipynb"))
    page = min(notebooks, key=lambda p: len(pages[p]))
    html = pages[page]
    right = REPOSITORY.launch_links(page)
    for name, url in right.items():
        broken = html.replace(f'"{url}"', f'"{url}-elsewhere"')
        faults = checks.wrong_buttons(broken, site, page, REPOSITORY)
        assert any(f"no {name} button" in fault for fault in faults)
    broken = html.replace("/issues/new", "/issues/old")
    assert checks.wrong_buttons(broken, site, page, REPOSITORY)
    broken = html.replace("_sources/", "_gone/")
    assert any(
        "no such file" in fault
        for fault in checks.wrong_buttons(broken, site, page, REPOSITORY)
    )


def test_ci_never_skips_the_browser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = browser.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        next(find())
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        next(find())
