"use strict";
(function () {
  const table = document.getElementById("results"), body = table.tBodies[0], rows = Array.from(body.rows);
  const data = JSON.parse(document.getElementById("atlas-data").textContent);
  const form = document.getElementById("filters"), count = document.getElementById("count");
  const panel = document.getElementById("comparison"), chosen = [];
  const text = (row, column) => row.cells[column].textContent;
  const column = (name) => (row) => text(row, name);
  const keys = {
    data: column(1), family: (row) => row.dataset.family, backbone: (row) => row.dataset.backbone,
    protocol: column(8), year: column(9),
  };

  // filters: one list per field, filled with the values of the table
  for (const [name, key] of Object.entries(keys)) {
    const values = Array.from(new Set(rows.map(key))).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    for (const value of values) form.elements[name].add(new Option(value, value));
  }
  let words = null; // the text of every row, read when the first word is typed
  function filter() {
    const wanted = Object.keys(keys).filter((name) => form.elements[name].value);
    const search = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (search.length && !words) words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    let shown = 0;
    for (const row of rows) {
      const hit = wanted.every((name) => keys[name](row) === form.elements[name].value) &&
        search.every((word) => words.get(row).includes(word));
      if (row.hidden === hit) row.hidden = !hit;
      shown += hit;
    }
    count.textContent = shown + " of " + rows.length + " results";
  }
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter();

  // sorting: a button in every heading; rows without a value come last in both directions
  Array.from(table.tHead.rows[0].cells).forEach((cell, index) => {
    const numeric = cell.dataset.sort !== "text", button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.dataset.heading = cell.textContent;
    cell.replaceChildren(button);
    const value = (row) => {
      const shown = row.cells[index], raw = shown.dataset.value ?? shown.textContent.trim();
      return numeric ? (raw === "" ? NaN : parseFloat(raw)) : raw;
    };
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === (numeric ? null : "ascending") ||
        (numeric && cell.getAttribute("aria-sort") === "ascending");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const missing = (v) => (numeric ? Number.isNaN(v) : v === "");
      const order = rows.map((row, place) => ({ row, place, v: value(row) })).sort((a, b) => {
        if (missing(a.v) || missing(b.v)) return missing(a.v) - missing(b.v) || a.place - b.place;
        const sign = numeric ? a.v - b.v : a.v.localeCompare(b.v, "en", { numeric: true });
        return (down ? -sign : sign) || a.place - b.place;
      });
      body.append(...order.map((entry) => entry.row));
    });
  });

  // comparing two rows: what separates their protocols, and what each difference was worth elsewhere
  const setup = (row) => data.setups[data.rows[Number(row.id.slice(1))]];
  const add = (parent, tag, content) => {
    const node = document.createElement(tag);
    node.textContent = content;
    parent.append(node);
    return node;
  };
  const value = (row, cell, name) => text(row, cell) && name + " " + text(row, cell);
  const show = (value) => (value === true ? "yes" : value === false ? "no" : String(value));
  function worth(field, before, after) {
    for (const metric of ["AP", "mask AP", "AP50"]) {
      for (const effect of data.effects) {
        if (effect.field !== field || effect.metric !== metric) continue;
        const same = effect.before === before && effect.after === after;
        if (same || (effect.before === after && effect.after === before)) return { effect, sign: same ? 1 : -1 };
      }
    }
    return null;
  }
  function compare() {
    const [one, other] = chosen.map(setup), lines = [];
    const differs = (field) => field in one && field in other && one[field] !== other[field];
    const brought = new Set(Object.keys(data.brought).filter(differs).flatMap((field) => data.brought[field]));
    for (const [field, name] of Object.entries(data.fields)) {
      if (differs(field) && !brought.has(field)) {
        lines.push({ field, name, known: worth(field, one[field], other[field]) });
      }
    }
    const size = (line) => (line.known ? Math.abs(line.known.effect.points) : -1);
    lines.sort((a, b) => size(b) - size(a));
    panel.replaceChildren();
    add(panel, "h2", "Two rows compared");
    chosen.forEach((row, index) => add(panel, "p", "AB"[index] + ": " + row.cells[0].firstChild.textContent + ", " +
      [text(row, 1), text(row, 2), text(row, 7), value(row, 3, "box AP"), value(row, 5, "mask AP"), text(row, 11)]
        .filter(Boolean).join(", ")));
    if (!lines.length) add(panel, "p", "Every stated field of their protocols is the same.");
    const list = add(panel, "ul", "");
    for (const { field, name, known } of lines) {
      const item = add(list, "li", name + ": " + show(one[field]) + " (A), " + show(other[field]) + " (B). ");
      if (!known) {
        item.append("No published pair of rows shows what this is worth.");
        continue;
      }
      const { effect, sign } = known, points = sign * effect.points;
      item.append("Elsewhere worth " + (points < 0 ? "−" : "+") + Math.abs(points).toFixed(2) + " " + effect.metric +
        " from A to B (" + (effect.pairs ? effect.pairs + (effect.pairs > 1 ? " pairs, " : " pair, ") : "stated, ") +
        effect.source + ").");
    }
    const unknown = Object.keys(data.fields).filter((field) => (field in one) !== (field in other));
    if (unknown.length) {
      add(panel, "p", "Stated for one row only: " + unknown.map((field) => data.fields[field]).join(", ") + ".");
    }
  }
  function addBox(row) {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.setAttribute("aria-label", "Compare " + row.cells[0].firstChild.textContent);
    label.append(box);
    label.className = "compare";
    row.cells[0].append(label);
    box.addEventListener("change", () => {
      if (box.checked) {
        chosen.push(row);
        if (chosen.length > 2) chosen.shift().querySelector("input").checked = false;
      } else {
        chosen.splice(chosen.indexOf(row), 1);
      }
      if (chosen.length === 2) {
        compare();
        panel.scrollIntoView({ block: "nearest" });
      } else panel.textContent = "Choose " + (chosen.length ? "a second row" : "two rows") + " in the table to compare them.";
    });
  }
  const mode = document.getElementById("compare-mode");
  mode.addEventListener("click", () => {
    const on = mode.getAttribute("aria-pressed") !== "true";
    mode.setAttribute("aria-pressed", String(on));
    chosen.length = 0;
    for (const label of table.querySelectorAll("label.compare")) label.remove();
    panel.textContent = on ? "Choose two rows in the table to compare them." : "";
    if (on) rows.forEach(addBox);
  });
})();
