"""Write the repository's address of `_config.yml` wherever else it stands.

Change `repository: url:` in `_config.yml`, then run ``python tools/set_url.py``. The
address to replace is read from `pyproject.toml`, or given as the argument.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
TEXT = {".md", ".toml", ".cff", ".ipynb", ".yml", ".py"}


def forms(url: str) -> list[str]:
    """Return the forms in which an address occurs: repository, name and site.

    Examples
    --------
    >>> forms("https://github.com/ann/book")
    ['https://github.com/ann/book', 'github/ann/book', 'https://ann.github.io/book']
    """
    owner, name = urlsplit(url).path.strip("/").split("/")
    return [url, f"github/{owner}/{name}", f"https://{owner.lower()}.github.io/{name}"]


def configured_url(root: Path) -> str:
    """Return the repository's address as `_config.yml` has it."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    return str(yaml.safe_load(text)["repository"]["url"]).rstrip("/")


def packaged_url(root: Path) -> str:
    """Return the repository's address as `pyproject.toml` has it."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["urls"]["Repository"]).rstrip("/")


def rewrite(paths: list[Path], old: str, new: str) -> list[Path]:
    """Replace each form of one address by the other; return the files that changed."""
    changed = []
    for path in paths:
        text = before = path.read_text(encoding="utf-8")
        for ours, theirs in zip(forms(old), forms(new), strict=True):
            text = text.replace(ours, theirs)
        if text != before:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> int:
    """Run the command line."""
    new = configured_url(ROOT)
    old = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else packaged_url(ROOT)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    paths = [ROOT / name for name in listed if Path(name).suffix in TEXT]
    for path in rewrite([p for p in paths if p.exists()], old, new):
        print(f"{path.relative_to(ROOT)}: {new}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
