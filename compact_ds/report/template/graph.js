// The consensus graph of one question: nodes in columns along the teachers' ways, a line a teacher, the mainstream bold.
"use strict";

const GRAPH = { column: 170, row: 52, width: 124, height: 34, margin: 12 };

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawGraph(graph) {
  const lowest = Math.min(...graph.nodes.map((node) => node.y));
  const highest = Math.max(...graph.nodes.map((node) => node.y));
  const columns = Math.max(...graph.nodes.map((node) => node.x)) + 1;
  const place = (node) => ({
    x: GRAPH.margin + node.x * GRAPH.column + GRAPH.width / 2,
    y: GRAPH.margin + 14 + (node.y - lowest) * GRAPH.row + GRAPH.height / 2,
  });
  const width = 2 * GRAPH.margin + (columns - 1) * GRAPH.column + GRAPH.width;
  const height = 2 * GRAPH.margin + 28 + (highest - lowest) * GRAPH.row + GRAPH.height;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "consensus graph" });
  for (const edge of graph.edges) {
    const from = place(graph.nodes[edge.from]);
    const to = place(graph.nodes[edge.to]);
    edge.teachers.forEach((teacher, i) => append(picture, drawEdge(from, to, i - (edge.teachers.length - 1) / 2, page.colours[teacher], edge.bold)));
  }
  for (const node of graph.nodes) append(picture, drawNode(node, place(node)));
  return append(element("div", "graph"), picture);
}

function drawEdge(from, to, offset, colour, isBold) {
  const forward = to.x >= from.x;
  const start = { x: from.x + (forward ? 1 : -1) * (GRAPH.width / 2), y: from.y + offset * 6 };
  const end = { x: to.x - (forward ? 1 : -1) * (GRAPH.width / 2), y: to.y + offset * 6 };
  // A line over other columns in the same row bends around the nodes between.
  const bend = Math.abs(to.x - from.x) > GRAPH.column * 1.2 && Math.abs(from.y - to.y) < 1 ? -44 : 0;
  const reach = Math.max(24, Math.abs(end.x - start.x) / 2) * (forward ? 1 : -1);
  const path = `M${start.x},${start.y} C${start.x + reach},${start.y + bend} ${end.x - reach},${end.y + bend} ${end.x},${end.y}`;
  return svg("path", { d: path, fill: "none", stroke: colour, "stroke-width": isBold ? 3.4 : 1.4, "stroke-linecap": "round", opacity: isBold ? 1 : 0.8 });
}

function drawNode(node, at) {
  const group = svg("g", { class: `node ${node.kind}` });
  append(group, svg("title", {}, node.text + (node.teachers.length ? ": " + node.teachers.join(", ") : "")));
  append(group, svg("rect", { x: at.x - GRAPH.width / 2, y: at.y - GRAPH.height / 2, width: GRAPH.width, height: GRAPH.height, rx: 7 }));
  const shown = [...node.text].length > 16 ? [...node.text].slice(0, 15).join("") + "…" : node.text;
  append(group, svg("text", { x: at.x, y: at.y + 4, "text-anchor": "middle" }, shown));
  return group;
}
