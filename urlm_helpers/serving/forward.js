// One row through the model of urlm_helpers.serving.page, in the order of its layers.
// A classic script that asks for no other file, so that it also runs from the disk.
window.liveModel = (() => {
  "use strict";
  const meta = $meta;
  const bytes = Uint8Array.from(atob("$numbers"), (letter) => letter.charCodeAt(0));
  const numbers = new Float32Array(bytes.buffer);
  const W = {};
  let at = 0;
  for (const [name, shape] of meta.arrays) {
    const size = shape.reduce((a, b) => a * b, 1);
    W[name] = numbers.subarray(at, (at += size));
  }

  // [the forward pass
  function dense(x, name, units) {
    const kernel = W[name + "/kernel"];
    const y = Array.from(W[name + "/bias"] ?? new Float32Array(units));
    for (let i = 0; i < x.length; i++)
      for (let j = 0; j < units; j++) y[j] += x[i] * kernel[i * units + j];
    return y;
  }
  const relu = (x) => x.map((v) => Math.max(v, 0));
  const times = (a, b) => Array.from(a, (v, i) => v * b[i]);
  const plus = (a, b) => Array.from(a, (v, i) => v + b[i]);

  function probabilities({ fields, numeric, history, scenario }) {
    const { dim, bottom, experts, units, crosses, offsets, parents } = meta;
    const vector = (f, v) => W.table.subarray((offsets[f] + v) * dim).slice(0, dim);
    const look = (codes) => codes.map((v, i) => vector(meta.history[i], v)).reduce(plus);
    const known = fields.map((v, f) => vector(f, v));
    const events = history.filter((codes) => codes.some((v) => v)).map(look);
    const zeros = new Float32Array(dim);
    const past = events.reduce(plus, zeros).map((v) => v / (events.length || 1));
    const item = look(meta.history.map((f) => fields[f]));
    const match = times(dense(past, "project", dim), item);
    const pair = times(known[meta.user], known[meta.item]);
    const first = [...known.flatMap((v) => [...v]), ...pair, ...numeric, ...match];
    let x = first;
    for (let c = 0; c < crosses; c++)
      x = plus(times(first, dense(x, "cross_" + c, x.length)), x);
    x = relu(dense(x, "bottom", bottom));
    const found = [];
    for (let e = 0; e < experts; e++) found.push(relu(dense(x, "expert_" + e, units)));
    const gates = dense(x, "gate", meta.scenarios * parents.length * experts);
    const p = parents.map((_, t) => {
      const head = scenario * parents.length + t;
      const own = gates.slice(head * experts, (head + 1) * experts);
      const g = own.map((v) => Math.exp(v - Math.max(...own)));
      const all = g.reduce((a, b) => a + b);
      let logit = W["heads/bias"][head];
      for (let u = 0; u < units; u++)
        for (let e = 0; e < experts; e++)
          logit += (W["heads/kernel"][head * units + u] * g[e] * found[e][u]) / all;
      return 1 / (1 + Math.exp(-logit));
    });
    parents.forEach((parent, t) => (p[t] *= parent < 0 ? 1 : p[parent]));
    return p;
  }
  // the forward pass]
  return { meta, arrays: W, probabilities };
})();
