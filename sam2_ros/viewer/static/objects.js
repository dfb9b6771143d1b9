// The list of objects beside the picture.

import { element } from "./dom.js";

export class ObjectList extends EventTarget {
  #list;
  #rows = new Map(); // id -> {item, …}

  constructor(list) {
    super();
    this.#list = list;
  }

  update(objects, selected) {
    const living = new Set(objects.map((object) => object.id));
    for (const [id, row] of this.#rows) {
      if (!living.has(id)) {
        row.item.remove();
        this.#rows.delete(id);
      }
    }
    objects.forEach((object, place) => {
      const row = this.#rows.get(object.id) ?? this.#make(object.id);
      this.#fill(row, object, object.id === selected);
      if (this.#list.children[place] !== row.item) this.#list.insertBefore(row.item, this.#list.children[place]);
    });
  }

  rename(id) {
    const row = this.#rows.get(id);
    if (!row || row.editing) return;
    row.editing = true;
    const input = element("input", { value: row.object.name, maxLength: 60, placeholder: "name", ariaLabel: "Name of the object" });
    const end = (keep) => {
      if (!row.editing) return;
      row.editing = false;
      row.shown.name = undefined;
      row.name.replaceChildren();
      this.#fill(row, row.object, row.item.hasAttribute("data-selected"));
      if (keep && input.value.trim() !== row.object.name) this.#tell("rename", { object: row.object, name: input.value.trim() });
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    input.addEventListener("click", (event) => event.stopPropagation());
    row.name.replaceChildren(input);
    input.select();
  }

  #make(id) {
    const item = element("li", { tabIndex: 0 });
    const row = { item, shown: {}, editing: false };
    row.name = element("div", { className: "name" });
    row.chip = element("span", { className: "chip" });
    row.meter = element("i");
    row.facts = element("span", { className: "facts" });
    const act = (text, title, work) => {
      const button = element("button", { className: "quiet", textContent: text, title });
      button.addEventListener("click", (event) => {
        event.stopPropagation();
        work();
      });
      return button;
    };
    const acts = element("div", { className: "acts" }, [
      act("Rename", "Rename (N)", () => this.rename(id)),
      act("Remove", "Remove (Del)", () => this.#tell("remove", { object: row.object })),
    ]);
    item.append(row.name, row.chip, element("div", { className: "meter", title: "Probability that it is seen" }, [row.meter]), row.facts, acts);
    item.addEventListener("click", () => this.#tell("select", { object: row.object }));
    item.addEventListener("dblclick", () => this.rename(id));
    item.addEventListener("keydown", (event) => {
      if (event.target === item && event.key === "Enter") this.#tell("select", { object: row.object });
    });
    this.#rows.set(id, row);
    return row;
  }

  #fill(row, object, selected) {
    row.object = object;
    const size = `${object.area.toLocaleString("en")} px`;
    const where = object.position ? `${Math.hypot(...object.position).toFixed(2)} m away` : size;
    const facts = object.area ? `IoU ${object.predicted_iou.toFixed(2)} · ${where}` : object.state === "absent" ? "not in this image" : `seen ${Math.round(object.visibility * 100)} %`;
    const name = `${object.id}\n${object.name || object.label || "unnamed"}`;
    const now = { name, state: object.state, facts, selected, visibility: Math.round(object.visibility * 100) };
    const changed = (key) => row.shown[key] !== now[key];
    if (changed("name") && !row.editing) {
      const [id, title] = name.split("\n");
      row.name.replaceChildren(element("small", { textContent: `#${id}` }), title);
      row.item.style.setProperty("--color", object.color);
    }
    if (changed("state")) {
      row.item.dataset.state = object.state;
      row.chip.textContent = object.state;
    }
    if (changed("facts")) row.facts.textContent = facts;
    if (changed("visibility")) row.meter.style.width = `${now.visibility}%`;
    if (changed("selected")) row.item.toggleAttribute("data-selected", selected);
    row.shown = now;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
