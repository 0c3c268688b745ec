"""The built site, in a browser: every page, over http and opened from the disk.

Build it first (`make book`; `make test-book` does both). The browser is the system's
Chromium, or what `$CHROMIUM` names. Without one the tests are skipped, except on CI,
where that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import site_checks as checks
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
REPOSITORY = checks.Repository(ROOT)
PAGES = REPOSITORY.pages
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    if not path:
        reason = f"no browser: none of {', '.join(BROWSERS)} found, CHROMIUM not set"
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


@pytest.fixture(scope="session", params=["http", "file"])
def address(request: pytest.FixtureRequest, site: Path) -> Iterator[str]:
    with ExitStack() as stack:
        over_http = request.param == "http"
        yield stack.enter_context(checks.served(site)) if over_http else site.as_uri()


@pytest.fixture(scope="session")
def words(site: Path) -> dict[str, str]:
    html = {page: (site / f"{page}.html").read_text(encoding="utf-8") for page in PAGES}
    return checks.own_words({page: checks.prose(text) for page, text in html.items()})


def report(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


# --- every page of the book -----------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_page_asks_nobody_and_shows_all_it_has(
    browser: Browser, address: str, page: str
) -> None:
    with checks.visit(browser, f"{address}/{page}.html") as seen:
        report(
            checks.outside_requests(seen)
            + checks.failed_requests(seen)
            + checks.console_noise(seen)
            + checks.unused_scripts(seen)
            + checks.undrawn_diagrams(seen.page)
            + checks.untypeset_math(seen.page)
            + checks.images_without_alt(seen.page)
        )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_page_fits_the_window_and_is_accessible(
    browser: Browser, site: Path, page: str, scheme: str, width: str
) -> None:
    url = (site / f"{page}.html").as_uri()
    with checks.visit(browser, url, width=WIDTHS[width], scheme=scheme) as seen:
        report(
            checks.wrong_scheme(seen.page, scheme)
            + checks.overflow(seen.page)
            + checks.axe_violations(seen.page)
        )


@pytest.mark.parametrize("page", PAGES)
def test_search_finds_a_word_of_the_page(
    browser: Browser, address: str, words: dict[str, str], page: str
) -> None:
    with checks.visit(browser, f"{address}/search.html") as seen:
        report(checks.search_misses(seen.page, address, words[page], f"{page}.html"))
        report(checks.outside_requests(seen) + checks.console_noise(seen))


@pytest.mark.parametrize("page", PAGES)
def test_buttons_lead_to_the_sources(site: Path, page: str) -> None:
    html = (site / f"{page}.html").read_text(encoding="utf-8")
    report(checks.wrong_buttons(html, site, page, REPOSITORY))


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


# --- each check speaks up about a page that is bad in just that way -------------------

GOOD = """<!doctype html><html lang="en" data-theme="light"><head><title>t</title>
<link rel="icon" href="data:,"></head>
<body><main><h1>Title</h1>{}</main></body></html>"""


def on_page(check: Callable[[Any], list[str]]) -> Callable[[checks.Visit], list[str]]:
    return lambda seen: check(seen.page)


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
    "a diagram script for no diagram": (
        checks.unused_scripts,
        '<script src="mermaid.min.js"></script>',
        "mermaid.min.js without",
    ),
    "a formula script for no formula": (
        checks.unused_scripts,
        '<script src="tex-chtml.js"></script>',
        "tex-chtml.js without",
    ),
    "a line wider than a phone": (
        on_page(checks.overflow),
        '<p style="width: 3000px">wide</p>',
        "too wide",
    ),
    "a diagram nobody drew": (
        on_page(checks.undrawn_diagrams),
        '<pre class="mermaid">flowchart LR</pre>',
        "not drawn",
    ),
    "a diagram of an error": (
        on_page(checks.undrawn_diagrams),
        '<pre class="mermaid"><svg><text>Syntax error in text</text></svg></pre>',
        "syntax error",
    ),
    "an empty diagram": (
        on_page(checks.undrawn_diagrams),
        '<pre class="mermaid"><svg width="0" height="0"></svg></pre>',
        "empty",
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
        on_page(checks.axe_violations),
        "<details><summary>more</summary><button></button></details>",
        "button-name",
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
    (tmp_path / "good.html").write_text(GOOD.format("<p>Text.</p>"), encoding="utf-8")
    with checks.served(tmp_path) as address:
        with checks.visit(browser, f"{address}/bad.html", width=390) as seen:
            assert any(complaint in each for each in check(seen)), check(seen)
        if fault != "a page that stays light":
            with checks.visit(browser, f"{address}/good.html", width=390) as seen:
                assert check(seen) == []


SEARCH = """<div id="search-results"></div><script>
const word = new URLSearchParams(location.search).get("q");
const hit = word === "gates" ? '<li><a href="book/a.html#x">A</a></li>' : "";
document.querySelector("#search-results").innerHTML =
    '<p class="search-summary">Search finished.</p><ul class="search">' + hit + "</ul>";
</script>"""


def test_check_sees_a_word_that_search_does_not_find(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "search.html").write_text(GOOD.format(SEARCH), encoding="utf-8")
    root = tmp_path.as_uri()
    with checks.visit(browser, f"{root}/search.html") as seen:
        assert checks.search_misses(seen.page, root, "gates", "book/a.html") == []
        assert checks.search_misses(seen.page, root, "tower", "book/a.html") != []
        assert checks.search_misses(seen.page, root, "gates", "book/b.html") != []


def test_prose_is_the_text_without_code_and_outputs() -> None:
    article = "one <div class='cell'>two</div><pre>three</pre>"
    html = f"<nav>menu</nav><article>{article}</article>"
    assert checks.prose(html).split() == ["one"]


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


def test_check_sees_missing_and_wrong_buttons(site: Path) -> None:
    page = next(p for p in PAGES if REPOSITORY.source(p).endswith(".ipynb"))
    html = (site / f"{page}.html").read_text(encoding="utf-8")
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
