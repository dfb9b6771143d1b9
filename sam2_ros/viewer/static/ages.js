// How old the masks are that a planner gets, as the node's diagnostics say.

import { $ } from "./dom.js";

const milliseconds = (text) => (Number.isFinite(parseFloat(text)) ? `${Math.round(parseFloat(text))} ms` : "–");
const rate = (text) => (Number.isFinite(parseFloat(text)) ? `${parseFloat(text).toFixed(1)} Hz` : "–");

export function showAges(values) {
  for (const [row, series] of [["network", "age of masks"], ["carried", "live latency"]])
    for (const share of ["p50", "p99"]) $(`#age-${row}-${share}`).textContent = milliseconds(values[`${series} ${share} [ms]`]);
  $("#rate-camera").textContent = rate(values["input rate [Hz]"]);
  $("#rate-engine").textContent = rate(values["engine rate [Hz]"]);
}
