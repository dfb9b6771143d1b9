// What every page has: pictures with their masks, tabs, the list of objects, prompts, tools, keys and colours.

import { $, element, titleOf, toast } from "./dom.js";
import { Link } from "./link.js";
import { ObjectList } from "./objects.js";
import { prompt } from "./prompts.js";
import { Stage } from "./stage.js";

// Tells "picture" (the header of one that came), "watch" (what is in front, and whether it changed) and "remove".
export class Page extends EventTarget {
  link = new Link();
  stage = new Stage($("#picture"));
  list = new ObjectList($("#objects"));
  camera = ""; // what is in front
  known = []; // the objects of the list: a picture may come without tracks, so not those of the picture
  held = false;
  #waiting = null; // the newest picture that came while held
  #lastThumbnail = 0;
  #pick = null; // what to do with the object that is chosen next

  // keys: further ones, as functions by name
  constructor(keys) {
    super();
    this.link.addEventListener("shot", ({ detail }) => this.#onShot(detail));
    this.link.addEventListener("cameras", ({ detail }) => this.#onCameras(detail.cameras));
    this.link.addEventListener("notice", ({ detail }) => toast(detail.message, { error: detail.level === "error" }));
    this.stage.addEventListener("release", () => this.release());
    this.stage.addEventListener("prompt", ({ detail }) => this.#onPrompt(detail));
    this.list.addEventListener("select", ({ detail: { object } }) => this.select(this.stage.selected === object.id ? 0 : object.id));
    this.list.addEventListener("remove", ({ detail }) => this.#tell("remove", detail));
    this.list.addEventListener("rename", ({ detail: { object, name } }) => this.ask({ type: "rename", object_id: object.id, name, label: object.label }));
    $("#refining-end").addEventListener("click", () => this.select(0));
    for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => this.#choose(button.dataset.tool));
    theme(localStorage.getItem("theme") ?? "auto");
    $("#theme").addEventListener("click", nextTheme);
    $("#help-open").addEventListener("click", () => $("#help").showModal());
    addEventListener("keydown", (event) => this.#onKey(event, keys));
  }

  async ask(command) {
    const answer = await this.link.ask({ camera: this.camera, ...command });
    if (!answer.success) toast(answer.message, { error: true });
    return answer;
  }

  // ---- pictures ----

  async #onShot({ header, picture }) {
    const bitmap = await createImageBitmap(picture).catch(() => null);
    const skip = () => {
      bitmap?.close();
      this.link.send({ type: "painted", number: header.number, skipped: true });
    };
    if (!bitmap) return skip();
    if (header.camera !== this.camera) {
      thumbnail(header.camera, bitmap);
      return skip();
    }
    this.#tell("picture", header);
    if (performance.now() - this.#lastThumbnail > 1000) { // as often as those of the cameras that are not in front
      this.#lastThumbnail = performance.now();
      thumbnail(this.camera, bitmap);
    }
    const shot = { header, bitmap };
    if (this.held || this.stage.pressed) {
      this.#waiting?.bitmap.close();
      this.#waiting = shot;
      this.link.send({ type: "painted", number: header.number, skipped: true });
    } else this.#paint(shot, true);
  }

  #paint(shot, tell) {
    requestAnimationFrame(() => {
      const shown = this.stage.shot?.header;
      if (shot.header.camera !== this.camera) shot.bitmap.close(); // another one was chosen meanwhile
      else if (shown && shot.header.number < shown.number && shot.header.camera === shown.camera) shot.bitmap.close();
      else this.stage.show(shot);
      $("#empty").hidden = true;
      // A task after the frame's callbacks runs when the browser has painted.
      if (tell) setTimeout(() => this.link.send({ type: "painted", number: shot.header.number }));
    });
  }

  release() {
    if (this.held || this.stage.pressed || !this.#waiting) return;
    this.#paint(this.#waiting, false);
    this.#waiting = null;
  }

  show(objects) {
    this.known = objects;
    if (this.stage.selected && !objects.some((object) => object.id === this.stage.selected)) {
      this.#pick = null;
      this.select(0);
    }
    this.list.update(objects, this.stage.selected);
  }

  // ---- tabs ----

  #onCameras(cameras) {
    const tabs = cameras.length > 1 ? cameras : [];
    $("#cameras").replaceChildren(
      ...tabs.map((name) => {
        const button = element("button", {}, [element("canvas", { width: 88, height: 52 }), name]);
        button.dataset.camera = name;
        button.addEventListener("click", () => this.watch(name));
        return button;
      }),
    );
    const inAddress = cameras.find((name) => location.hash === `#${encodeURIComponent(name)}`);
    this.watch(cameras.includes(this.camera) ? this.camera : (inAddress ?? cameras[0] ?? ""));
  }

  watch(name) {
    const changed = name !== this.camera;
    if (changed) {
      this.known = [];
      this.#pick = null;
      this.select(0);
      this.#waiting?.bitmap.close();
      this.#waiting = null;
      this.#lastThumbnail = 0;
      if (this.camera && name) history.replaceState(null, "", `#${encodeURIComponent(name)}`);
    }
    this.camera = name;
    for (const tab of $("#cameras").children) tab.setAttribute("aria-current", tab.dataset.camera === name);
    this.#tell("watch", { changed });
  }

  // ---- prompts ----

  #onPrompt({ point, positive, hit, box, header }) {
    if (this.#pick) return this.select(hit ?? 0);
    const target = this.stage.selected || hit || 0;
    // Another camera may be in front already, and its picture not there yet.
    const command = { camera: header.camera, stamp: header.stamp, points: point ? [point] : [], labels: point ? [positive ? 1 : 0] : [] };
    if (box) command.box = box;
    if (point && !positive && !target) return toast("Choose an object first: click it, then mark what does not belong to it.", { error: true });
    if (point) this.stage.mark(command.points, command.labels);
    const existing = box ? this.stage.selected : target;
    if (existing) this.select(existing);
    prompt(this.link, existing ? { type: "refine", object_id: existing, ...command } : { type: "add", ...command });
  }

  // Asks for another object than the chosen one: the next that is chosen, in whatever way, is it. Esc: none.
  pick(question, work) {
    const first = this.stage.selected;
    if (!first) return toast("Choose an object first.", { error: true });
    this.#pick = (id) => id && id !== first && work(first, id);
    this.#showChosen(first, (title) => `${question(title)} Choose it, or press Esc.`);
  }

  // Ends a question of pick() without an answer.
  unpick() {
    this.#pick = null;
    this.select(this.stage.selected);
  }

  select(id) {
    const pick = this.#pick;
    this.#pick = null;
    if (pick) {
      pick(id);
      id = this.stage.selected;
    }
    this.stage.selected = id;
    this.#showChosen(id, (title) => `Refining ${title}: click adds, ⇧ click takes away`);
    this.list.update(this.known, id);
    this.stage.redraw();
  }

  #showChosen(id, text) {
    const object = this.known.find((object) => object.id === id);
    $("#refining").hidden = !id;
    $("#refining span").textContent = text(titleOf(object ?? { id }));
    $("#refining i").style.background = object?.color ?? "#fff";
  }

  // ---- tools and keys ----

  #choose(tool) {
    this.stage.tool = tool;
    $("#picture").classList.toggle("box", tool === "box");
    for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-checked", button.dataset.tool === tool);
  }

  #onKey(event, further) {
    if (event.target.matches("input:not([type=range])") || event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
    const chosen = this.known.find((object) => object.id === this.stage.selected);
    const rename = () => chosen && this.list.rename(chosen.id), remove = () => chosen && this.#tell("remove", { object: chosen });
    const keys = {
      a: () => this.#choose("add"), x: () => this.#choose("cut"), b: () => this.#choose("box"), t: nextTheme,
      "?": () => $("#help").showModal(), Escape: () => this.select(0), n: rename, F2: rename, Delete: remove, Backspace: remove, ...further,
    };
    if (event.key === " " && event.target.matches("button, li")) return;
    if (/^[1-9]$/.test(event.key)) this.select(this.known[event.key - 1]?.id ?? 0);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function thumbnail(name, bitmap) {
  const canvas = document.querySelector(`#cameras [data-camera="${CSS.escape(name)}"] canvas`);
  if (!canvas) return;
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d").drawImage(bitmap, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
}

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

function nextTheme() {
  const order = ["auto", "light", "dark"], name = order[(order.indexOf(localStorage.getItem("theme")) + 1) % 3];
  theme(name);
  toast(`Colours: ${name === "auto" ? "as the system" : name}`, { seconds: 1.5 });
}

export function setStatus(level, text) {
  const status = $("#status");
  status.dataset.level = level;
  status.title = text;
  status.querySelector("span").textContent = text.length > 42 ? `${text.slice(0, 40)}…` : text;
}
