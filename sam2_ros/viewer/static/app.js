// The page: shows pictures and sends commands.

import { showAges } from "./ages.js";
import { Charts } from "./charts.js";
import { $, element, toast } from "./dom.js";
import { Link } from "./link.js";
import { ObjectList } from "./objects.js";
import { prompt, readPicture } from "./prompts.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";

const link = new Link(), charts = new Charts();
const stage = new Stage($("#picture")), list = new ObjectList($("#objects")), timeline = new Timeline($("#timeline"));
let camera = "", live = false, held = false, waiting = null; // waiting: the newest picture that came while held
let lastShot = 0, lastThumbnail = 0, connected = false, trouble = null;
let known = []; // the objects of the list: a picture may come without tracks, so not those of the picture

// ---- pictures ----

link.addEventListener("shot", async ({ detail: { header, picture } }) => {
  const bitmap = await createImageBitmap(picture).catch(() => null);
  const skip = () => {
    bitmap?.close();
    link.send({ type: "painted", number: header.number, skipped: true });
  };
  if (!bitmap) return skip();
  if (header.camera !== camera) {
    thumbnail(header.camera, bitmap);
    return skip();
  }
  follow(header);
  if (performance.now() - lastThumbnail > 1000) { // as often as those of the cameras that are not in front
    lastThumbnail = performance.now();
    thumbnail(camera, bitmap);
  }
  const shot = { header, bitmap };
  if (held || stage.pressed) {
    if (waiting) waiting.bitmap.close();
    waiting = shot;
    link.send({ type: "painted", number: header.number, skipped: true });
  } else paint(shot, true);
});

function paint(shot, tell) {
  requestAnimationFrame(() => {
    if (shot.header.camera !== camera) shot.bitmap.close(); // another one was chosen meanwhile
    else if (stage.shot && shot.header.number < stage.shot.header.number && shot.header.camera === stage.shot.header.camera) shot.bitmap.close();
    else stage.show(shot);
    $("#empty").hidden = true;
    // A task after the frame's callbacks runs when the browser has painted.
    if (tell) setTimeout(() => painted(shot.header));
  });
}

function painted(header) {
  link.send({ type: "painted", number: header.number });
}

function release() {
  if (held || stage.pressed || !waiting) return;
  paint(waiting, false);
  waiting = null;
}
stage.addEventListener("release", release);

function follow({ tracks, stamp }) {
  lastShot = performance.now();
  if (!tracks) return;
  known = tracks.objects;
  if (stage.selected && !tracks.objects.some((object) => object.id === stage.selected)) select(0);
  charts.tracks(tracks);
  timeline.add(tracks.stamp ?? stamp, tracks.objects.map((object) => ({ ...object, name: object.name || object.label })));
  list.update(known, stage.selected);
  $("#room").textContent = `${tracks.objects.length} of ${tracks.max_objects}`;
  $("#hint").hidden = tracks.objects.length > 0;
}

link.addEventListener("latency", ({ detail }) => charts.glass(detail.glass_ms ?? detail.screen_ms));
link.addEventListener("history", ({ detail }) => {
  if (detail.camera !== camera) return;
  timeline.clear();
  for (const [stamp, states] of detail.frames)
    timeline.add(stamp, states.map(([id, name, state, visibility, prompted, color]) => ({ id, name, state, visibility, prompted, color })));
});

// ---- cameras ----

link.addEventListener("cameras", ({ detail: { cameras } }) => {
  const tabs = cameras.length > 1 ? cameras : [];
  $("#cameras").replaceChildren(
    ...tabs.map((name) => {
      const button = element("button", {}, [element("canvas", { width: 88, height: 52 }), name]);
      button.dataset.camera = name;
      button.addEventListener("click", () => watch(name));
      return button;
    }),
  );
  const inAddress = cameras.find((name) => location.hash === `#${encodeURIComponent(name)}`);
  watch(cameras.includes(camera) ? camera : (inAddress ?? cameras[0] ?? ""));
});

function watch(name) {
  if (name !== camera) {
    known = [];
    select(0);
    charts.clear();
    showAges({});
    timeline.clear();
    $("#room").textContent = "";
    waiting?.bitmap.close();
    waiting = trouble = null;
    lastShot = lastThumbnail = 0;
    if (held) hold(false); // what was held is the other camera's picture
    if (camera && name) history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  }
  camera = name;
  for (const tab of $("#cameras").children) tab.setAttribute("aria-current", tab.dataset.camera === name);
  if (name) link.send({ type: "watch", camera, live });
  refresh();
}

function thumbnail(name, bitmap) {
  const canvas = document.querySelector(`#cameras [data-camera="${CSS.escape(name)}"] canvas`);
  if (!canvas) return;
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d").drawImage(bitmap, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
}

// ---- prompts ----

stage.addEventListener("prompt", async ({ detail: { point, positive, hit, box, header } }) => {
  const target = stage.selected || hit || 0;
  const command = { camera, stamp: header.stamp, points: point ? [point] : [], labels: point ? [positive ? 1 : 0] : [] };
  if (box) command.box = box;
  if (point && !positive && !target) return toast("Choose an object first: click it, then mark what does not belong to it.", { error: true });
  if (point) stage.mark(command.points, command.labels);
  const existing = box ? stage.selected : target;
  if (existing) select(existing);
  prompt(link, existing ? { type: "refine", object_id: existing, ...command } : { type: "add", ...command });
});

$("#like").addEventListener("click", () => $("#like-file").click());
$("#like-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  const like = file && (await readPicture(file).catch(() => null));
  target.value = ""; // so that the same file may be chosen again
  if (like) prompt(link, { type: "add", camera, stamp: "0", like });
  else if (file) toast(`${file.name} is no picture that this browser can read.`, { error: true });
});

function select(id) {
  stage.selected = id;
  const object = known.find((object) => object.id === id);
  $("#refining").hidden = !id;
  if (id) {
    const title = object?.name || object?.label || `object ${id}`;
    $("#refining span").textContent = `Refining ${title}: click adds, ⇧ click takes away`;
    $("#refining i").style.background = object?.color ?? "#fff";
  }
  list.update(known, id);
  stage.redraw();
}

$("#refining-end").addEventListener("click", () => select(0));
list.addEventListener("select", ({ detail: { object } }) => select(stage.selected === object.id ? 0 : object.id));
list.addEventListener("remove", ({ detail: { object } }) => remove(object));
list.addEventListener("rename", ({ detail: { object, name } }) => ask({ type: "rename", object_id: object.id, name, label: object.label }));

async function ask(command) {
  const answer = await link.ask({ camera, ...command });
  if (!answer.success) toast(answer.message, { error: true });
  return answer;
}

async function remove(object) {
  const answer = await ask({ type: "remove", object_id: object.id });
  if (answer.success) toast(`${object.name || `Object ${object.id}`} removed`);
}

let sure = 0;
$("#reset").addEventListener("click", async () => {
  const button = $("#reset");
  clearTimeout(sure);
  if (!button.classList.toggle("danger")) {
    button.textContent = "Reset";
    const answer = await ask({ type: "reset" });
    if (answer.success) toast(answer.message);
    return;
  }
  button.textContent = "Forget all?";
  sure = setTimeout(() => {
    button.classList.remove("danger");
    button.textContent = "Reset";
  }, 3000);
});

// ---- tools, keys, colours ----

function choose(tool) {
  stage.tool = tool;
  $("#picture").classList.toggle("box", tool === "box");
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-checked", button.dataset.tool === tool);
}
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => choose(button.dataset.tool));

function hold(on) {
  held = on;
  $("#hold").setAttribute("aria-pressed", on);
  $("#held").hidden = !on;
  release();
}
function setLive(on) {
  live = on;
  $("#live").setAttribute("aria-pressed", on);
  link.send({ type: "watch", camera, live });
}
$("#hold").addEventListener("click", () => hold(!held));
$("#live").addEventListener("click", () => setLive(!live));

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}
theme(localStorage.getItem("theme") ?? "auto");
function nextTheme() {
  const order = ["auto", "light", "dark"], name = order[(order.indexOf(localStorage.getItem("theme")) + 1) % 3];
  theme(name);
  toast(`Colours: ${name === "auto" ? "as the system" : name}`, { seconds: 1.5 });
}
$("#theme").addEventListener("click", nextTheme);
$("#help-open").addEventListener("click", () => $("#help").showModal());

addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
  const chosen = known.find((object) => object.id === stage.selected);
  const onButton = event.target.matches("button, li");
  const keys = {
    a: () => choose("add"), x: () => choose("cut"), b: () => choose("box"), l: () => setLive(!live), t: nextTheme,
    "?": () => $("#help").showModal(), Escape: () => select(0), n: () => chosen && list.rename(chosen.id), F2: () => chosen && list.rename(chosen.id),
    Delete: () => chosen && remove(chosen), Backspace: () => chosen && remove(chosen),
  };
  if (event.key === " " && !onButton) hold(!held);
  else if (/^[1-9]$/.test(event.key)) select(known[event.key - 1]?.id ?? 0);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

// ---- status ----

link.addEventListener("open", () => { connected = true; refresh(); });
link.addEventListener("close", () => { connected = false; refresh(); });
link.addEventListener("notice", ({ detail }) => toast(detail.message, { error: detail.level === "error" }));
link.addEventListener("diagnostics", ({ detail }) => {
  if (detail.camera !== camera) return;
  showAges(detail.values);
  trouble = detail.level === "ok" ? null : { level: detail.level, message: detail.message, time: performance.now() };
  refresh();
});

function refresh() {
  const flowing = performance.now() - lastShot < 2500;
  let [level, text] = ["ok", "tracking"];
  if (!connected) [level, text] = ["error", "viewer not reachable"];
  else if (!camera) [level, text] = ["wait", "no tracker"];
  else if (trouble && performance.now() - trouble.time < 5000 && trouble.level === "error") [level, text] = ["error", trouble.message];
  else if (!flowing) [level, text] = ["wait", "no pictures"];
  else if (!stage.shot?.header.tracks) [level, text] = ["wait", "not tracking"];
  const status = $("#status");
  status.dataset.level = level;
  status.title = text;
  status.querySelector("span").textContent = text.length > 42 ? `${text.slice(0, 40)}…` : text;
  if (!flowing && !stage.shot) {
    $("#empty").hidden = false;
    const [title, hint] = !camera ? ["Waiting for a tracker", null] : ["Waiting for pictures", trouble?.message ?? "The tracker is there; its camera sends nothing yet."];
    $("#empty strong").textContent = title;
    if (hint) $("#empty span").textContent = hint;
  }
}
setInterval(() => {
  refresh();
  charts.draw();
  timeline.draw();
}, 250);
link.connect();
