// Throughput and sessions of the last hour.

import uPlot from "./vendor/uPlot.esm.js";
import { get } from "./api.js";
import { find } from "./dom.js";
import { bytes, rate } from "./format.js";

const HOUR = 3600;
const STEP = 5;
const HEIGHT = 180;

// Distances between two lines of the grid: whole sessions, and bytes as people read them.
const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const TENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(id, series, format, steps) {
    this.steps = steps;
    this.element = find(id);
    this.series = series;
    this.format = format;
    this.data = [[], ...series.map(() => [])];
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  size() {
    return { width: Math.max(200, this.element.clientWidth), height: HEIGHT };
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
    const lines = this.series.map(({ label, line, fills }) => ({
      label,
      stroke: color(line),
      fill: fills ? `${color(line)}22` : undefined,
      width: 2,
      points: { show: false },
      value: (_, value) => (value === null || value === undefined ? "" : this.format(value)),
    }));
    this.plot = new uPlot(
      {
        ...this.size(),
        series: [{ value: (_, time) => (time ? new Date(time * 1000).toLocaleTimeString() : "") }, ...lines],
        axes: [axis, { ...axis, size: 76, incrs: this.steps, values: (_, ticks) => ticks.map(this.format) }],
        scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 1) * 1.05] } },
        legend: { live: true },
      },
      this.data,
      this.element,
    );
  }

  show(data) {
    this.data = data;
    if (this.plot) this.plot.setData(data);
    else this.draw();
    const now = this.series.map(({ label }, index) => `${label} ${this.format(data[index + 1].at(-1) ?? 0)}`);
    const most = this.series.map(({ label }, index) => `${label} ${this.format(Math.max(0, ...data[index + 1]))}`);
    this.element.setAttribute("aria-label", `Last hour. Now: ${now.join(", ")}. Most: ${most.join(", ")}.`);
  }
}

export class Charts {
  constructor() {
    const lines = [
      { label: "Upload", line: "--up", fills: true },
      { label: "Download", line: "--down" },
    ];
    this.throughput = new Chart("throughput", lines, (value) => (value ? rate(value) : bytes(0)), POWERS);
    this.load_ = new Chart("load", [{ label: "Sessions", line: "--up", fills: true }], (value) => String(Math.round(value)), TENS);
    this.history = { time: [], sessions: [], upload_rate: [], download_rate: [] };
  }

  async load() {
    this.history = await get("/history");
    this.draw();
  }

  add(status) {
    const { history } = this;
    const now = Date.now() / 1000;
    if (history.time.length && now - history.time.at(-1) < STEP) return;
    history.time.push(now);
    history.sessions.push(status.sessions.used);
    history.upload_rate.push(status.transfers.upload_rate);
    history.download_rate.push(status.transfers.download_rate);
    while (history.time[0] < now - HOUR) for (const list of Object.values(history)) list.shift();
    this.draw();
  }

  draw() {
    const { time, sessions, upload_rate: up, download_rate: down } = this.history;
    this.throughput.show([time, up, down]);
    this.load_.show([time, sessions]);
  }
}
