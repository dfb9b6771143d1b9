// The picture with its masks; handles pointer and keyboard. In image coordinates, (0, 0) is the centre of the top-left
// pixel, and the edges of a box lie between pixels.

import { titleOf } from "./dom.js";

const DRAG = 7; // CSS pixels from which on a press is a box
const CROSS_STEP = 8; // pixels of the image

export class Stage extends EventTarget {
  shot = null; // {header, bitmap}: what is seen now
  selected = 0;
  tool = "add";
  windows = false; // whether they are drawn
  #canvas;
  #context;
  #probe = document.createElement("canvas").getContext("2d"); // for hit tests, in pixels of the image
  #press = null; // {x, y, shot, shift, to}: in CSS pixels of the canvas
  #cross = null; // of the keyboard, in pixels of the image
  #corner = null; // first corner of a box set by keyboard
  #marks = []; // prompts lately given: {x, y, positive, until}
  #hover = 0;
  #drawn = 0;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false }); // nothing lies behind it: less to compose
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    canvas.addEventListener("pointerup", (event) => this.#onUp(event));
    canvas.addEventListener("pointercancel", () => this.#drop());
    canvas.addEventListener("pointerleave", () => this.#setHover(0));
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("focus", () => canvas.classList.add("keys"));
    canvas.addEventListener("blur", () => this.redraw());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    const resized = new ResizeObserver(() => this.#fit());
    for (const part of canvas.parentElement.parentElement.children) resized.observe(part);
  }

  get pressed() {
    return this.#press !== null;
  }

  show(shot) {
    const before = this.shot;
    this.shot = shot;
    before?.bitmap.close();
    this.#canvas.dataset.stamp = shot.header.stamp;
    if (before?.header.width !== shot.header.width || before?.header.height !== shot.header.height) this.#fit();
    this.draw();
  }

  get objects() {
    return this.shot?.header.tracks?.objects ?? [];
  }

  redraw() {
    cancelAnimationFrame(this.#drawn);
    this.#drawn = requestAnimationFrame(() => this.draw());
  }

  // The object whose mask covers a pixel of the image; of several, the smallest.
  objectAt(x, y) {
    this.#probe.lineWidth = 1;
    const hits = this.objects.filter((o) => o.contours.length && (this.#probe.isPointInPath(o.path, x, y, "evenodd") || this.#probe.isPointInStroke(o.path, x, y)));
    return hits.sort((a, b) => a.area - b.area)[0] ?? null;
  }

  mark(points, labels) {
    const until = performance.now() + 1400;
    points.forEach(([x, y], i) => this.#marks.push({ x, y, positive: labels[i] === 1, until }));
    this.redraw();
  }

  // ---- drawing ----

  // Height of everything beside the picture: header, tools, timeline and gaps.
  #around(box) {
    const others = [document.querySelector("header"), ...box.parentElement.children].filter((element) => element !== box);
    return others.reduce((sum, element) => sum + element.offsetHeight + 12, 20);
  }

  #fit() {
    const { width, height } = this.shot?.header ?? { width: 16, height: 9 };
    const box = this.#canvas.parentElement;
    const tallest = innerWidth > 860 ? Math.max(300, innerHeight - this.#around(box)) : Math.max(180, innerHeight - 330);
    const scale = Math.min(box.clientWidth / width, tallest / height);
    const ratio = devicePixelRatio || 1;
    this.#canvas.style.width = `${Math.round(width * scale)}px`;
    this.#canvas.style.height = `${Math.round(height * scale)}px`;
    this.#canvas.width = Math.round(width * scale * ratio);
    this.#canvas.height = Math.round(height * scale * ratio);
    this.draw();
  }

  draw() {
    const canvas = this.#canvas, g = this.#context;
    if (!this.shot) return;
    const { header, bitmap } = this.shot;
    const scale = canvas.width / header.width, ratio = devicePixelRatio || 1;
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    for (const object of this.objects) this.#drawMask(g, object, scale, ratio);
    g.setTransform(1, 0, 0, 1, 0, 0);
    if (this.windows) for (const object of this.objects) if (object.window) this.#drawWindow(g, object, scale, ratio);
    const taken = []; // [left, top, width] of the names so far
    for (const object of this.objects) if (object.area) this.#drawTag(g, object, scale, ratio, taken);
    this.#drawPrompts(g, scale, ratio);
  }

  #drawMask(g, object, scale, ratio) {
    if (!object.contours.length) return;
    const chosen = object.id === this.selected, near = object.id === this.#hover;
    g.setTransform(scale, 0, 0, scale, scale / 2, scale / 2);
    g.lineJoin = "round";
    g.globalAlpha = near || chosen ? 0.5 : 0.36;
    g.fillStyle = object.color;
    g.fill(object.path, "evenodd");
    g.globalAlpha = 1;
    if (chosen) this.#outline(g, object, "#fff", (5 * ratio) / scale);
    this.#outline(g, object, "#0007", (3.4 * ratio) / scale);
    this.#outline(g, object, object.color, (2 * ratio) / scale);
  }

  // Where the network looked for an object, with its id in the corner.
  #drawWindow(g, object, scale, ratio) {
    const [x0, y0, x1, y1] = object.window.map((edge) => Math.round(edge * scale)), side = 16 * ratio;
    g.setLineDash([6 * ratio, 4 * ratio]);
    for (const [color, width] of [["#0007", 2.6], [object.color, 1.2]]) {
      g.strokeStyle = color;
      g.lineWidth = width * ratio;
      g.strokeRect(x0 + 0.5, y0 + 0.5, x1 - x0 - 1, y1 - y0 - 1); // through the middles of pixels: sharp
    }
    g.setLineDash([]);
    g.font = `600 ${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`;
    g.textBaseline = "middle";
    const text = `#${object.id}`;
    g.fillStyle = object.color;
    g.fillRect(x0, y0, g.measureText(text).width + 6 * ratio, side);
    g.fillStyle = "#0b1116";
    g.fillText(text, x0 + 3 * ratio, y0 + side / 2);
  }

  #outline(g, object, color, width) {
    g.lineWidth = width;
    g.strokeStyle = color;
    g.stroke(object.path);
  }

  #drawTag(g, object, scale, ratio, taken) {
    const title = titleOf(object);
    const score = object.predicted_iou.toFixed(2);
    g.font = `600 ${12 * ratio}px system-ui, "DejaVu Sans", sans-serif`;
    g.textBaseline = "middle";
    const gap = 7 * ratio, height = 20 * ratio, titleWidth = g.measureText(title).width;
    const width = titleWidth + g.measureText(score).width + 3 * gap;
    const left = Math.max(2, Math.min(object.anchor[0] * scale, this.#canvas.width - width - 2));
    const above = object.anchor[1] * scale - height - 5 * ratio;
    let top = above >= 2 ? above : Math.min(object.anchor[3] * scale + 5 * ratio, this.#canvas.height - height - 2);
    const covers = ([x, y, w]) => x < left + width && left < x + w && Math.abs(y - top) < height;
    for (let tries = 0; tries < 6 && taken.some(covers); tries += 1) top += height + 2 * ratio;
    taken.push([left, top, width]);
    g.fillStyle = object.color;
    g.beginPath();
    g.roundRect(left, top, width, height, 6 * ratio);
    g.fill();
    g.fillStyle = "#0b1116";
    g.fillText(title, left + gap, top + height / 2);
    g.globalAlpha = 0.62;
    g.fillText(score, left + titleWidth + 2 * gap, top + height / 2);
    g.globalAlpha = 1;
  }

  #drawPrompts(g, scale, ratio) {
    const now = performance.now();
    this.#marks = this.#marks.filter((mark) => mark.until > now);
    for (const { x, y, positive, until } of this.#marks) {
      const left = (until - now) / 1400, px = (x + 0.5) * scale, py = (y + 0.5) * scale;
      g.globalAlpha = Math.min(1, left * 2);
      g.strokeStyle = positive ? "#35d6a4" : "#ff6b64";
      g.lineWidth = 2 * ratio;
      g.beginPath();
      g.arc(px, py, (5 + 22 * (1 - left)) * ratio, 0, 7);
      g.stroke();
      g.fillStyle = g.strokeStyle;
      g.beginPath();
      g.arc(px, py, 4 * ratio, 0, 7);
      g.fill();
      g.globalAlpha = 1;
    }
    if (this.#marks.length) this.redraw();
    const press = this.#press;
    if (press?.to) this.#dashed(g, press.x * ratio, press.y * ratio, press.to.x * ratio, press.to.y * ratio, ratio);
    if (this.#cross && document.activeElement === this.#canvas) {
      const px = (this.#cross.x + 0.5) * scale, py = (this.#cross.y + 0.5) * scale, arm = 14 * ratio;
      for (const [color, width] of [["#000a", 4], ["#fff", 1.6]]) {
        g.strokeStyle = color;
        g.lineWidth = width * ratio;
        g.beginPath();
        g.moveTo(px - arm, py); g.lineTo(px + arm, py); g.moveTo(px, py - arm); g.lineTo(px, py + arm);
        g.stroke();
      }
      if (this.#corner) this.#dashed(g, (this.#corner.x + 0.5) * scale, (this.#corner.y + 0.5) * scale, px, py, ratio);
    }
  }

  #dashed(g, x0, y0, x1, y1, ratio) {
    g.fillStyle = "#35d6a422";
    g.fillRect(x0, y0, x1 - x0, y1 - y0);
    g.lineWidth = 2 * ratio;
    g.setLineDash([7 * ratio, 5 * ratio]);
    g.strokeStyle = "#fff";
    g.strokeRect(x0, y0, x1 - x0, y1 - y0);
    g.setLineDash([]);
  }

  // ---- pointer ----

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  // Edges of the image, 0 … width, from CSS pixels of the canvas.
  #edge({ x, y }, { header }) {
    const scale = header.width / this.#canvas.clientWidth;
    return [Math.min(header.width, Math.max(0, x * scale)), Math.min(header.height, Math.max(0, y * scale))];
  }

  #pixel(place, shot) {
    const [x, y] = this.#edge(place, shot);
    return [Math.min(shot.header.width - 1, Math.max(0, x - 0.5)), Math.min(shot.header.height - 1, Math.max(0, y - 0.5))];
  }

  #onDown(event) {
    if (!this.shot || !event.isPrimary || event.button > 0) return;
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.classList.remove("keys"); // no ring around the picture for who uses a pointer
    this.#cross = this.#corner = null;
    this.#press = { ...this.#place(event), header: this.shot.header, shift: event.shiftKey, to: null };
    this.#canvas.setPointerCapture(event.pointerId);
  }

  #onMove(event) {
    const at = this.#place(event), press = this.#press;
    if (!press) {
      if (this.shot && event.pointerType === "mouse") this.#setHover(this.objectAt(...this.#pixel(at, this.shot))?.id ?? 0);
      return;
    }
    const far = Math.hypot(at.x - press.x, at.y - press.y) > DRAG;
    if (press.to || (far && (event.pointerType === "mouse" || this.tool === "box"))) {
      press.to = at;
      this.redraw();
    }
  }

  #onUp(event) {
    const press = this.#press;
    if (!press) return;
    this.#press = null;
    if (press.to) {
      const [x0, y0] = this.#edge(press, press), [x1, y1] = this.#edge(press.to, press);
      const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
      this.#ask({ box, header: press.header });
    } else if (this.tool !== "box") {
      this.#point(this.#pixel(press, press), press.shift || event.shiftKey, press.header);
    }
    this.redraw();
    this.dispatchEvent(new Event("release"));
  }

  #drop() {
    this.#press = null;
    this.redraw();
    this.dispatchEvent(new Event("release"));
  }

  #setHover(id) {
    if (id === this.#hover) return;
    this.#hover = id;
    this.#canvas.classList.toggle("over", id > 0);
    this.redraw();
  }

  #point([x, y], shift, header) {
    const positive = !shift && this.tool !== "cut";
    this.#ask({ point: [x, y], positive, hit: this.objectAt(x, y)?.id ?? 0, header });
  }

  #ask(detail) {
    this.dispatchEvent(new CustomEvent("prompt", { detail }));
  }

  // ---- keyboard ----

  #onKey(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.shot || event.ctrlKey || event.metaKey || event.altKey) return;
    const { width, height } = this.shot.header;
    if (steps[event.key]) {
      const by = event.shiftKey ? 1 : CROSS_STEP;
      this.#cross ??= { x: Math.round(width / 2), y: Math.round(height / 2) };
      this.#cross.x = Math.min(width - 1, Math.max(0, this.#cross.x + by * steps[event.key][0]));
      this.#cross.y = Math.min(height - 1, Math.max(0, this.#cross.y + by * steps[event.key][1]));
    } else if (event.key === "Enter" && this.#cross) {
      this.#enter(event.shiftKey);
    } else if (event.key === "Escape" && this.#corner) {
      this.#corner = null;
      event.stopPropagation();
    } else return;
    this.#canvas.classList.add("keys");
    event.preventDefault();
    this.redraw();
  }

  #enter(shift) {
    const { x, y } = this.#cross, first = this.#corner;
    if (this.tool !== "box") this.#point([x, y], shift, this.shot.header);
    else if (!first) this.#corner = { x, y };
    else {
      this.#corner = null;
      const box = [Math.min(x, first.x), Math.min(y, first.y), Math.max(x, first.x) + 1, Math.max(y, first.y) + 1];
      this.#ask({ box, header: this.shot.header });
    }
  }
}
