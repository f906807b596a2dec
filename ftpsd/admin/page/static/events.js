// The last events and failures. Both are kept: many events must not push the failures out.

import { get } from "./api.js";
import { Table, find, text } from "./dom.js";
import { bytes, moment } from "./format.js";

const MOST = 100;
const FAILURES = new Set(["refused", "login_failed", "login_refused", "upload_failed", "download_failed", "ban", "reload_failed"]);

function what(event) {
  const path = event.new_path ? `${event.path} → ${event.new_path}` : event.path;
  const moved = event.bytes === undefined ? "" : bytes(event.bytes);
  const act = event.action ? [event.administrator, event.action].filter(Boolean).join(": ") : "";
  const faults = event.faults ? event.faults.join(" ") : "";
  return [act, event.subject, path, moved, event.code, event.text, faults].filter(Boolean).join(" ");
}

export class Events {
  constructor() {
    const columns = [
      text("Time", (event) => moment(event.time), "number"),
      text("Event", (event) => event.event.replaceAll("_", " ")),
      text("User", (event) => event.user || ""),
      text("Address", (event) => event.address || ""),
      text("What", what),
    ];
    this.table = new Table(find("events"), columns, (event) => event.id, "Nothing has happened yet.");
    this.all = [];
    this.failures = [];
    find("only-failures").addEventListener("change", () => this.draw());
  }

  async load() {
    const { events, failures } = await get("/recent");
    this.all = events;
    this.failures = failures;
    this.draw();
  }

  add(events) {
    this.all = [...this.all, ...events].slice(-MOST);
    this.failures = [...this.failures, ...events.filter((event) => FAILURES.has(event.event))].slice(-MOST);
    this.draw();
  }

  draw() {
    const shown = find("only-failures").checked ? this.failures : this.all;
    this.table.show([...shown].reverse());
    for (const { element, item } of this.table.rows.values()) element.classList.toggle("failure", FAILURES.has(item.event));
  }
}
