// Blocks of a section, by their kind. Every text is set as text; no markup is ever parsed.
"use strict";
const page = JSON.parse(document.getElementById("data").textContent);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

function append(parent, ...children) {
  for (const child of children) if (child) parent.appendChild(child);
  return parent;
}

function number(value) {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : size !== 0 && size < 0.001 ? value.toExponential(1) : String(+value.toPrecision(4));
}

const charts = [];

const draw = {
  chart(block) {
    const place = element("div", "chart");
    // Room for axis and legend, so that a chart drawn later moves nothing below it.
    place.style.minHeight = `${block.spec.height + 45}px`;
    if (block.spec.usermeta) place.style.maxWidth = `${block.spec.usermeta.widest}px`;
    charts.push({ place, spec: block.spec });
    return append(element("div"), block.title ? element("h4", "", block.title) : null, place);
  },
  table(block) {
    const numeric = block.head.map((_, i) => block.rows.every((row) => row[i] === null || typeof row[i] === "number" || /^([-+]?[\d.,]+%?)?$/.test(row[i])));
    const head = element("tr");
    block.head.forEach((name, i) => append(head, element("th", numeric[i] ? "number" : "", name)));
    const body = element("tbody");
    for (const row of block.rows) {
      const line = element("tr");
      row.forEach((cell, i) => append(line, element("td", numeric[i] ? "number" : "", typeof cell === "string" ? cell : number(cell))));
      append(body, line);
    }
    const table = append(element("table"), append(element("thead"), head), body);
    return append(element("div"), block.title ? element("h4", "", block.title) : null, append(element("div", "wide"), table));
  },
  text(block) {
    return append(element("details"), element("summary", "", block.title), element("pre", "", block.content));
  },
  column(block) {
    const made = append(element("div", "column"), block.title ? element("h3", "", block.title) : null);
    return append(made, ...block.blocks.map(drawn));
  },
  beside(block) {
    // Four stand two by two rather than three and one.
    return append(element("div", block.columns.length === 4 ? "beside two" : "beside"), ...block.columns.map(drawn));
  },
  examples(block) {
    return drawExamples(block.browsers);
  },
};

function drawn(block) {
  return draw[block.kind](block);
}
