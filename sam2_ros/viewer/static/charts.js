// Four small charts of the last minute.

import { $, color, prepared } from "./dom.js";

const SPAN_MS = 60_000;

class Chart {
  #figure;
  #series = [[], []]; // [time, value]; the first is the bold one
  #digits;

  constructor(id, digits = 0) {
    this.#figure = $(`#${id}`);
    this.#digits = digits;
  }

  add(value, series = 0) {
    if (value === null || !Number.isFinite(value)) return;
    const points = this.#series[series], now = performance.now();
    points.push([now, value]);
    while (points.length && now - points[0][0] > SPAN_MS) points.shift();
  }

  clear() {
    this.#series = [[], []];
  }

  draw() {
    const [main, other] = this.#series;
    const lately = main.slice(-8).map((point) => point[1]).sort((a, b) => a - b);
    const value = lately.length ? lately[lately.length >> 1].toFixed(this.#digits) : "–";
    const unit = this.#figure.dataset.unit;
    const output = this.#figure.querySelector("output");
    const text = lately.length ? `${value}<small>${unit}</small>` : "–";
    if (output.innerHTML !== text) output.innerHTML = text;
    const { g, width, height } = prepared(this.#figure.querySelector("canvas"));
    const top = Math.max(1e-9, ...main.map((p) => p[1]), ...other.map((p) => p[1])) * 1.12, now = performance.now();
    const at = ([time, v]) => [width - ((now - time) / SPAN_MS) * width, height - 1.5 - (v / top) * (height - 4)];
    g.strokeStyle = color("edge");
    g.beginPath();
    g.moveTo(0, height - 0.5);
    g.lineTo(width, height - 0.5);
    g.stroke();
    this.#line(g, other.map(at), color("soft"), 1, 0, height);
    this.#line(g, main.map(at), color("accent"), 1.8, 0.14, height);
  }

  #line(g, points, stroke, thickness, fill, height) {
    if (points.length < 2) return;
    g.beginPath();
    points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
    g.strokeStyle = stroke;
    g.lineWidth = thickness;
    g.lineJoin = "round";
    g.stroke();
    if (!fill) return;
    g.lineTo(points.at(-1)[0], height);
    g.lineTo(points[0][0], height);
    g.globalAlpha = fill;
    g.fillStyle = stroke;
    g.fill();
    g.globalAlpha = 1;
  }
}

export class Charts {
  #latency = new Chart("latency");
  #rate = new Chart("rate", 1);
  #drops = new Chart("drops", 1);
  #memory = new Chart("memory", 1);
  #last = null; // {time, processed, received, dropped}

  tracks(tracks) {
    this.#latency.add(tracks.engine_ms, 1);
    this.#memory.add(tracks.bank_bytes / 2 ** 20);
    const now = performance.now(), last = this.#last;
    if (!last || tracks.processed < last.processed) this.#last = { time: now, ...tracks };
    else if (now - last.time > 1000) {
      const seconds = (now - last.time) / 1000;
      this.#rate.add((tracks.processed - last.processed) / seconds);
      this.#rate.add((tracks.received - last.received) / seconds, 1);
      this.#drops.add((tracks.dropped - last.dropped) / seconds);
      this.#last = { time: now, ...tracks };
    }
  }

  glass(milliseconds) {
    this.#latency.add(milliseconds);
  }

  clear() {
    for (const chart of [this.#latency, this.#rate, this.#drops, this.#memory]) chart.clear();
    this.#last = null;
  }

  draw() {
    for (const chart of [this.#latency, this.#rate, this.#drops, this.#memory]) chart.draw();
  }
}
