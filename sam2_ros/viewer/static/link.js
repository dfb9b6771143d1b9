// The connection to the viewer's server: pictures come as binary messages (layout: packets.py), the rest as JSON.

const RETRY_MS = 1000;

export class Link extends EventTarget {
  #socket = null;
  #next = 1;
  #waiting = new Map(); // command number -> resolve

  connect() {
    const url = new URL("/socket", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#tell("open");
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#onText(JSON.parse(data)) : this.#tell("shot", decode(data)));
    socket.onclose = () => {
      for (const resolve of this.#waiting.values()) resolve({ success: false, message: "the connection to the viewer was lost" });
      this.#waiting.clear();
      this.#tell("close");
      setTimeout(() => this.connect(), RETRY_MS);
    };
    this.#socket = socket;
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  // Sends a command to the tracker; resolves to its response: {success, message, …}.
  ask(command) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.resolve({ success: false, message: "the viewer is not connected" });
    const id = this.#next++;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.send({ id, ...command });
    });
  }

  #onText(message) {
    if (message.type === "ping") this.send({ type: "pong", sent: message.sent });
    else if (message.type === "answer") {
      this.#waiting.get(message.to)?.(message);
      this.#waiting.delete(message.to);
    } else this.#tell(message.type, message);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

// {header, picture: Blob}; every object of header.tracks gets `path`, its outline in pixels of the image, and `anchor`,
// the edges [x0, y0, x1, y1] of its largest piece, so that small specks don't move its name.
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const object of header.tracks?.objects ?? []) {
    object.path = new Path2D();
    object.anchor = object.box;
    let largest = 0;
    for (const count of object.contours) {
      const points = new Int16Array(buffer, at, 2 * count);
      at += 4 * count;
      object.path.moveTo(points[0], points[1]);
      for (let i = 2; i < points.length; i += 2) object.path.lineTo(points[i], points[i + 1]);
      object.path.closePath();
      const [x0, y0, x1, y1] = edges(points);
      if ((x1 - x0) * (y1 - y0) > largest) [largest, object.anchor] = [(x1 - x0) * (y1 - y0), [x0, y0, x1, y1]];
    }
  }
  return { header, picture: new Blob([new Uint8Array(buffer, at)]) };
}

// The points are centres of pixels.
function edges(points) {
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 2) {
    x0 = Math.min(x0, points[i]);
    y0 = Math.min(y0, points[i + 1]);
    x1 = Math.max(x1, points[i] + 1);
    y1 = Math.max(y1, points[i + 1] + 1);
  }
  return [x0, y0, x1, y1];
}
