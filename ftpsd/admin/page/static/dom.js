// Tables whose rows are kept from one update to the next, so that focus, selection and scroll position stay.

export const find = (id) => document.getElementById(id);

export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A row has a cell for each column: { label, className, build(cell), update(cell, item) }.
export class Table {
  constructor(table, columns, key, empty) {
    this.body = table.tBodies[0];
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    const none = make("td", { className: "none", colSpan: columns.length, textContent: empty });
    this.empty = make("tr", {}, none);
  }

  show(items) {
    const seen = new Set();
    let last = null;
    for (const item of items) {
      const key = this.key(item);
      seen.add(key);
      let row = this.rows.get(key);
      if (row === undefined) {
        row = this.build();
        this.rows.set(key, row);
      }
      row.item = item;
      this.columns.forEach((column, index) => column.update(row.element.cells[index], item));
      const next = last === null ? this.body.firstElementChild : last.nextElementSibling;
      if (next !== row.element) this.body.insertBefore(row.element, next);
      last = row.element;
    }
    for (const [key, row] of this.rows) {
      if (!seen.has(key)) {
        if (row.element.contains(document.activeElement)) this.body.closest(".scroll").focus({ preventScroll: true });
        row.element.remove();
        this.rows.delete(key);
      }
    }
    if (this.rows.size) this.empty.remove();
    else this.body.append(this.empty);
  }

  build() {
    const row = { element: make("tr"), item: null };
    for (const column of this.columns) {
      const cell = make("td", { className: column.className || "" });
      cell.dataset.label = column.label;
      if (column.build) column.build(cell, row);
      row.element.append(cell);
    }
    return row;
  }
}

export const text = (label, value, className) => ({
  label,
  className,
  update: (cell, item) => setText(cell, value(item)),
});

export function button(label, describe, action, danger) {
  return (cell, row) => {
    const element = make("button", { type: "button", textContent: label, className: danger ? "danger" : "" });
    element.addEventListener("click", () => action(row.item));
    element.describe = describe;
    cell.append(element);
  };
}

export function describeButtons(cell, item) {
  for (const element of cell.children) {
    const label = element.describe(item);
    if (element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label);
  }
}
