// The users, a page of them at a time, with what they use of their quotas.

import { get, query } from "./api.js";
import { Table, find, make, setText, text } from "./dom.js";
import { bytes, moment } from "./format.js";

const PAGE = 50;

const used = {
  label: "Used",
  className: "progress",
  build: (cell) => cell.append(make("meter", { min: 0, max: 1, high: 0.9, hidden: true }), make("span")),
  update: (cell, user) => {
    const [bar, label] = cell.children;
    const limit = user.quota && user.quota.bytes;
    const count = user.usage ? user.usage.bytes : null;
    bar.hidden = !limit || count === null;
    if (!bar.hidden) {
      bar.value = Math.min(1, count / limit);
      bar.setAttribute("aria-label", `Quota of ${user.name}`);
    }
    const of = limit ? ` of ${bytes(limit)}` : "";
    setText(label, count === null ? (limit ? `quota ${bytes(limit)}` : "") : bytes(count) + of);
  },
};

function state(user) {
  if (user.settings.enabled === false) return "disabled";
  if (user.bans.length) return "banned";
  return user.settings.expires && Date.parse(user.settings.expires) < Date.now() ? "expired" : "enabled";
}

export class Users {
  constructor() {
    const columns = [
      text("Name", (user) => user.name),
      text("Sessions", (user) => String(user.sessions), "number"),
      text("Last login", (user) => (user.last_login ? moment(lastLogin(user)) : ""), "number"),
      used,
      text("State", state),
    ];
    this.table = new Table(find("users"), columns, (user) => user.name, "No users.");
    this.offset = 0;
    find("users-before").addEventListener("click", () => this.move(-PAGE));
    find("users-after").addEventListener("click", () => this.move(PAGE));
  }

  async move(by) {
    this.offset = Math.max(0, this.offset + by);
    await this.load();
  }

  async load() {
    const { users, total } = await get(`/v1/users${query({ offset: String(this.offset), limit: String(PAGE) })}`);
    this.table.show(users);
    find("users-before").disabled = this.offset === 0;
    find("users-after").disabled = this.offset + PAGE >= total;
    const range = total > PAGE ? `, ${this.offset + 1} to ${this.offset + users.length} shown` : "";
    setText(find("users-count"), `${total.toLocaleString()} ${total === 1 ? "user" : "users"}${range}`);
  }
}

const lastLogin = (user) => (typeof user.last_login === "object" ? user.last_login.time : user.last_login);
