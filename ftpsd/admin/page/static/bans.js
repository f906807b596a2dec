// The bans in effect, a form to ban, and buttons to lift.

import { get, query, request } from "./api.js";
import { confirm } from "./confirm.js";
import { Table, button, describeButtons, find, text } from "./dom.js";
import { moment } from "./format.js";

const KINDS = {
  address: "address",
  network: "network",
  user: "user, for unknown addresses",
  site: "user, from one network",
  account: "user",
};

const isNetwork = (ban) => ban.kind === "address" || ban.kind === "network";

export class Bans {
  constructor(report) {
    this.report = report;
    const columns = [
      text("What", (ban) => KINDS[ban.kind] || ban.kind),
      text("Who", (ban) => ban.subject),
      text("Until", (ban) => (ban.until === null ? "it is lifted" : moment(ban.until * 1000)), "number"),
      {
        label: "Actions",
        className: "actions",
        build: button("Lift", (ban) => `Lift the ban of ${ban.subject}`, (ban) => this.lift(ban)),
        update: describeButtons,
      },
    ];
    this.table = new Table(find("bans"), columns, (ban) => `${ban.kind} ${ban.subject}`, "No bans.");
    find("ban").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ban(event.target);
    });
  }

  async load() {
    this.table.show((await get("/v1/bans")).bans);
  }

  async ban(form) {
    const { kind, subject, seconds } = Object.fromEntries(new FormData(form));
    const time = form.seconds.selectedOptions[0].textContent;
    if (!(await confirm("Ban?", `Ban the ${kind} ${subject.trim()} for ${time}. Its sessions continue until they are kicked.`, "Ban"))) {
      return;
    }
    const body = { [kind]: subject.trim(), seconds: seconds === "" ? null : Number(seconds) };
    await this.report(async () => {
      const answer = await request("POST", "/v1/bans", body);
      form.subject.value = "";
      await this.load();
      return answer;
    }, `${subject} is banned.`);
  }

  async lift(ban) {
    const subject = ban.kind === "site" ? ban.subject.slice(ban.subject.indexOf(" ") + 1) : ban.subject;
    const parameters = query(isNetwork(ban) ? { address: subject } : { user: subject });
    await this.report(async () => {
      const answer = await request("DELETE", `/v1/bans${parameters}`);
      await this.load();
      return answer;
    }, `The ban of ${ban.subject} is lifted.`);
  }
}
