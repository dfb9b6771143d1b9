// Small helpers for elements and canvases.

export const $ = (selector) => document.querySelector(selector);

export function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// What an object is called; many may have one label.
export function titleOf(object) {
  return object.name && object.name !== object.label ? object.name : `${object.label || "object"} #${object.id}`;
}

// The context of a canvas in the device's resolution, cleared; units are CSS pixels.
export function prepared(canvas) {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  return { g, width, height };
}

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function toast(text, { error = false, choices = [], seconds = error ? 8 : 4 } = {}) {
  const box = element("div", { className: error ? "toast error" : "toast", textContent: text });
  if (choices.length) {
    const row = element("div", { className: "choices" });
    for (const [label, work] of choices) {
      const button = element("button", { textContent: label });
      button.addEventListener("click", () => {
        box.remove();
        work();
      });
      row.append(button);
    }
    box.append(row);
  }
  const all = $("#toasts");
  all.append(box);
  while (all.children.length > 4) all.firstChild.remove();
  setTimeout(() => box.remove(), 1000 * seconds);
}
