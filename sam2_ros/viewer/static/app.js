// The live page: pictures of running trackers, measurements, and commands to them.

import { showAges } from "./ages.js";
import { Charts } from "./charts.js";
import { $, toast } from "./dom.js";
import { Page, setStatus } from "./page.js";
import { prompt, readPicture } from "./prompts.js";
import { Timeline } from "./timeline.js";

const page = new Page({ l: () => setLive(!live), w: () => setWindows(!page.stage.windows), " ": () => hold(!page.held) });
const charts = new Charts(), timeline = new Timeline($("#timeline"));
let live = false, lastShot = 0, connected = false, trouble = null;

page.addEventListener("picture", ({ detail: { tracks, stamp } }) => {
  lastShot = performance.now();
  if (!tracks) return;
  charts.tracks(tracks);
  timeline.add(tracks.stamp ?? stamp, tracks.objects.map((object) => ({ ...object, name: object.name || object.label })));
  page.show(tracks.objects);
  $("#room").textContent = `${tracks.objects.length} of ${tracks.max_objects}`;
  $("#hint").hidden = tracks.objects.length > 0;
});

page.addEventListener("watch", ({ detail: { changed } }) => {
  if (changed) {
    charts.clear();
    showAges({});
    timeline.clear();
    $("#room").textContent = "";
    trouble = null;
    lastShot = 0;
    if (page.held) hold(false); // what was held is the other camera's picture
  }
  if (page.camera) page.link.send({ type: "watch", camera: page.camera, live });
  refresh();
});

page.link.addEventListener("latency", ({ detail }) => charts.glass(detail.glass_ms ?? detail.screen_ms));
page.link.addEventListener("history", ({ detail }) => {
  if (detail.camera !== page.camera) return;
  timeline.clear();
  for (const [stamp, states] of detail.frames)
    timeline.add(stamp, states.map(([id, name, state, visibility, prompted, color]) => ({ id, name, state, visibility, prompted, color })));
});

// ---- commands ----

$("#like").addEventListener("click", () => $("#like-file").click());
$("#like-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  const like = file && (await readPicture(file).catch(() => null));
  target.value = ""; // so that the same file may be chosen again
  if (like) prompt(page.link, { type: "add", camera: page.camera, stamp: "0", like });
  else if (file) toast(`${file.name} is no picture that this browser can read.`, { error: true });
});

page.addEventListener("remove", async ({ detail: { object } }) => {
  const answer = await page.ask({ type: "remove", object_id: object.id });
  if (answer.success) toast(`${object.name || `Object ${object.id}`} removed`);
});

let sure = 0;
$("#reset").addEventListener("click", async () => {
  const button = $("#reset");
  clearTimeout(sure);
  if (!button.classList.toggle("danger")) {
    button.textContent = "Reset";
    const answer = await page.ask({ type: "reset" });
    if (answer.success) toast(answer.message);
    return;
  }
  button.textContent = "Forget all?";
  sure = setTimeout(() => {
    button.classList.remove("danger");
    button.textContent = "Reset";
  }, 3000);
});

function hold(on) {
  page.held = on;
  $("#hold").setAttribute("aria-pressed", on);
  $("#held").hidden = !on;
  page.release();
}
function setLive(on) {
  live = on;
  $("#live").setAttribute("aria-pressed", on);
  page.link.send({ type: "watch", camera: page.camera, live });
}
function setWindows(on) {
  page.stage.windows = on;
  $("#windows").setAttribute("aria-pressed", on);
  page.stage.redraw();
  if (on && !page.stage.objects.some((object) => object.window)) toast("No object is seen through a window now; see tracker.window.");
}
$("#windows").addEventListener("click", () => setWindows(!page.stage.windows));
$("#hold").addEventListener("click", () => hold(!page.held));
$("#live").addEventListener("click", () => setLive(!live));

// ---- status ----

page.link.addEventListener("open", () => { connected = true; refresh(); });
page.link.addEventListener("close", () => { connected = false; refresh(); });
page.link.addEventListener("diagnostics", ({ detail }) => {
  if (detail.camera !== page.camera) return;
  showAges(detail.values);
  trouble = detail.level === "ok" ? null : { level: detail.level, message: detail.message, time: performance.now() };
  refresh();
});

function refresh() {
  const flowing = performance.now() - lastShot < 2500;
  let [level, text] = ["ok", "tracking"];
  if (!connected) [level, text] = ["error", "viewer not reachable"];
  else if (!page.camera) [level, text] = ["wait", "no tracker"];
  else if (trouble && performance.now() - trouble.time < 5000 && trouble.level === "error") [level, text] = ["error", trouble.message];
  else if (!flowing) [level, text] = ["wait", "no pictures"];
  else if (!page.stage.shot?.header.tracks) [level, text] = ["wait", "not tracking"];
  setStatus(level, text);
  if (!flowing && !page.stage.shot) {
    $("#empty").hidden = false;
    const [title, hint] = !page.camera ? ["Waiting for a tracker", null] : ["Waiting for pictures", trouble?.message ?? "The tracker is there; its camera sends nothing yet."];
    $("#empty strong").textContent = title;
    if (hint) $("#empty span").textContent = hint;
  }
}
setInterval(() => {
  refresh();
  charts.draw();
  timeline.draw();
}, 250);
page.link.connect();
