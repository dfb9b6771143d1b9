// Shows when each object was visible, occluded or lost, in the last minute of image stamps.

import { $, color, prepared } from "./dom.js";

export const ROW = 20, LEFT = 92; // CSS pixels: height of an object's row, and width of the names
const SPAN_S = 60, AXIS = 18, GAP_S = 1.5;

export class Timeline {
  #canvas;
  #rows = new Map(); // id -> {name, color, points: [[time, state, visibility, prompted]]}
  #base = null; // stamp of time 0
  #newest = 0;

  constructor(canvas) {
    this.#canvas = canvas;
  }

  clear() {
    this.#rows.clear();
    this.#base = null;
    this.#newest = 0;
  }

  // objects: [{id, name, state, visibility, prompted, color}]
  add(stamp, objects) {
    this.#base ??= BigInt(stamp);
    const time = Number(BigInt(stamp) - this.#base) / 1e9;
    if (time < this.#newest - SPAN_S / 2) this.#rows.clear(); // a recording that begins again
    this.#newest = Math.max(this.#newest * (this.#rows.size > 0), time);
    for (const object of objects) {
      let row = this.#rows.get(object.id);
      if (!row) this.#rows.set(object.id, (row = { points: [] }));
      row.name = object.name || `object ${object.id}`;
      row.color = object.color ?? row.color;
      if (row.points.at(-1)?.[0] === time) row.points.pop();
      row.points.push([time, object.state, object.visibility, object.prompted]);
    }
    for (const [id, row] of this.#rows) {
      while (row.points.length && row.points[0][0] < this.#newest - SPAN_S) row.points.shift();
      if (!row.points.length) this.#rows.delete(id);
    }
  }

  // Seconds shown; fewer at the beginning, so that they fill the width.
  get #span() {
    const oldest = Math.min(this.#newest, ...[...this.#rows.values()].map((row) => row.points[0][0]));
    return [15, 30].find((span) => this.#newest - oldest <= span) ?? SPAN_S;
  }

  draw() {
    const span = this.#span, wanted = Math.max(2, Math.min(8, this.#rows.size)) * ROW + AXIS + 4;
    if (this.#canvas.clientHeight !== wanted) this.#canvas.style.height = `${wanted}px`;
    const { g, width, height } = prepared(this.#canvas);
    const left = width > 500 ? LEFT : 64;
    const x = (time) => left + (1 - (this.#newest - time) / span) * (width - left - 2);
    this.#axis(g, x, height, span);
    $("#timeline-span").textContent = `last ${span} s`;
    let top = 2;
    for (const row of [...this.#rows.entries()].sort((a, b) => a[0] - b[0]).slice(-8).map((entry) => entry[1])) {
      g.fillStyle = color("text");
      g.font = '12px system-ui, "DejaVu Sans", sans-serif';
      g.textBaseline = "middle";
      g.textAlign = "left";
      g.fillText(fitted(g, row.name, left - 10), 0, top + ROW / 2);
      this.#row(g, row, x, top);
      top += ROW;
    }
  }

  #axis(g, x, height, span) {
    g.strokeStyle = color("edge");
    g.fillStyle = color("soft");
    g.font = '11px system-ui, "DejaVu Sans", sans-serif';
    g.textAlign = "center";
    g.textBaseline = "alphabetic";
    g.lineWidth = 1;
    for (let back = 0; back <= span; back += span / (span === 60 ? 4 : 3)) {
      const at = Math.round(x(this.#newest - back)) - 0.5;
      g.beginPath();
      g.moveTo(at, 0);
      g.lineTo(at, height - AXIS + 2);
      g.stroke();
      g.textAlign = back === 0 ? "right" : back === span ? "left" : "center";
      g.fillText(back ? `−${back} s` : "now", at, height - 3);
    }
  }

  #row(g, { points, color: own }, x, top) {
    const parts = points.map(([time, state, visibility], i) => {
      const next = points[i + 1]?.[0] ?? time, from = Math.round(x(time));
      return { from, to: Math.max(from + 2, Math.round(x(Math.min(next, time + GAP_S)))), state, visibility };
    });
    drawRow(g, own, parts, points.filter((point) => point[3]).map(([time]) => x(time)), top);
  }
}

// The row of an object. parts: [{from, to, state, visibility}]; prompts: where a person has marked it. In CSS pixels.
export function drawRow(g, own, parts, prompts, top) {
  const middle = top + ROW / 2, soft = color("soft");
  for (const { from, to, state, visibility } of parts) {
    if (state === "visible") {
      g.globalAlpha = 0.35 + 0.65 * visibility;
      g.fillStyle = own ?? soft;
      g.fillRect(from, middle - 6, to - from, 12);
      g.globalAlpha = 1;
    } else if (state === "occluded") {
      g.fillStyle = soft;
      for (let px = Math.ceil(from / 4) * 4; px < to; px += 4) g.fillRect(px, middle - 6, 2, 12);
    } else {
      g.fillStyle = soft;
      g.fillRect(from, middle - 1, to - from, 2);
    }
  }
  g.fillStyle = color("text");
  for (const at of prompts) {
    g.beginPath();
    g.moveTo(at, middle - 6); g.lineTo(at + 5, middle); g.lineTo(at, middle + 6); g.lineTo(at - 5, middle);
    g.fill();
    g.strokeStyle = color("card");
    g.stroke();
  }
}

export function fitted(g, text, width) {
  let shown = text;
  while (shown.length > 1 && g.measureText(shown).width > width) shown = `${shown.slice(0, -2)}…`;
  return shown;
}
