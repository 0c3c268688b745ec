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
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

AXE = Path(__file__).parent / "_vendor" / "axe-core" / "axe.min.js"
LOCAL_SCHEMES = {"file", "data", "blob", "about"}
DRAWN_TIMEOUT = 20_000  # milliseconds


@dataclass
class Visit:
    """An open page, and what the browser reported while it loaded."""

    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


def is_outside(url: str) -> bool:
    """Tell whether a request would leave this machine."""
    parts = urlsplit(url)
    return parts.scheme not in LOCAL_SCHEMES and parts.hostname != "127.0.0.1"


@contextmanager
def visit(
    browser: Browser, url: str, width: int = 1280, scheme: Any = "light"
) -> Iterator[Visit]:
    """Open a page in a fresh profile and wait until it has come to rest.

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
        page.wait_for_load_state("networkidle")
        settle(page)
        yield seen
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until diagrams are drawn and formulas typeset, as far as they will be."""
    page.evaluate(
        """async (limit) => {
            const late = new Promise(resolve => setTimeout(resolve, limit));
            const drawn = (async () => {
                const todo = () => [...document.querySelectorAll('pre.mermaid')]
                    .some(each => !each.querySelector('svg'));
                while (window.mermaid && todo())
                    await new Promise(resolve => setTimeout(resolve, 50));
                if (window.MathJax?.startup?.promise)
                    await window.MathJax.startup.promise;
                await document.fonts.ready;
            })();
            await Promise.race([drawn, late]);
        }""",
        DRAWN_TIMEOUT,
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
    return [url for url in seen.requests if is_outside(url)]


def failed_requests(seen: Visit) -> list[str]:
    """List the requests that got no answer, or the answer that there is nothing."""
    return list(seen.failures)


def console_noise(seen: Visit) -> list[str]:
    """List the errors, warnings and uncaught exceptions of the console."""
    return list(seen.console)


def unused_scripts(seen: Visit) -> list[str]:
    """List the large scripts that a page loads and has no use for."""
    return [
        f"loads {name} without {what}"
        for name, what in (("mermaid.min.js", ".mermaid"), ("tex-chtml.js", ".math"))
        if any(name in url for url in seen.requests)
        and seen.page.locator(what).count() == 0
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


def undrawn_diagrams(page: Page) -> list[str]:
    """List the Mermaid blocks that are no picture, or the picture of an error."""
    found = page.evaluate(
        """() => [...document.querySelectorAll('.mermaid')].flatMap(each => {
            const start = each.textContent.trim().slice(0, 60);
            const svg = each.querySelector('svg');
            if (!svg) return [`not drawn: ${start}`];
            if (svg.getAttribute('aria-roledescription') === 'error'
                || svg.textContent.includes('Syntax error'))
                return [`syntax error: ${start}`];
            const box = svg.getBoundingClientRect();
            return box.width * box.height > 0 ? [] : [`empty: ${start}`];
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


def axe_violations(page: Page) -> list[str]:
    """List the serious and critical violations that axe-core finds.

    What is folded away is opened first, so that it is looked at too.
    """
    page.evaluate(
        """async () => {
            document.querySelectorAll('details').forEach(each => each.open = true);
            document.querySelectorAll('.toggle-hidden').forEach(
                each => each.classList.remove('toggle-hidden'));
            // What is fading in has no contrast yet.
            await new Promise(requestAnimationFrame);
            document.getAnimations().forEach(each => {
                try { each.finish(); } catch { each.cancel(); }
            });
            await new Promise(requestAnimationFrame);
        }"""
    )
    if not page.evaluate("() => typeof window.axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate(
        """async () => (await axe.run(document, {resultTypes: ['violations']}))
            .violations
            .filter(each => ['serious', 'critical'].includes(each.impact))
            .flatMap(each => each.nodes.map(node =>
                `${each.id}: ${node.target.join(' ')}: ${node.html.slice(0, 160)}`))"""
    )
    return list(violations)


def wrong_scheme(page: Page, scheme: str) -> list[str]:
    """Say so if a page does not follow the reader's choice of light or dark."""
    theme = page.evaluate("() => document.documentElement.dataset.theme")
    return [] if theme == scheme else [f"asked for {scheme}, got {theme}"]


# --- search ---------------------------------------------------------------------------


def prose(html: str) -> str:
    """Return the text of a page's own body: no code, outputs, formulas or diagrams."""
    article = BeautifulSoup(html, "html.parser").select_one("article")
    if article is None:
        return ""
    for each in article.select("pre, code, script, style, .cell, .math, .mermaid"):
        each.decompose()
    return article.get_text(" ")


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


def search_misses(page: Page, root: str, word: str, wanted: str) -> list[str]:
    """Search for a word and say so if a page is not among the results.

    Parameters
    ----------
    page : Page
        Any open page; it goes to the search page.
    root : str
        The address of the site.
    word : str
        What to search for.
    wanted : str
        The path of the page that must be found, as `book/index.html`.
    """
    page.goto(f"{root}/search.html?q={word}")
    try:
        page.wait_for_function(
            """() => /finished|found|did not match/i.test(
                document.querySelector('#search-results .search-summary, '
                    + '#search-results p')?.textContent || '')""",
            timeout=DRAWN_TIMEOUT,
        )
    except Exception as error:  # a dead search is a finding, not a crash of the check
        return [f"no answer for {word!r}: {str(error).splitlines()[0]}"]
    links = page.eval_on_selector_all(
        "#search-results ul.search a", "all => all.map(each => each.href)"
    )
    found = {urlsplit(urldefrag(link)[0]).path for link in links}
    if any(unquote(path).endswith("/" + wanted) for path in found):
        return []
    return [f"{word!r} finds {sorted(found)}, not {wanted}"]


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
    soup = BeautifulSoup(html, "html.parser")
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


def broken_links(site: Path, pages: Iterable[Path]) -> list[str]:
    """List the links inside the site that lead to no file or no place in it."""
    faults = []
    places: dict[Path, set[str]] = {}
    for page in pages:
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for each in soup.select("[href], [src]"):
            link = str(each.get("href") or each.get("src") or "")
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in {"", "#"}:
                continue
            path = unquote(parts.path)
            target = (page.parent / path).resolve() if path else page.resolve()
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                faults.append(f"{page.relative_to(site)}: {link}: no such file")
            elif parts.fragment and target.suffix == ".html":
                if target not in places:
                    places[target] = _places(target)
                if unquote(parts.fragment) not in places[target]:
                    faults.append(f"{page.relative_to(site)}: {link}: no such place")
    return faults


def _places(page: Path) -> set[str]:
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    ids = {str(each["id"]) for each in soup.select("[id]")}
    return ids | {str(each["name"]) for each in soup.select("a[name]")}
