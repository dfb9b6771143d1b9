"""Measures the viewer from glass to glass: from the moment an image is published until a browser has painted it.

    python scripts/glass_to_glass.py [--model embedded] [--seconds 30] [--live]

A camera publishes images whose top-left corner holds their number in black and white squares. The page runs in
headless Chromium; whenever it has painted a picture, a script reads the number back from the canvas, and takes the
times that the picture's header collected on its way. All clocks are the system's. Counted: publication, DDS, the
tracker (in step; not with ``--live``), JPEG, WebSocket, decoding, drawing. Not counted: a real camera's exposure, a
real screen's refresh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path

import numpy as np

from sam2_ros.media.child_process import ChildProcess, signals_unwind
from sam2_ros.ros.dds_environment import environment

WIDTH, HEIGHT, SQUARE, BITS = 640, 480, 16, 16
DOMAIN = "83"
WATCH = (
    """
() => {
  const canvas = document.querySelector('#picture');
  window.seen = [];
  document.addEventListener('painted', ({ detail: { times, tracks } }) => {
    const scale = canvas.width / WIDTH, y = Math.floor(0.5 * SQUARE * scale);
    const row = canvas.getContext('2d').getImageData(0, y, Math.ceil(BITS * SQUARE * scale), 1).data;
    let number = 0;
    for (let bit = 0; bit < BITS; bit += 1)
      if (row[4 * Math.floor((bit + 0.5) * SQUARE * scale)] > 128) number |= 1 << bit;
    window.seen.push({ number, engine: tracks?.engine_ms ?? null, ...times });
  });
}
""".replace("WIDTH", str(WIDTH))
    .replace("BITS", str(BITS))
    .replace("SQUARE", str(SQUARE))
)
# What a picture waits for: name, from, to; "published" is noted here, the others are in the picture's header.
STAGES = (
    ("DDS, to the viewer", "published", "image"),
    ("tracker, and DDS", "image", "paired"),
    ("viewer's turn", "paired", "asked"),
    ("JPEG and socket", "asked", "received"),
    ("decoding", "received", "decoded"),
    ("painting", "decoded", "painted"),
)


def numbered(number: int) -> np.ndarray:
    """An image ``uint8 [480, 640, 3]`` with its number in its corner, over a gradient with a disc to track."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, np.full_like(rows, 90)], -1).astype(np.uint8)
    x = 320 + round(120 * np.sin(number / 20))
    image[(columns - x) ** 2 + (rows - 260) ** 2 < 60**2] = (240, 200, 40)
    for bit in range(BITS):
        image[:SQUARE, bit * SQUARE : (bit + 1) * SQUARE] = 255 if number >> bit & 1 else 0
    return image


def publish(rate: float, stop: threading.Event, sent: dict[int, float]) -> None:
    """Publishes numbered images; ``sent`` gets the time of each in milliseconds since 1970."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("numbered_camera")
    publisher = node.create_publisher(Image, "/image", 5)
    number = 1
    while not stop.wait(1 / rate):
        data = array("B", numbered(number).tobytes())
        image = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8", data=data)
        image.header.stamp = node.get_clock().now().to_msg()
        sent[number] = time.time() * 1000
        publisher.publish(image)
        number += 1
    rclpy.shutdown()


def main() -> int:
    from sam2_ros.viewer.browser import NoBrowser, chromium

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded", help="default: embedded; 'null' shows what is not the network")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second (default: 10)")
    parser.add_argument("--seconds", type=float, default=30.0, help="default: 30")
    parser.add_argument("--live", action="store_true", help="every picture at once, not in step with its masks")
    options = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    os.environ.update(environment())
    folder = Path(tempfile.mkdtemp())
    launch = ["ros2", "launch", "sam2_ros", "tracker.launch.py", f"model:={options.model}"]
    view = [sys.executable, "-m", "sam2_ros", "view", "--port", "0"]
    sent: dict[int, float] = {}
    stop = threading.Event()
    camera = threading.Thread(target=publish, args=(options.rate, stop, sent))
    with (
        signals_unwind(),
        ChildProcess(launch, folder / "tracker.log"),
        ChildProcess(view, folder / "viewer.log") as viewer,
    ):
        camera.start()
        try:
            while " viewer at " not in viewer.log.read_text():
                viewer.check()
                time.sleep(0.2)
            address = viewer.log.read_text().partition(" viewer at ")[2].split()[0]
            with chromium() as browser:
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.goto(address)
                page.locator("#status[data-level=ok]").wait_for(timeout=120_000)
                if options.live:
                    page.keyboard.press("l")
                box = page.locator("#picture").bounding_box()
                assert box is not None
                page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.54)
                page.wait_for_timeout(5000)  # until the click is caught up
                page.evaluate(WATCH)
                page.wait_for_timeout(options.seconds * 1000)
                seen = page.evaluate("() => window.seen")
        except NoBrowser as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            stop.set()
            camera.join()
    pictures = [each | {"published": sent[each["number"]]} for each in seen if each["number"] in sent]
    delays = [each["painted"] - each["published"] for each in pictures]
    if not delays:
        print(f"no numbered image was seen on the page; logs in {folder}", file=sys.stderr)
        return 1
    stages = {name: [each[end] - each[start] for each in pictures] for name, start, end in STAGES}
    stages["of the tracker: the engine"] = [each["engine"] for each in pictures if each["engine"] is not None] or [0.0]
    for name, values in stages.items():
        p5, p50, p95 = np.percentile(values, [5, 50, 95])
        print(f"  {name:<28} {p50:7.1f} ms   ({p5:.1f} to {p95:.1f})", file=sys.stderr)
    low, median, high = np.percentile(delays, [5, 50, 95])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "model": options.model, "mode": "live" if options.live else "in step", "rate_hz": options.rate,
        "pictures": len(delays), "p5_ms": round(low), "median_ms": round(median), "p95_ms": round(high),
        "stages_ms": {name: round(float(np.median(values)), 1) for name, values in stages.items()},
        "load_1min": os.getloadavg()[0], "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
