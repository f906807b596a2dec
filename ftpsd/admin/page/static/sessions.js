// The table of sessions: what each does, its progress, and buttons to end it or to ban its address.

import { query, request } from "./api.js";
import { confirm } from "./confirm.js";
import { Table, button, describeButtons, find, make, setText, text } from "./dom.js";
import { bytes, duration, rate, since } from "./format.js";

const whose = (session) => `session ${session.number}${session.user ? ` of ${session.user}` : ""} (${session.address})`;

function buildProgress(cell) {
  cell.append(make("progress", { max: 1, hidden: true }), make("span"));
}

function showProgress(cell, session) {
  const [bar, label] = cell.children;
  const known = session.size !== null && session.size > 0 && session.bytes !== null;
  bar.hidden = !known;
  if (known) {
    const share = Math.min(1, session.bytes / session.size);
    bar.value = share;
    bar.setAttribute("aria-label", `Progress of ${whose(session)}`);
    setText(label, `${Math.floor(share * 100)} % of ${bytes(session.size)}`);
  } else {
    setText(label, session.bytes === null ? "" : bytes(session.bytes));
  }
}

const doing = {
  label: "Does",
  build: (cell) => cell.append(make("span"), make("span", { className: "path" })),
  update: (cell, session) => {
    const idle = session.state === "idle" && session.idle !== null ? ` for ${duration(session.idle)}` : "";
    const [what, path] = cell.children;
    setText(what, session.direction || (session.state === "command" ? session.command : session.state + idle));
    setText(path, session.path || "");
  },
};

export class Sessions {
  constructor(report) {
    this.report = report;
    const columns = [
      text("Number", (session) => String(session.number), "number"),
      text("User", (session) => session.user || "–"),
      text("Address", (session) => session.address),
      text("Client", (session) => [session.client, session.tls || "no TLS"].filter(Boolean).join(", ")),
      text("Since", (session) => since(session.since), "number"),
      doing,
      { label: "Progress", className: "progress", build: buildProgress, update: showProgress },
      text("Rate", (session) => rate(session.rate), "number"),
      {
        label: "Actions",
        className: "actions",
        build: (cell, row) => {
          button("Kick", (session) => `Kick ${whose(session)}`, (session) => this.kick(session), true)(cell, row);
          button("Ban", (session) => `Ban ${session.address}`, (session) => this.ban(session), true)(cell, row);
        },
        update: describeButtons,
      },
    ];
    this.table = new Table(find("sessions"), columns, (session) => session.number, "No sessions.");
  }

  query() {
    return query(Object.fromEntries(new FormData(find("filter"))));
  }

  show({ sessions, total }) {
    this.table.show(sessions);
    const shown = sessions.length < total ? `, ${sessions.length.toLocaleString()} of them shown` : "";
    setText(find("sessions-count"), `${total.toLocaleString()} ${total === 1 ? "session" : "sessions"}${shown}`);
  }

  async kick(session) {
    const answer = await confirm(
      "End the session?",
      `This ends ${whose(session)}. A running transfer may finish first, unless you cut it.`,
      "Kick",
      { asksMessage: true },
    );
    if (answer === null) return;
    const parameters = query({ message: answer.message, now: answer.now ? "true" : "" });
    await this.report(
      () => request("DELETE", `/v1/sessions/${session.number}${parameters}`),
      `The ${whose(session)} ends.`,
    );
  }

  async ban(session) {
    const answer = await confirm(
      "Ban the address?",
      `No client from ${session.address} can connect for an hour, and its sessions end now.`,
      "Ban",
    );
    if (answer === null) return;
    await this.report(async () => {
      const answer = await request("POST", "/v1/bans", { address: session.address, seconds: 3600 });
      await request("DELETE", `/v1/sessions${query({ address: session.address, now: "true" })}`);
      return answer;
    }, `${session.address} is banned for an hour.`);
  }
}
