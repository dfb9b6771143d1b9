"""Makes the viewer's pictures of the documents: the simulated table, while the arm hides one thing after the other.

    python scripts/viewer_pictures.py [--out docs/images] [--seed 3] [--seconds 24] [--speed 0.3] [--rate 10]

Starts the simulated camera, the tracker and the viewer (sim.launch.py), tracks every object from its true box in the
first frame, lets ``--seconds`` of the scene go by, and has headless Chromium save ``viewer_occlusion.png`` (desktop,
dark), ``viewer_occlusion_light.png`` (desktop, light) and ``viewer_phone.png`` (phone, light). Stamps are the scene's
time, so the timeline is that of the scene whatever the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sam2_ros.media.child_process import ChildProcess, signals_unwind
from sam2_ros.ros.dds_environment import environment
from sam2_ros.simulation.camera import SimulatedCamera
from sam2_ros.viewer.browser import NoBrowser, chromium

DOMAIN = "84"
START_TIMEOUT_S = 600.0
PICTURES = {
    "viewer_occlusion.png": (1360, 900, "dark", 1),
    "viewer_occlusion_light.png": (1360, 900, "light", 1),
    "viewer_phone.png": (390, 844, "light", 2),
}


def prompts(seed: int) -> list[dict[str, object]]:
    """A prompts file's entries: the box of every object that is seen in the first frame."""
    frame = SimulatedCamera(seed, 640, 480, 10.0, 1.0).frame(0)
    entries: list[dict[str, object]] = []
    for known in frame.objects:
        rows, columns = np.nonzero(frame.labels == known.object_id)
        if rows.size:
            box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
            entries.append({"frame": 0, "object_id": known.object_id, "box": box, "name": known.name})
    return entries


def address(viewer: ChildProcess) -> str:
    """What the viewer prints.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while " viewer at " not in viewer.log.read_text():
        viewer.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no viewer within {START_TIMEOUT_S:.0f} s; see {viewer.log}")
        time.sleep(0.2)
    return viewer.log.read_text().partition(" viewer at ")[2].split()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="default: docs/images")
    parser.add_argument("--seed", type=int, default=3, help="of the scene (default: 3)")
    parser.add_argument("--seconds", type=float, default=24.0, help="of the scene, until the pictures (default: 24)")
    parser.add_argument("--speed", type=float, default=0.3, help="seconds of the scene in a second (default: 0.3)")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of the scene (default: 10)")
    options = parser.parse_args()
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    os.environ.update(environment())
    folder = Path(tempfile.mkdtemp())
    file = folder / "things.json"
    file.write_text(json.dumps(prompts(options.seed)), encoding="utf-8")
    command = ["ros2", "launch", "sam2_ros", "sim.launch.py", f"seed:={options.seed}", f"speed:={options.speed}"]
    command += [f"rate:={options.rate}", "stamps:=frame", f"prompts_file:={file}", "viewer:=true", "viewer_port:=0"]
    with signals_unwind(), ChildProcess(command, folder / "launch.log") as launch:
        try:
            page_address = address(launch)
            with chromium() as browser:
                pages = {}
                for name, (width, height, scheme, scale) in PICTURES.items():
                    context = browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=scale,
                        is_mobile=width < 600, has_touch=width < 600,
                    )  # fmt: skip
                    pages[name] = context.new_page()
                first = next(iter(pages.values()))
                first.add_init_script(
                    "document.addEventListener('painted', ({ detail }) => { window.newest = Number(detail.stamp); })"
                )
                first.goto(page_address)
                first.locator("#status[data-level=ok]").wait_for(timeout=START_TIMEOUT_S * 1000)
                # Stamps begin at one second.
                first.wait_for_function(
                    "seconds => window.newest >= 1e9 * (1 + seconds)", arg=options.seconds,
                    timeout=1000 * (START_TIMEOUT_S + options.seconds / options.speed),
                )  # fmt: skip
                for name, page in pages.items():
                    if page is not first:
                        page.goto(page_address)
                        page.locator("#status[data-level=ok]").wait_for(timeout=START_TIMEOUT_S * 1000)
                        page.wait_for_timeout(6000)
                    page.screenshot(path=options.out / name)
                    print(options.out / name, flush=True)
        except (NoBrowser, TimeoutError) as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
