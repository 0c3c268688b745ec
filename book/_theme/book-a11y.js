// Mends what axe-core finds in the theme's own markup, and one thing of search on file://.
"use strict";

// Browsers refuse to read other pages from file://, so there search lists titles only.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// A label must contain the text that people see: who says "click Show code" must be heard.
function mendMarkup() {
  for (const each of document.querySelectorAll("summary[aria-label]"))
    each.removeAttribute("aria-label");
  for (const each of document.querySelectorAll("button.search-button-field"))
    each.removeAttribute("aria-label");
  // A list of references holds doc-biblioentry, which no ARIA list may.
  for (const each of document.querySelectorAll(".citation-list[role=list]"))
    each.removeAttribute("role");
  // The icons carry titles ("Light"), before and after Font Awesome makes pictures of them.
  for (const each of document.querySelectorAll(".theme-switch-button :is(i, svg)")) {
    each.removeAttribute("title");
    each.removeAttribute("aria-labelledby");
    each.setAttribute("aria-hidden", "true");
    each.querySelector("title")?.remove();
  }
}

// A box that scrolls must be reachable by keyboard: wide code, tables and formulas.
function mendScrolling() {
  const boxes =
    "pre, div.math, mjx-container, .cell_output .output, .pst-scrollable-table-container";
  for (const each of document.querySelectorAll(boxes)) {
    const scrolls =
      each.scrollWidth > each.clientWidth &&
      ["auto", "scroll"].includes(getComputedStyle(each).overflowX);
    if (scrolls) each.setAttribute("tabindex", "0");
    else each.removeAttribute("tabindex");
  }
}

document.addEventListener("DOMContentLoaded", () => {
  mendMarkup();
  mendScrolling();
});
window.addEventListener("load", () => {
  mendMarkup();
  mendScrolling();
  window.MathJax?.startup?.promise.then(mendScrolling);
  new ResizeObserver(mendScrolling).observe(document.body);
});
