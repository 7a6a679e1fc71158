// The browser of examples: a list to choose from and one question in full.
"use strict";

const FILTERS = {
  "all questions": () => true,
  "the student answers wrong": (item) => item.said && !item.said.right,
  "a wrong rationale has the largest weight": (item) => item.rationales.some((one) => one.wins && !one.right),
  "teachers disagree on the answer": (item) => item.rationales.some((one) => one.right) && item.rationales.some((one) => !one.right),
  "no rationale is right": (item) => item.rationales.every((one) => !one.right),
};

function drawExamples(browsers) {
  const runs = select(browsers.map((one) => one.run), "Run");
  const filter = select(Object.keys(FILTERS), "Filter");
  const search = element("input");
  search.type = "search";
  search.placeholder = "search in texts";
  search.setAttribute("aria-label", "Search in texts");
  const back = button("‹ previous"), next = button("next ›");
  const list = element("div", "list"), detail = element("div", "detail"), source = element("p", "small");
  let items = [], at = 0;

  function show(index, scroll) {
    at = Math.max(0, Math.min(index, items.length - 1));
    [...list.children].forEach((row, i) => row.setAttribute("aria-current", String(i === at && items.length > 0)));
    const chosen = list.children[at];
    if (scroll && chosen) list.scrollTop = chosen.offsetTop - list.offsetTop - 60;
    detail.replaceChildren(...(items.length ? drawItem(items[at]) : []));
    back.disabled = at === 0;
    next.disabled = at >= items.length - 1;
  }

  function refill() {
    const browser = browsers[runs.selectedIndex];
    const wanted = search.value.trim().toLowerCase();
    const passes = FILTERS[filter.value];
    items = browser.items.filter((item) => passes(item) && (!wanted || textOf(item).includes(wanted)));
    source.textContent = `${items.length} of ${browser.source}`;
    list.replaceChildren(...items.map((item, i) => {
      const row = button("");
      append(row, element("span", "", item.question.length > 90 ? item.question.slice(0, 89) + "…" : item.question));
      if (FILTERS["a wrong rationale has the largest weight"](item)) append(row, document.createTextNode(" "), element("span", "badge bad", "wrong wins"));
      row.addEventListener("click", () => show(i, false));
      return row;
    }));
    if (!items.length) append(list, element("div", "none", "no question passes"));
    show(0, true);
  }

  for (const control of [runs, filter]) control.addEventListener("change", refill);
  search.addEventListener("input", refill);
  back.addEventListener("click", () => show(at - 1, true));
  next.addEventListener("click", () => show(at + 1, true));
  refill();
  const controls = append(element("div", "controls"), browsers.length > 1 ? runs : null, filter, search, back, next);
  return append(element("div"), controls, source, append(element("div", "browser"), list, detail));
}

function drawItem(item) {
  const parts = [element("p", "question", item.question), append(element("p"), element("b", "", "Gold answer: "), element("span", "", item.answer))];
  parts.push(element("p", "small", item.id + (item.missing ? `; ${item.missing} rationales too long to be scored` : "")));
  if (item.said) {
    const verdict = element("span", item.said.right ? "badge good" : "badge bad", item.said.right ? "right" : "wrong");
    const head = append(element("div"), element("b", "", "The trained student writes "), verdict);
    parts.push(head, element("p", "said small", item.said.text.trim()));
  }
  parts.push(drawGraph(item.graph), drawKey(item));
  const most = Math.max(0.05, ...item.rationales.flatMap((one) => one.steps.map((step) => Math.abs(step.gain ?? 0))));
  const ordered = [...item.rationales].sort((a, b) => b.weight - a.weight);
  return [...parts, ...ordered.map((one) => drawRationale(one, most))];
}

function drawRationale(one, most) {
  const colour = page.colours[one.teacher];
  const card = element("div", "rationale");
  card.style.borderLeftColor = colour;
  const head = append(element("div", "head"), element("span", "name", one.teacher), element("span", "", `weight ${one.weight.toFixed(2)}`));
  if (one.wins) append(head, element("span", "badge win", "largest weight"));
  append(head, element("span", one.right ? "badge good" : "badge bad", one.right ? "right" : "wrong answer"));
  const bar = element("div");
  bar.style.width = `${(100 * one.weight).toFixed(1)}%`;
  bar.style.background = colour;
  const added = one.added.map(([name, value]) => ` · ${name} ${number(value)}`).join("");
  const metrics = `C ${number(one.consensus)} · A ${signed(one.adaptability)} nats · D ${signed(one.difficulty)} nats · loss ${number(one.token_loss)}${added}`;
  const steps = element("div", "steps");
  one.steps.forEach((step, i) => append(steps, ...drawStep(step, i + 1 === one.epiphany && step.gain > 0, most)));
  append(steps, element("span", "conclusion", one.conclusion));
  return append(card, head, append(element("div", "bar"), bar), element("div", "small", metrics), steps);
}

function drawStep(step, isEpiphany, most) {
  const text = step.text.replace(/^\s+/, ""), space = step.text.slice(0, step.text.length - text.length);
  const shown = element("span", isEpiphany ? "step epiphany" : "step", (isEpiphany ? "★ " : "") + text);
  const parts = [document.createTextNode(space), shown];
  if (step.gain !== null) {
    const strength = (0.06 + 0.5 * Math.min(1, Math.abs(step.gain) / most)).toFixed(2);
    shown.style.background = `rgba(var(${step.gain >= 0 ? "--good" : "--bad"}), ${strength})`;
    shown.title = `gain ${signed(step.gain)} nats per answer token`;
    parts.push(element("span", "gain", signed(step.gain)));
  }
  return parts;
}

function drawKey(item) {
  const key = element("div");
  const present = new Set(item.rationales.map((one) => one.teacher));
  for (const teacher of Object.keys(page.colours).filter((name) => present.has(name))) {
    const line = element("i");
    line.style.background = page.colours[teacher];
    append(key, append(element("span", "key"), line, element("span", "", teacher)));
  }
  return key;
}

function signed(value) {
  return value === null || value === undefined ? "" : (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2);
}

function textOf(item) {
  return [item.id, item.question, ...item.rationales.flatMap((one) => [one.teacher, ...one.steps.map((step) => step.text)])].join(" ").toLowerCase();
}

function select(names, label) {
  const made = element("select");
  made.setAttribute("aria-label", label);
  for (const name of names) append(made, element("option", "", name));
  return made;
}

function button(text) {
  const made = element("button", "", text);
  made.type = "button";
  return made;
}
