"""What every page of the built site must be, as functions that list what is wrong.

Each takes a page (or the folder of the site) and returns one line per fault, so that an
empty list means that all is well. `test_book.py` runs them over all pages, and
each over a small page that is bad in just that way, to see that it speaks up.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

AXE = Path(__file__).resolve().parents[1] / "_vendor" / "axe-core" / "axe.min.js"
LOCAL_SCHEMES = {"file", "data", "blob", "about"}
READY_TIMEOUT = 20_000  # milliseconds
SMALLEST_TEXT = 11  # pixels, in a diagram
# Megabytes that a first visit loads over http, uncompressed.
LANDING, PLAIN, FORMULAS = 1.2, 1.4, 2.6


@dataclass
class Visit:
    """An open page, and what the browser reported while it loaded."""

    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def at_rest(self) -> Visit:
        """Wait until the network is quiet for half a second, since the last request.

        Those who read what was reported ask for it; the others look meanwhile.
        """
        self.page.wait_for_load_state("networkidle")
        return self


def is_outside(url: str) -> bool:
    """Tell whether a request would leave this machine."""
    parts = urlsplit(url)
    return parts.scheme not in LOCAL_SCHEMES and parts.hostname != "127.0.0.1"


@contextmanager
def visit(
    browser: Browser, url: str, width: int = 1280, scheme: Any = "light"
) -> Iterator[Visit]:
    """Open a page in a fresh profile and wait until all of it is there to be seen.

    A request to another host is recorded and stopped, never sent.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    try:
        context.route(is_outside, lambda route: route.abort())
        page = context.new_page()
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on(
            "requestfailed",
            lambda request: seen.failures.append(f"{request.url}: {request.failure}"),
        )
        page.on(
            "response",
            lambda response: (
                seen.failures.append(f"{response.url}: {response.status}")
                if response.status >= 400
                else None
            ),
        )
        page.on(
            "console",
            lambda message: (
                seen.console.append(f"{message.type}: {message.text}")
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: seen.console.append(f"uncaught: {error}"))
        page.goto(url, wait_until="load")
        settle(page)
        yield seen
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until formulas are typeset and fonts are there, as far as they will be."""
    page.evaluate(
        """async (limit) => {
            const late = new Promise(resolve => setTimeout(resolve, limit));
            const ready = (async () => {
                if (window.MathJax?.startup?.promise)
                    await window.MathJax.startup.promise;
                await document.fonts.ready;
            })();
            await Promise.race([ready, late]);
        }""",
        READY_TIMEOUT,
    )


def unfold(page: Page) -> None:
    """Open what is folded away, so that the checks that follow look at it too."""
    page.evaluate(
        """() => {
            document.querySelectorAll('details').forEach(each => each.open = true);
            document.querySelectorAll('.toggle-hidden').forEach(
                each => each.classList.remove('toggle-hidden'));
        }"""
    )
    come_to_rest(page)


def turn(page: Page, width: int, scheme: Any) -> None:
    """Change the window's width and the color scheme, as a reader may at any time."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    come_to_rest(page)


def come_to_rest(page: Page) -> None:
    """Let what fades or slides in be there: before that it has no contrast."""
    page.evaluate(
        """async () => {
            await new Promise(requestAnimationFrame);
            document.getAnimations().forEach(each => {
                try { each.finish(); } catch { each.cancel(); }
            });
            await new Promise(requestAnimationFrame);
        }"""
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine and give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def outside_requests(seen: Visit) -> list[str]:
    """List the requests to other hosts."""
    return [url for url in seen.at_rest().requests if is_outside(url)]


def failed_requests(seen: Visit) -> list[str]:
    """List the requests that got no answer, or the answer that there is nothing."""
    return list(seen.at_rest().failures)


def console_noise(seen: Visit) -> list[str]:
    """List the errors, warnings and uncaught exceptions of the console."""
    return list(seen.at_rest().console)


def unused_scripts(seen: Visit) -> list[str]:
    """List the large scripts that a page loads and has no use for."""
    return [
        f"loads {name} without {what}"
        for name, what in (
            ("mermaid", "nothing"),
            ("fontawesome.js", "nothing"),
            ("searchindex.js", "#search-results"),
            ("mathjax/", ".math"),
        )
        if any(name in url for url in seen.at_rest().requests)
        and seen.page.locator(what).count() == 0
    ]


def weight(page: Page) -> dict[str, int]:
    """Return the bytes of each file that a page loaded over http, uncompressed."""
    found = page.evaluate(
        """() => Object.fromEntries(
            [...performance.getEntriesByType('navigation'),
             ...performance.getEntriesByType('resource')]
                .map(each => [each.name, each.decodedBodySize]))"""
    )
    return dict(found)


def too_heavy(seen: Visit, limit: float | None = None) -> list[str]:
    """Say so if a first visit of a page loads more megabytes than it may."""
    page = seen.at_rest().page
    if limit is None:
        limit = FORMULAS if page.locator(".math").count() else PLAIN
    files = weight(page)
    total = sum(files.values()) / 1e6
    if total <= limit:
        return []
    largest = sorted(files, key=lambda name: -files[name])[:5]
    return [
        f"{total:.2f} MB, and {limit} are allowed",
        *(f"{files[name] / 1e6:.2f} MB: {name}" for name in largest),
    ]


def overflow(page: Page) -> list[str]:
    """Say by how much a page is wider than the window, and what sticks out."""
    found = page.evaluate(
        """() => {
            const wide = document.documentElement.scrollWidth - window.innerWidth;
            if (wide <= 0) return [];
            const scrolls = each => {
                for (let up = each.parentElement; up; up = up.parentElement)
                    if (getComputedStyle(up).overflowX !== 'visible'
                        && up !== document.body) return true;
                return false;
            };
            const out = [...document.querySelectorAll('body *')]
                .filter(each => each.getBoundingClientRect().right > innerWidth + 1
                    && !scrolls(each))
                .slice(0, 5)
                .map(each => each.outerHTML.slice(0, 120));
            return [`the page is ${wide} px too wide`, ...out];
        }"""
    )
    return list(found)


def clipped_code(page: Page) -> list[str]:
    """List the boxes of code and of printed text whose lines are cut off at the edge.

    Tables may scroll; folds must be open (:func:`unfold`).
    """
    found = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article pre, article pre')]
            .filter(each => each.scrollWidth > each.clientWidth + 1
                || each.parentElement.scrollWidth > each.parentElement.clientWidth + 1)
            .map(each => {
                const lines = each.textContent.split('\\n');
                const long = lines.reduce((a, b) => a.length >= b.length ? a : b);
                return `cut off at ${long.length} columns: ${long.slice(0, 60)}`;
            })"""
    )
    return list(found)


def faulty_diagrams(page: Page) -> list[str]:
    """List the diagrams that are no picture, say nothing aloud, or are too small."""
    found = page.evaluate(
        """(smallest) => [
            ...[...document.querySelectorAll('.mermaid, .language-mermaid')]
                .map(each => `not drawn: ${each.textContent.trim().slice(0, 60)}`),
            ...[...document.querySelectorAll('.diagram')].flatMap(each => {
                const shown = [...each.querySelectorAll('svg')].filter(
                    svg => svg.getBoundingClientRect().width > 0);
                if (shown.length !== 1) return [`${shown.length} drawings are shown`];
                const svg = shown[0];
                const title = svg.querySelector('title')?.textContent;
                const named = (svg.getAttribute('aria-labelledby') || '').split(' ')
                    .every(id => document.getElementById(id)?.textContent);
                if (svg.getAttribute('role') !== 'img' || !named)
                    return [`says nothing aloud: ${title}`];
                const scale = svg.getScreenCTM().a;
                return [...svg.querySelectorAll('text')].map(
                        text => scale * parseFloat(getComputedStyle(text).fontSize))
                    .filter(size => size < smallest).slice(0, 1)
                    .map(size => `texts of ${size.toFixed(1)} px in: ${title}`);
            }),
        ]""",
        SMALLEST_TEXT,
    )
    return list(found)


def code_before_the_story(page: Page) -> list[str]:
    """List the open boxes of code above a page's first heading below its title."""
    found = page.evaluate(
        """() => {
            const article = document.querySelector('article');
            const first = article?.querySelector('h2');
            if (!first) return [];
            return [...article.querySelectorAll('.cell_input')]
                .filter(each => !each.closest('details:not([open])')
                    && each.compareDocumentPosition(first)
                        & Node.DOCUMENT_POSITION_FOLLOWING)
                .map(each => `open above the story: ${each.textContent.trim()
                    .slice(0, 60)}`);
        }"""
    )
    return list(found)


def loud_folds(page: Page) -> list[str]:
    """List the folds that stand open, or say something else than people see."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('details')].flatMap(each => {
            const summary = each.querySelector('summary');
            const line = summary.querySelector('.collapsed') || summary;
            const text = line.textContent.trim();
            return [
                ...(each.open ? [`open: ${text}`] : []),
                ...(summary.hasAttribute('aria-label') ? [`labeled: ${text}`] : []),
                ...(text && !text.includes('\\n') ? [] : [`not one line: ${text}`]),
            ];
        })"""
    )
    return list(found)


def untypeset_math(page: Page) -> list[str]:
    """List the formulas that MathJax left alone or could not read."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('.math')].flatMap(each => {
            const start = each.textContent.trim().slice(0, 60);
            const set = each.querySelector('mjx-container');
            if (!set) return [`not typeset: ${start}`];
            return set.querySelector('mjx-merror, merror, [data-mjx-error]')
                ? [`error in: ${start}`] : [];
        })"""
    )
    return list(found)


def images_without_alt(page: Page) -> list[str]:
    """List the images without a text that says what they show.

    A file's path, which the site's generator falls back on, is no such text.
    """
    found = page.evaluate(
        """() => [...document.querySelectorAll('img')]
            .filter(each => {
                const alt = (each.getAttribute('alt') || '').trim();
                return !alt || /\\.(png|svg|jpe?g|gif)$/.test(alt);
            })
            .map(each => each.outerHTML.slice(0, 160))"""
    )
    return list(found)


# Most of a page's elements are the colored words of its code, the cells of its tables
# and its lines of text, and looking behind each costs axe most of its time. One of each
# look, on each background, stands for all that look like it; what floats above a page,
# where anything may lie behind it, stands for its own text alone.
THIN = """() => {
    const behind = new Map([[null, '']]);
    let floating = 0;
    const ground = each => {
        if (!behind.has(each)) {
            const {backgroundColor, backgroundImage, opacity, position} =
                getComputedStyle(each);
            const own = [backgroundColor, backgroundImage, opacity].join();
            const adds = own === 'rgba(0, 0, 0, 0),none,1' ? '' : own + ';';
            const floats = ['static', 'relative'].includes(position) ? '' : ++floating;
            behind.set(each, adds + floats + ground(each.parentElement));
        }
        return behind.get(each);
    };
    const look = each => {
        const {color, fontWeight, fontSize} = getComputedStyle(each);
        return [color, fontWeight, fontSize, ground(each)].join();
    };
    const speaks = each => [...each.childNodes].some(
        node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const alike = query => {
        const seen = new Set();
        return [...document.querySelectorAll(query)]
            .filter(each => speaks(each) && each.checkVisibility())
            .filter(each => seen.has(look(each)) || !seen.add(look(each)));
    };
    alike('pre span:not(:has(*))').forEach(
        each => each.replaceWith(each.textContent));
    alike('body *').forEach(each => each.dataset.alike = '');
    // Drawn by CSS: axe reads the formula in the element beside it.
    document.querySelectorAll('mjx-math').forEach(each => each.replaceChildren());
}"""


def axe_violations(page: Page) -> list[str]:
    """List the serious and critical violations that axe-core finds.

    What is folded away must be opened first (:func:`unfold`), to be looked at too. The
    page is left as it was, but what was bound to parts of its body is gone.
    """
    page.evaluate("() => { window.whole = document.body.cloneNode(true); }")
    page.evaluate(THIN)
    if not page.evaluate("() => typeof window.axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate(
        """async () => {
            axe.configure({rules: [
                {id: 'color-contrast', selector: ':not([data-alike])'}]});
            const {violations} = await axe.run(document, {
                resultTypes: ['violations'],
                preload: false,
                rules: {region: {enabled: false}},  // its impact is moderate
            });
            return violations
            .filter(each => ['serious', 'critical'].includes(each.impact))
            .flatMap(each => each.nodes.map(node =>
                `${each.id}: ${node.target.join(' ')}: ${node.html.slice(0, 160)}`));
        }"""
    )
    page.evaluate("() => document.body.replaceChildren(...window.whole.childNodes)")
    return list(violations)


def wrong_scheme(page: Page, scheme: str) -> list[str]:
    """Say so if a page does not follow the reader's choice of light or dark."""
    theme = page.evaluate("() => document.documentElement.dataset.theme")
    return [] if theme == scheme else [f"asked for {scheme}, got {theme}"]


# --- search ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def parsed(html: str) -> BeautifulSoup:
    """Return the tree of a page, read once for all checks; they must not change it."""
    return BeautifulSoup(html, "html.parser")


def prose(page: Page, html: str) -> tuple[str, str]:
    """Return the text of a page's own body, and its subtitle.

    That is no code, outputs, formulas or diagrams; the subtitle is the heading of the
    section in the document. An open page, any, parses the text: ten times as fast as
    Python does.
    """
    body, subtitle = page.evaluate(
        """html => {
            const root = new DOMParser().parseFromString(html, 'text/html');
            const subtitle = root.querySelector('h1 + p.page-subtitle')?.textContent;
            const article = root.querySelector('article');
            if (!article) return ['', subtitle || ''];
            article.querySelectorAll(
                'pre, code, script, style, .cell, .math, .diagram'
            ).forEach(each => each.remove());
            const texts = root.createTreeWalker(article, NodeFilter.SHOW_TEXT);
            const found = [];
            while (texts.nextNode()) found.push(texts.currentNode.data);
            return [found.join(' '), subtitle || ''];
        }""",
        html,
    )
    return str(body), str(subtitle)


def own_words(texts: dict[str, str]) -> dict[str, str]:
    """Choose for each page a word that it has and as few others as possible have.

    Examples
    --------
    >>> own_words({"a": "shared gates gates", "b": "shared towers"})
    {'a': 'gates', 'b': 'towers'}
    """
    counts = {
        page: Counter(re.findall(r"\b[a-z]{5,15}\b", text))
        for page, text in texts.items()
    }
    spread = Counter(word for words in counts.values() for word in words)
    return {
        page: min(words, key=lambda word: (spread[word], -words[word], word))
        for page, words in counts.items()
        if words
    }


def search_misses(page: Page, root: str, wanted: dict[str, str]) -> list[str]:
    """Search for one word a page and list the pages that are not among the results.

    Parameters
    ----------
    page : Page
        Any open page; it goes to the search page, which loads the index once.
    root : str
        The address of the site.
    wanted : dict
        The path of the page that must be found, as `book/index.html`, and what to
        search for.
    """
    faults: list[str] = []
    page.goto(f"{root}/search.html")
    for path, words in wanted.items():
        try:
            page.evaluate(
                """words => {
                    document.querySelector('#search-results').replaceChildren();
                    Search.performSearch(words);
                }""",
                words,
            )
            page.wait_for_function(
                """() => /finished|found|did not match/i.test(
                    document.querySelector('#search-results .search-summary, '
                        + '#search-results p')?.textContent || '')""",
                timeout=READY_TIMEOUT,
            )
        except Exception as error:  # a dead search is a finding, not a crash
            return [*faults, f"no answer for {words!r}: {str(error).splitlines()[0]}"]
        links = page.eval_on_selector_all(
            "#search-results ul.search a", "all => all.map(each => each.href)"
        )
        found = {urlsplit(urldefrag(link)[0]).path for link in links}
        if not any(unquote(each).endswith("/" + path) for each in found):
            faults.append(f"{words!r} finds {sorted(found)}, not {path}")
    return faults


# --- titles ---------------------------------------------------------------------------

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def foreign_navigation(html: str) -> list[str]:
    """List the entries of a page's navigation that repeat a Chinese heading."""
    soup = parsed(html)
    return [
        each.get_text(" ", strip=True)
        for each in soup.select(
            ".bd-sidebar-primary :is(a, .caption), .prev-next-area a"
        )
        if CHINESE.search(each.get_text())
    ]


def nameless_section(html: str) -> list[str]:
    """Say so if a page does not name its section in the document's language."""
    soup = parsed(html)
    line = soup.select_one("h1 + p.page-subtitle")
    if line is None or not CHINESE.search(line.get_text()):
        return ["no Chinese subtitle under the title"]
    return [] if line.get("lang") == "zh" else ["the subtitle has no lang=zh"]


# --- links ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """Where the book's sources live, as `_config.yml` says."""

    root: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The whole configuration."""
        text = (self.root / "_config.yml").read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))

    @property
    def url(self) -> str:
        """The address of the repository."""
        return str(self.config["repository"]["url"]).rstrip("/")

    @property
    def pages(self) -> list[str]:
        """The pages of the table of contents, without their endings, in order."""
        text = (self.root / "_toc.yml").read_text(encoding="utf-8")
        return list(_files(yaml.safe_load(text)))

    def source(self, page: str) -> str:
        """Return the path of a page's source within the repository."""
        for ending in (".ipynb", ".md"):
            if (self.root / (page + ending)).exists():
                return page + ending
        raise FileNotFoundError(f"_toc.yml lists {page}, and there is no such file")

    def launch_links(self, page: str) -> dict[str, str]:
        """Return the addresses that a page's buttons must have."""
        source, branch = self.source(page), self.config["repository"]["branch"]
        links = {
            "edit": f"{self.url}/edit/{branch}/{source}",
            "repository": self.url,
        }
        if source.endswith(".ipynb"):
            colab = self.config["launch_buttons"]["colab_url"]
            name = urlsplit(self.url).path
            links["Colab"] = f"{colab}/github{name}/blob/{branch}/{source}"
        return links


def _files(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"root", "file"}:
                yield value
            else:
                yield from _files(value)
    elif isinstance(node, list):
        for each in node:
            yield from _files(each)


def wrong_buttons(
    html: str, site: Path, page: str, repository: Repository
) -> list[str]:
    """List the buttons of a page that are missing or lead elsewhere."""
    soup = parsed(html)
    hrefs = {
        str(each.get("href")) for each in soup.select(".article-header-buttons a[href]")
    }
    wanted = repository.launch_links(page)
    faults = [
        f"no {name} button to {url}" for name, url in wanted.items() if url not in hrefs
    ]
    issues = f"{repository.url}/issues/new"
    if not any(href.startswith(issues) for href in hrefs):
        faults.append(f"no issue button to {issues}")
    source = repository.source(page)
    download = soup.select_one("a.btn-download-source-button[href]")
    if download is None:
        return [*faults, "no download button"]
    target = (site / page).parent / unquote(str(download["href"]))
    if not target.is_file():
        faults.append(f"the download button leads to {download['href']}: no such file")
    elif source.endswith(".ipynb"):
        cells = [
            len(json.loads(path.read_text(encoding="utf-8"))["cells"])
            for path in (target, repository.root / source)
        ]
        if cells[0] != cells[1]:
            faults.append(f"the downloaded notebook is not {source}")
    return faults


class Links(HTMLParser):
    """The links of a page and the names of the places in it, read off its tags.

    Attributes are all that is needed, and a tree takes seven times as long.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one tag links to, and what it is called."""
        here = dict(attrs)
        if link := here.get("href") or here.get("src"):
            self.links.append(link)
        names = ("id", "name") if tag == "a" else ("id",)
        self.places |= {name for each in names if (name := here.get(each))}


def broken_links(site: Path, pages: Iterable[Path]) -> list[str]:
    """List the links inside the site that lead to no file or no place in it."""
    faults = []
    read = functools.cache(Links)
    for page in pages:
        for link in read(page.resolve()).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            path = unquote(parts.path)
            target = (page.parent / path).resolve() if path else page.resolve()
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                faults.append(f"{page.relative_to(site)}: {link}: no such file")
            elif parts.fragment and target.suffix == ".html":
                if unquote(parts.fragment) not in read(target).places:
                    faults.append(f"{page.relative_to(site)}: {link}: no such place")
    return faults
