#!/usr/bin/env bash
# Fetches the browser libraries of the site, of the tools and of the tests, each with its
# license.
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

# The site: mathematics. Of MathJax only TeX input, the CHTML output, its fonts and the
# MathML for screen readers, each as a component of its own: all in one file they come with
# the menu and more, and weigh 400 kB more.
site=book/_vendor
rm -rf "$site"
mkdir -p "$site/mathjax/input/tex" "$site/mathjax/output/chtml" "$site/mathjax/a11y"
for each in startup.js core.js input/tex.js input/tex/extensions output/chtml.js \
    output/chtml/fonts a11y/assistive-mml.js; do
    cp -r "$tmp/mathjax/es5/$each" "$site/mathjax/$each"
done
rm "$site/mathjax/input/tex/extensions/all-packages.js"
cp "$tmp/mathjax/LICENSE" "$site/mathjax/"

# The authors only: what `make diagrams` draws with.
rm -rf tools/_vendor
mkdir -p tools/_vendor/mermaid
cp "$tmp/mermaid/dist/mermaid.min.js" "$tmp/mermaid/LICENSE" tools/_vendor/mermaid/

# The tests only: the accessibility checker.
rm -rf tests/_vendor
mkdir -p tests/_vendor/axe-core
cp "$tmp/axe-core/axe.min.js" "$tmp/axe-core"/LICENSE* tests/_vendor/axe-core/

find "$site" tools/_vendor tests/_vendor -type f -exec chmod 644 {} +
cat > "$site/README.md" <<TEXT
Third-party files that the built site ships, so that no page asks another host for anything.
Made by \`tools/vendor.sh\`; do not edit them here. Licenses lie beside the files.

- MathJax $mathjax (Apache-2.0), trimmed to TeX input and CHTML output
TEXT
du -sh "$site"/* tools/_vendor/* tests/_vendor/*
