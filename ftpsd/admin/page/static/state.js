// The state of the daemon as tiles, and what needs attention.

import { find, make, setText } from "./dom.js";
import { bytes, duration, moment, rate } from "./format.js";

const DAY = 86400000;

const ofLimit = (usage) => `${usage.used.toLocaleString()}${usage.limit === null ? "" : ` of ${usage.limit.toLocaleString()}`}`;

function workers(status) {
  const sessions = status.workers.map((each) => each.sessions ?? "?").join(", ");
  const restarts = status.worker_restarts ? [`${status.worker_restarts} started again`] : [];
  return [String(status.workers.length), `${sessions} sessions`, ...restarts];
}

function tiles(status) {
  const { transfers, certificate, passive_ports: ports } = status;
  const expires = certificate.expires === null ? null : Date.parse(certificate.expires);
  return {
    Sessions: [ofLimit(status.sessions)],
    Uploads: [String(transfers.uploads), rate(transfers.upload_rate)],
    Downloads: [String(transfers.downloads), rate(transfers.download_rate)],
    Bans: [String(status.bans)],
    Certificate: expires === null ? ["no end"] : [duration(Math.max(0, expires - Date.now()) / 1000), `until ${moment(expires)}`],
    "Last load": [status.reload.ok ? "good" : "failed", moment(status.reload.time)],
    "Passive ports": [ports.shared ? "shared" : `${ports.used} of ${ports.last - ports.first + 1}`, `${ports.first} to ${ports.last}`],
    "Worker threads": [`${status.threads.busy} of ${status.threads.size} busy`, `${status.threads.stuck} stuck`],
    ...(status.workers.length ? { Workers: workers(status) } : {}),
    Listeners: status.listeners.map((each) => `${each.address} port ${each.port}, ${each.tls} TLS`),
  };
}

function warnings(status) {
  const found = [];
  const { expires } = status.certificate;
  if (expires !== null && Date.parse(expires) - Date.now() < 14 * DAY) {
    found.push(`The certificate ${Date.parse(expires) < Date.now() ? "has expired" : "expires soon"}: renew it.`);
  }
  if (!status.reload.ok) found.push("The last reload has failed, and the old configuration is in effect:", ...status.reload.faults);
  for (const { name, state, error } of status.sources) {
    if (state === "down") found.push(`The source of users ${name} does not answer: ${error}`);
  }
  for (const { index, state } of status.workers) {
    if (state === "silent") found.push(`Worker process ${index} does not answer.`);
  }
  if (status.threads.stuck) found.push(`${status.threads.stuck} worker threads are stuck: a disk does not respond.`);
  for (const { name, used, limit } of status.limits) {
    if (limit !== null && limit > 1 && used >= 0.9 * limit) {
      const isRate = name.endsWith("_rate");
      found.push(`The limit ${name} is almost used up: ${isRate ? rate(used) : used} of ${isRate ? bytes(limit) : limit}.`);
    }
  }
  return found;
}

export class State {
  constructor() {
    this.tiles = new Map();
  }

  show(status) {
    setText(find("about"), `${status.version}, up ${duration(status.uptime)}`);
    for (const [name, [value, ...more]] of Object.entries(tiles(status))) {
      let tile = this.tiles.get(name);
      if (tile === undefined) {
        tile = { value: make("span"), more: make("span", { className: "more" }) };
        this.tiles.set(name, tile);
        find("tiles").append(make("div", {}, make("dt", { textContent: name }), make("dd", {}, tile.value, tile.more)));
      }
      setText(tile.value, value || "–");
      setText(tile.more, more.join(", "));
    }
    const found = warnings(status);
    const list = find("warnings");
    if (list.dataset.shown !== found.join("\n")) {
      list.dataset.shown = found.join("\n");
      list.replaceChildren(...found.map((each) => make("li", { textContent: each })));
    }
  }
}
