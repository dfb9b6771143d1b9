// All images of a recording at once: doubts, and where each object in the image has a mask. A press goes there.

import { color, prepared } from "./dom.js";
import { drawRow, fitted, LEFT, ROW } from "./timeline.js";

const DOUBTS = 14, MOST_ROWS = 8;

export class Overview extends EventTarget {
  #canvas;
  #images = 1;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    const seek = (event) => event.buttons & 1 && this.dispatchEvent(new CustomEvent("seek", { detail: this.#frameAt(event) }));
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); seek(event); });
    canvas.addEventListener("pointermove", seek);
  }

  #frameAt(event) {
    const width = this.#canvas.clientWidth;
    return Math.floor(((event.offsetX - LEFT) / (width - LEFT)) * this.#images);
  }

  // all: the server's overview; shown: the objects of the image, those with a mask first
  draw(all, frame, marked, shown) {
    this.#images = all.images;
    const rows = shown.slice(0, MOST_ROWS).map(({ id }) => all.objects.find((object) => object.id === id)).filter(Boolean);
    this.#canvas.style.height = `${DOUBTS + Math.max(2, rows.length) * ROW + 4}px`;
    const { g, width, height } = prepared(this.#canvas);
    const x = (index) => LEFT + (index / all.images) * (width - LEFT);
    g.fillStyle = color("warn");
    for (const [index, doubt] of all.doubts) {
      const tall = Math.max(3, doubt * (DOUBTS - 2));
      g.fillRect(x(index), DOUBTS - tall, Math.max(1.5, x(index + 1) - x(index)), tall);
    }
    rows.forEach((row, i) => {
      const top = DOUBTS + 2 + i * ROW;
      g.fillStyle = color("text");
      g.font = '12px system-ui, "DejaVu Sans", sans-serif';
      g.textBaseline = "middle";
      g.fillText(fitted(g, `${row.name} #${row.id}`, LEFT - 10), 0, top + ROW / 2);
      drawRow(g, row.color, row.runs.map(([first, last]) => ({ from: x(first), to: x(last + 1), state: "visible", visibility: 1 })), row.corrected.map((index) => x(index + 0.5)), top);
    });
    g.fillStyle = color("text");
    if (marked !== null) for (let y = 0; y < height; y += 6) g.fillRect(x(marked + 0.5) - 0.5, y, 1, 3);
    g.fillRect(x(frame + 0.5) - 1, 0, 2, height);
  }
}
