// A small layered layout of a directed acyclic graph, from left to right. Pure. Layers by longest path,
// edges over several layers through stand-ins, order by medians, heights by what is beside.

import { parents } from "./fold.js";

export const NODE_W = 172;
export const NODE_H = 46;
const GAP_X = 56;
const GAP_Y = 18;
const THIN = 10; // height of a stand-in
const SWEEPS = 8;

/** Nodes and edges of a definition. Edges to nodes that are not there are left out. */
export function edgesOf(definition) {
  const known = new Set(definition.nodes.map((n) => n.id));
  return definition.nodes.flatMap((n) => parents(n).filter((p) => known.has(p)).map((p) => ({ from: p, to: n.id })));
}

/** `{ nodes: Map<id, {x, y, layer}>, edges: [{from, to, points}], width, height }`. */
export function layout(definition) {
  const edges = edgesOf(definition);
  const layerOf = layers(definition.nodes.map((n) => n.id), edges);
  const rows = [];
  const make = (id, layer, real) => {
    const v = { id, layer, real, h: real ? NODE_H : THIN, before: [], after: [], y: 0 };
    (rows[layer] ??= []).push(v);
    return v;
  };
  const real = new Map(definition.nodes.map((n) => [n.id, make(n.id, layerOf.get(n.id), true)]));
  const paths = edges.map(({ from, to }) => {
    const path = [real.get(from)];
    for (let l = layerOf.get(from) + 1; l < layerOf.get(to); l++) path.push(make(null, l, false));
    path.push(real.get(to));
    for (let i = 1; i < path.length; i++) {
      path[i - 1].after.push(path[i]);
      path[i].before.push(path[i - 1]);
    }
    return { from, to, path };
  });
  order(rows);
  heights(rows);
  return coordinates(real, paths, rows);
}

function layers(ids, edges) {
  const layer = new Map(ids.map((id) => [id, 0]));
  const left = new Map(ids.map((id) => [id, 0]));
  const out = new Map(ids.map((id) => [id, []]));
  for (const e of edges) { left.set(e.to, left.get(e.to) + 1); out.get(e.from).push(e.to); }
  const ready = ids.filter((id) => left.get(id) === 0);
  for (let i = 0; i < ready.length; i++) {
    for (const to of out.get(ready[i])) {
      layer.set(to, Math.max(layer.get(to), layer.get(ready[i]) + 1));
      left.set(to, left.get(to) - 1);
      if (left.get(to) === 0) ready.push(to);
    }
  }
  return layer;
}

const middle = (list, of) => {
  if (!list.length) return null;
  const sorted = list.map(of).sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

function order(rows) {
  const number = (row) => row.forEach((v, i) => (v.at = i));
  rows.forEach(number);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      for (const v of row) v.want = middle(down ? v.before : v.after, (o) => o.at) ?? v.at;
      row.sort((a, b) => a.want - b.want || a.at - b.at);
      number(row);
    }
  }
}

function heights(rows) {
  for (const row of rows) row.reduce((y, v) => ((v.y = y + v.h / 2), y + v.h + GAP_Y), 0);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      for (const v of row) v.want = middle(down ? v.before : v.after, (o) => o.y) ?? v.y;
      place(row);
    }
  }
}

// As near as possible to where each wants to be, in the row's order: neighbours that would overlap move together.
function place(row) {
  const groups = [];
  for (const v of row) {
    let g = { of: [v], sum: v.want, size: v.h };
    for (;;) {
      const prev = groups.at(-1);
      if (!prev || prev.sum / prev.of.length + prev.size / 2 + GAP_Y <= g.sum / g.of.length - g.size / 2) break;
      groups.pop();
      g = { of: [...prev.of, ...g.of], sum: prev.sum + g.sum, size: prev.size + GAP_Y + g.size };
    }
    groups.push(g);
  }
  for (const g of groups) g.of.reduce((y, v) => ((v.y = y + v.h / 2), y + v.h + GAP_Y), g.sum / g.of.length - g.size / 2);
}

function coordinates(real, paths, rows) {
  const all = rows.flat();
  const top = Math.min(...all.map((v) => v.y - v.h / 2), Infinity);
  const x = (layer) => 8 + layer * (NODE_W + GAP_X);
  const nodes = new Map([...real].map(([id, v]) => [id, { x: x(v.layer), y: v.y - top - NODE_H / 2 + 8, layer: v.layer }]));
  const edges = paths.map(({ from, to, path }) => ({
    from, to,
    points: path.flatMap((v) => {
      const y = v.y - top + 8;
      const left = [x(v.layer), y];
      const right = [x(v.layer) + NODE_W, y];
      if (v === path[0]) return [right];
      return v === path.at(-1) ? [left] : [left, right];
    }),
  }));
  const bottom = Math.max(...all.map((v) => v.y + v.h / 2), -Infinity);
  return { nodes, edges, width: x(rows.length) - GAP_X + 8, height: bottom - top + 16 };
}
