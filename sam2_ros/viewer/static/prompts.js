// Sends a prompt and shows its result.

import { toast } from "./dom.js";

// command: {type: "add" | "refine", camera, stamp, …} as page_commands.py reads it.
export async function prompt(link, command) {
  const answer = await link.ask(command);
  if (answer.success && command.like) toast(answer.message);
  else if (answer.success) {
    const offered = command.type === "add" ? choices(link, answer, command) : [];
    toast(told(answer, command.type === "add" ? "added" : "refined"), { choices: offered, seconds: offered.length ? 7 : 4 });
  } else if (answer.gone) {
    const again = () => prompt(link, { ...command, stamp: "0" });
    toast("The tracker no longer has the picture that you saw.", { error: true, choices: [["Use the newest one", again]] });
  } else toast(answer.message, { error: true });
}

function told(answer, what) {
  const late = answer.caught_up ? ` · on the picture of ${answer.age.toFixed(2)} s ago, caught up` : "";
  return `${answer.name || `Object ${answer.object_id}`} ${what} · IoU ${answer.predicted_iou.toFixed(2)}${late}`;
}

// The candidates of a single click, by size.
function choices(link, answer, command) {
  const offered = [...(answer.candidates ?? [])].sort((a, b) => a.area - b.area);
  return offered.map(({ index }, i) => [
    ["Smaller part", "Part", "Whole"][i + 3 - offered.length] ?? `Choice ${index}`,
    async () => {
      const again = await link.ask({ ...command, type: "refine", object_id: answer.object_id, candidate: index, replace: true });
      toast(again.success ? told(again, "changed") : again.message, { error: !again.success });
    },
  ]);
}

const LARGEST = 48 * 1024; // characters of a picture; web_server.py takes commands of 64 KiB

// A picture file as base64 of a JPEG that is small enough to be sent.
export async function readPicture(file) {
  const bitmap = await createImageBitmap(file);
  try {
    for (let side = 512; ; side /= 2) {
      const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
      const [width, height] = [bitmap.width, bitmap.height].map((value) => Math.max(1, Math.round(scale * value)));
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
      const [, data] = canvas.toDataURL("image/jpeg", 0.9).split(",");
      if (data.length <= LARGEST) return data;
    }
  } finally {
    bitmap.close();
  }
}
