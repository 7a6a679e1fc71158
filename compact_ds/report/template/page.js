// Puts the page together: the runs in a line each, then the sections.
"use strict";

document.querySelector("h1").textContent = page.title;
for (const line of page.lines) {
  const made = element("p", "line");
  if (page.lines.length > 1) append(made, element("b", "", line.run + ": "));
  append(document.getElementById("lines"), append(made, document.createTextNode(line.text)));
}
for (const section of page.sections) {
  const link = element("a", "", section.title);
  link.href = "#" + section.id;
  append(document.querySelector("nav"), link);
  const made = append(element("section"), element("h2", "", section.title), section.note ? element("p", "note", section.note) : null);
  made.id = section.id;
  append(document.querySelector("main"), append(made, ...section.blocks.map(drawn)));
}
document.querySelector("footer").textContent = `compact_ds ${page.version}`;
