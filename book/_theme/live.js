// The boxes of a page that come alive: <div data-live="ranker"> and <div data-live="map">.
// What stands in them before is for readers without scripts. Numbers: live-*.js.
"use strict";
(() => {
  function make(tag, attributes = {}, ...children) {
    const each = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith("on")) each.addEventListener(name.slice(2), value);
      else each.setAttribute(name, value);
    each.append(...children);
    return each;
  }
  let labels = 0;
  function labeled(text, control) {
    control.id = `live-${++labels}`;
    return make("p", {}, make("label", { for: control.id }, text), control);
  }
  function select(options) {
    const one = ([text, value]) => make("option", { value }, text);
    return make("select", {}, ...options.map(one));
  }
  const percent = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;

  // --- the trained model: a visitor, a scenario, a mix of tasks, clicks --------------------
  const SHOWN = 10;
  function ranker(box, model) {
    const { meta, arrays, probabilities } = model;
    const { notes, spec } = meta;
    const rows = (name) => {
      const width = Object.fromEntries(meta.arrays)[name].at(-1);
      return (at) => Array.from(arrays[name].subarray(at * width, (at + 1) * width));
    };
    const codes = rows("items"); // of item, in the order of meta.history
    const items = Array.from({ length: notes.items }, (_, i) => codes(i));
    const title = (i) => `item ${i}, ${notes.categories[items[i][1] - 1]}`;
    const visitors = notes.visitors.map((clicked, v) => [
      `visitor ${v + 1} (${clicked.length} clicks)`, v]);
    const visitor = select([["a newcomer (no click yet)", -1], ...visitors]);
    const scenario = select(spec.scenarios.map((name, s) => [name, s]));
    const query = select(notes.queries);
    const mix = spec.tasks.map((task, t) =>
      make("input", { type: "range", min: 0, max: 10, value: t ? 0 : 10 }));
    const undo = make("button", { type: "button" }, "Undo the last click");
    const again = make("button", { type: "button" }, "Start over");
    const list = make("ol", { class: "live-list" });
    const past = make("p", { class: "live-past" });
    const status = make("p", { role: "status", class: "live-status" });
    let clicks = [], before = null;

    // [one row for each item
    function scores() {
      const history = clicks.slice(-spec.history_length).map((i) => items[i]);
      const s = Number(scenario.value);
      const told = { scenario: notes.scenarios[s], query: Number(query.value), user: 0 };
      const names = Object.keys(spec.fields);
      return items.map((codes) => {
        const row = { ...told, item: codes[0], category: codes[1] };
        const fields = names.map((name) => row[name]);
        return probabilities({ fields, numeric: [], history, scenario: s });
      });
    }
    // one row for each item]

    function show(focus) {
      const start = performance.now();
      const p = scores();
      const took = performance.now() - start;
      const weights = mix.map((each) => Number(each.value));
      const fused = p.map((q) => q.reduce((a, b, t) => a + weights[t] * Math.log(b), 0));
      const order = items.map((_, i) => i).sort((a, b) => fused[b] - fused[a] || a - b);
      const place = [];
      order.filter((i) => !clicks.includes(i)).forEach((i, at) => (place[i] = at));
      const top = order.filter((i) => place[i] < SHOWN);
      list.replaceChildren(...top.map((i, at) => entry(i, at, p[i])));
      const fresh = before ? top.filter((i) => !(before[i] < SHOWN)).length : SHOWN;
      past.textContent = clicks.length
        ? `Clicked: ${clicks.map(title).join(" · ")}` : "Nothing clicked yet.";
      status.textContent = `First is ${title(top[0])}.` +
        (before ? ` ${fresh} of ${SHOWN} are new in the list.` : "") +
        ` ${items.length} items scored in ${took.toFixed(0)} ms.`;
      box.dataset.took = took;
      undo.disabled = again.disabled = !clicks.length;
      before = place;
      if (focus !== undefined) list.querySelectorAll("button")[focus].focus();
    }
    function entry(i, at, p) {
      const told = spec.tasks.map((task, t) => `${task} ${percent(p[t])}`).join(" · ");
      const moved = before?.[i] === undefined ? 0 : before[i] - at;
      const way = moved ? `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}` : "";
      const spoken = moved ? `, ${moved > 0 ? "up" : "down"} ${Math.abs(moved)}` : "";
      const press = () => {
        clicks.push(i);
        show(at);
      };
      return make("li", {},
        make("button", { type: "button", onclick: press,
          "aria-label": `Click on ${title(i)}${spoken}` }, `Click on item ${i}`),
        make("span", {}, ` ${notes.categories[items[i][1] - 1]} `),
        make("small", {}, told, " ", make("b", { "aria-hidden": "true" }, way)));
    }
    const form = make("form", { "aria-label": "The trained model",
      onsubmit: (event) => event.preventDefault() },
      make("fieldset", {}, make("legend", {}, "Who asks, and where"),
        labeled("App user", visitor), labeled("Scenario", scenario),
        labeled("Query (search only)", query)),
      make("fieldset", {}, make("legend", {}, "What sorts the list: powers of"),
        ...mix.map((each, t) => labeled(spec.tasks[t], each))),
      make("p", {}, undo, " ", again));
    const start = () => {
      clicks = visitor.value < 0 ? [] : [...notes.visitors[visitor.value]];
      before = null;
      show();
    };
    query.disabled = true;
    visitor.addEventListener("change", start);
    scenario.addEventListener("change", () => {
      query.disabled = spec.scenarios[scenario.value] !== "search";
      if (query.disabled) query.selectedIndex = 0;
      show();
    });
    query.addEventListener("change", () => show());
    for (const each of mix)
      each.addEventListener("input", () => {
        if (mix.every((other) => other.value === "0")) each.value = 1;
        show();
      });
    undo.addEventListener("click", () => {
      clicks.pop();
      show();
    });
    again.addEventListener("click", () => {
      clicks = [];
      show();
    });
    box.replaceChildren(form, past, list, status);
    start();
  }

  // --- page 1.3's knobs: what each method reaches, from stored results --------------------
  function map(box, data) {
    const shift = make("input", { type: "range", min: 0, max: data.shifts.length - 1,
      value: 2 });
    const number = select(data.rows.map((n, r) => [n.toLocaleString("en"), r]));
    const kind = select(data.kinds.map((name, k) => [name, k]));
    number.value = 1;
    const body = make("tbody");
    const status = make("p", { role: "status", class: "live-status" });
    const head = ["Method", "Of the gap closed", "Mean", "95 % interval"];
    const table = make("table", { class: "live-map" },
      make("caption", {}, "From popularity (0 %) to the true probabilities (100 %)"),
      make("thead", {}, make("tr", {}, ...head.map((name) =>
        make("th", { scope: "col" }, name)))), body);

    function show() {
      const [k, r, s] = [kind, number, shift].map((each) => Number(each.value));
      const found = data.closed[k][r][s];
      const agree = data.agreement[k][r][s].toFixed(2);
      shift.setAttribute("aria-valuetext", `shift ${data.shifts[s]}, agreement ${agree}`);
      const best = found.reduce((a, one, c) => (one[0] > found[a][0] ? c : a), 0);
      body.replaceChildren(...found.map(([mean, low, high], c) => {
        const at = (x) => `${Math.min(Math.max(x, 0), 100)}%`;
        const bar = make("span", { class: "live-bar", "aria-hidden": "true" });
        const line = make("i"), dot = make("b");
        line.style.left = at(low);
        line.style.right = `${100 - parseFloat(at(high))}%`;
        dot.style.left = at(mean);
        bar.append(line, dot);
        const name = make("th", { scope: "row" }, data.methods[c]);
        return make("tr", c === best ? { class: "best" } : {}, name,
          make("td", {}, bar), make("td", {}, `${mean.toFixed(0)} %`),
          make("td", {}, `${low.toFixed(0)} to ${high.toFixed(0)} %`));
      }));
      status.textContent = `Shift ${data.shifts[s]}, agreement ${agree}: the largest ` +
        `mean is that of ${data.methods[best]}, ${found[best][0].toFixed(0)} %.`;
    }
    for (const each of [shift, number, kind]) each.addEventListener("input", show);
    box.replaceChildren(
      make("form", { "aria-label": "The two knobs" },
        labeled("Shift of the scenarios' tastes", shift),
        labeled("Rows of search", number), labeled("The app", kind)),
      make("div", { class: "live-scroll", tabindex: 0, role: "group",
        "aria-label": "What each method reaches" }, table), status);
    show();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = { ranker: [ranker, "liveModel"], map: [map, "liveMap"] };
    for (const box of document.querySelectorAll("[data-live]")) {
      const [build, data] = boxes[box.dataset.live];
      if (window[data]) build(box, window[data]);
    }
  });
})();
