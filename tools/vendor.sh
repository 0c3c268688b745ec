#!/usr/bin/env bash
# Fetches the browser libraries that the site and its tests ship, each with its license.
# Needs npm and tar; takes about ten seconds. Run it again after changing a version.
set -euo pipefail
mermaid=11.12.1 mathjax=3.2.2 axe=4.14.1

cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for package in "mermaid@$mermaid" "mathjax@$mathjax" "axe-core@$axe"; do
    (cd "$tmp" && tgz=$(npm pack --silent "$package") &&
        mkdir "${package%@*}" && tar xzf "$tgz" -C "${package%@*}" --strip 1)
done

# The site: diagrams and mathematics. Of MathJax only TeX input, the CHTML output and its
# fonts: the menu, which would load the speech engine (4 MB), is off in _config.yml.
site=book/_vendor
rm -rf "$site"
mkdir -p "$site/mermaid" "$site/mathjax/input/tex" "$site/mathjax/output/chtml"
cp "$tmp/mermaid/dist/mermaid.min.js" "$tmp/mermaid/LICENSE" "$site/mermaid/"
cp "$tmp/mathjax/es5/tex-chtml.js" "$tmp/mathjax/LICENSE" "$site/mathjax/"
cp -r "$tmp/mathjax/es5/input/tex/extensions" "$site/mathjax/input/tex/"
cp -r "$tmp/mathjax/es5/output/chtml/fonts" "$site/mathjax/output/chtml/"

# The tests only: the accessibility checker.
rm -rf tests/_vendor
mkdir -p tests/_vendor/axe-core
cp "$tmp/axe-core/axe.min.js" "$tmp/axe-core"/LICENSE* tests/_vendor/axe-core/

find "$site" tests/_vendor -type f -exec chmod 644 {} +
cat > "$site/README.md" <<TEXT
Third-party files that the built site ships, so that no page asks another host for anything.
Made by \`tools/vendor.sh\`; do not edit them here. Licenses lie beside the files.

- mermaid $mermaid (MIT)
- MathJax $mathjax (Apache-2.0), trimmed to TeX input and CHTML output
TEXT
du -sh "$site"/* tests/_vendor/*
