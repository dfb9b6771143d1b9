// The page of a review: an annotated recording, its doubtful images first, and corrections.

import { $, element, toast } from "./dom.js";
import { Overview } from "./overview.js";
import { Page, setStatus } from "./page.js";

const MOST_LISTED = 200; // doubtful images
const REASONS = { score: "unsure mask", disagreement: "both ways of tracking differ", swap: "ids may be exchanged", missed: "a detection without a mask" };

const page = new Page({
  d: () => nextDoubt(1), D: () => nextDoubt(-1), ",": () => seek(frame - 1), ".": () => seek(frame + 1), g: accept, p: propagate,
  u: undo, s: save, m: mark, k: split, j: merge, e: exchange,
});
const overview = new Overview($("#timeline"));
let all = null; // the newest overview of the recording in front
let waiting = []; // what was asked for before the first one came
let frame = 0, marked = null, connected = false;
let wanted = null, asking = false; // the image to go to next
let coming = 0; // an object that is chosen once it is in the list
let due = 0; // number of the picture that was asked for last; older ones may still come

page.addEventListener("picture", ({ detail: header }) => {
  if (!asking && header.number >= due) frame = Number(header.stamp);
  page.show(header.tracks.objects);
  choose();
  const here = header.tracks.objects.filter((object) => object.state === "visible").length;
  $("#room").textContent = `${here} here, ${header.tracks.objects.length} in all`;
  $("#hint").hidden = header.tracks.objects.length > 0;
  refresh();
});
page.addEventListener("watch", ({ detail: { changed } }) => {
  if (changed) [all, waiting, marked, wanted, frame, coming] = [null, [], null, null, -1, 0]; // no image of it is shown yet
  if (page.camera) page.link.send({ type: "watch", camera: page.camera });
  refresh();
});
page.link.addEventListener("overview", ({ detail }) => {
  if (detail.camera !== page.camera) return;
  all = detail;
  for (const work of waiting.splice(0)) work();
  refresh();
});
page.link.addEventListener("open", () => { connected = true; due = 0; refresh(); });
page.link.addEventListener("close", () => { connected = false; refresh(); });
addEventListener("resize", refresh);

// ---- moving ----

// One request at a time: of a fast movement only the newest image is asked for.
async function seek(to) {
  if (!all) return waiting.push(() => seek(to));
  wanted = Math.min(all.images - 1, Math.max(0, to));
  frame = wanted;
  refresh();
  if (asking) return;
  asking = true;
  while (wanted !== null) {
    const next = wanted;
    wanted = null;
    due = (await page.ask({ type: "seek", frame: next })).number ?? due;
  }
  asking = false;
}

function nextDoubt(step) {
  if (!all) return waiting.push(() => nextDoubt(step));
  const { doubts } = all;
  if (!doubts.length) return toast("No image is doubtful.");
  const at = doubts.findIndex(([index]) => index === frame);
  if (at < 0) return seek(doubts[0][0]);
  if (doubts[at + step]) seek(doubts[at + step][0]);
  else toast(step > 0 ? "That was the last doubtful image." : "This is the most doubtful image.");
}

function mark() {
  marked = marked === frame ? null : frame;
  refresh();
}

$("#scrub").addEventListener("input", ({ target }) => seek(Number(target.value)));
overview.addEventListener("seek", ({ detail }) => seek(detail));

// ---- corrections ----

async function accept() {
  if (!all) return waiting.push(accept);
  const at = all.doubts.findIndex(([index]) => index === frame);
  if (at < 0) return toast("This image is not on the list.");
  const next = all.doubts[at + 1] ?? all.doubts[at - 1];
  const answer = await page.ask({ type: "accept", frame });
  if (answer.success && next) seek(next[0]);
}
function propagate() {
  page.ask({ type: "propagate", frame, object_id: page.stage.selected });
}
function undo() {
  page.ask({ type: "undo" });
}
function save() {
  page.ask({ type: "save" });
}

// ---- which object is which ----

async function tell(command) {
  const answer = await page.ask(command);
  if (answer.success) toast(answer.message);
  return answer;
}
async function split() {
  page.unpick();
  if (!page.stage.selected) return toast("Choose an object first.", { error: true });
  const answer = await tell({ type: "split", object_id: page.stage.selected, frame });
  coming = answer.object_id ?? 0;
  choose();
}
function choose() {
  if (!page.known.some(({ id }) => id === coming)) return;
  page.unpick(); // asked meanwhile, about the object that was chosen
  page.select(coming);
  coming = 0;
}
function merge() {
  const camera = page.camera; // another one may be chosen meanwhile
  page.pick((title) => `Merge ${title} with which object?`, (id, other) => tell({ type: "merge", camera, object_id: id, other }));
}
function exchange() {
  const camera = page.camera, from = frame;
  page.pick((title) => `Exchange ${title} with which object?`, (id, other) => tell({ type: "exchange", camera, object_id: id, other, frame: from }));
}

page.addEventListener("remove", ({ detail: { object } }) => askWhere(object));
function askWhere(object) {
  if (!all) return waiting.push(() => askWhere(object));
  const last = all.images - 1, from = marked ?? 0, camera = page.camera; // another one may be chosen meanwhile
  const remove = (first, until) => () => page.ask({ type: "remove", camera, object_id: object.id, first, last: until });
  const choices = [["In this image", remove(frame, frame)], ["From here on", remove(frame, last)], ["Up to here", remove(0, frame)]];
  if (marked !== null && marked !== frame) choices.push([`Image ${Math.min(from, frame)} to ${Math.max(from, frame)}`, remove(from, frame)]);
  toast(`Remove ${object.name} #${object.id}:`, { choices: [...choices, ["Everywhere", remove(0, last)]], seconds: 10 });
}

for (const [id, work] of Object.entries({ accept, propagate, undo, save, split, merge, exchange })) $(`#${id}`).addEventListener("click", work);
$("#stop").addEventListener("click", () => page.ask({ type: "stop" }));
addEventListener("beforeunload", (event) => all?.changed && event.preventDefault());

// ---- what is shown ----

const nameOf = (id) => (id ? `${all.objects.find((object) => object.id === id)?.name ?? "object"} #${id}` : "");
const told = (reasons) => reasons.map(([kind, id]) => `${nameOf(id)} ${REASONS[kind] ?? kind}`.trim()).join(" · ");

function refresh() {
  let [level, text] = ["ok", "saved"];
  if (!connected) [level, text] = ["error", "review not reachable"];
  else if (!all) [level, text] = ["wait", "reading"];
  else if (all.work) [level, text] = ["wait", all.work];
  else if (all.changed) [level, text] = ["wait", "not saved"];
  setStatus(level, text);
  if (!all) return;
  $("#stop").hidden = !all.work;
  $("#propagate").hidden = Boolean(all.work);
  $("#undo").disabled = !all.undo;
  $("#scrub").max = all.images - 1;
  $("#scrub").value = frame;
  $("#place").textContent = frame < 0 ? "–" : `Image ${frame} of ${all.images - 1}`;
  $("#why").textContent = told(all.doubts.find(([index]) => index === frame)?.[2] ?? []);
  overview.draw(all, frame, marked, page.known);
  listDoubts();
}

function listDoubts() {
  $("#doubtful").textContent = all.doubtful ? `${all.doubtful}, the most doubtful first` : "none";
  const rows = all.doubts.slice(0, MOST_LISTED).map(([index, , reasons]) => {
    const button = element("button", { className: "quiet", title: told(reasons) }, [element("b", { textContent: index }), ` ${told(reasons)}`]);
    button.addEventListener("click", () => seek(index));
    const row = element("li", {}, [button]);
    row.toggleAttribute("data-selected", index === frame);
    return row;
  });
  $("#doubts").replaceChildren(...rows);
  $("#doubts [data-selected]")?.scrollIntoView({ block: "nearest" });
}

page.link.connect();
