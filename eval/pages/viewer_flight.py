"""The flight along the camera path in the viewer page, started by the page's own play button.

viser's recordings carry camera messages with their times, and its page plays them in a loop as soon as it
opens. Here the page is stopped before the first of them, so that it opens at rest and free to look around;
its play button and time slider, or the space bar, then fly along the path.

The messages are those that viser's server sends to a connected browser (viser 1.1); viser has no public
way to put them into a recording.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from data.camera_interpolation import interpolate_cameras
from data.cameras import Cameras

if TYPE_CHECKING:
    import viser

FPS = 30
FLIGHT_SECONDS, REST_SECONDS = 5.0, 1.0
"""Along the path, and at its end before it starts again."""
LEAD_SECONDS = 0.2
"""Before the flight: the scene's own messages are at 0."""

PAUSE_AT_FIRST = """\
<style>#flight-hint{position:fixed;left:12px;bottom:52px;z-index:2;padding:4px 9px;border-radius:4px;
font:13px system-ui,sans-serif;color:#ddd;background:rgba(20,20,24,.7);pointer-events:none}</style>
<script>
// The recording is played by Date.now, which stands still until the page is stopped: however long the scene
// takes to load, no camera message comes before.
const runningClock = Date.now, opened = Date.now();
Date.now = () => opened;
addEventListener("DOMContentLoaded", () => {
  const timer = setInterval(() => {
    if (!document.querySelector("input.mantine-NumberInput-input")) return;
    clearInterval(timer);
    setTimeout(() => {
      window.dispatchEvent(new KeyboardEvent("keydown", {code: "Space"}));
      Date.now = runningClock;
      const hint = document.createElement("div");
      hint.id = "flight-hint";
      hint.textContent = "\\u25b6 or the space bar flies along the camera's path";
      document.body.append(hint);
      for (const event of ["keydown", "pointerdown"]) addEventListener(event, () => hint.remove());
    }, 500);
  }, 20);
});
</script>
"""


def record_flight(
    server: viser.ViserServer,
    serializer: Any,
    cameras: Cameras,
    look_distance: float,
    hidden: str,
) -> None:
    """Appends to a recording of the scene the view of a camera that goes along an unbatched path.

    look_distance: how far ahead the point lies that the page's camera looks at and turns around when it is
        stopped [scene units].
    hidden: name of what is in the way, the drawing of the path itself, and not shown during the flight.
    """
    from viser import _messages as messages

    num_frames = round(FLIGHT_SECONDS * FPS)
    times = torch.linspace(0, cameras.num_views - 1, num_frames, dtype=torch.float64)
    flight = interpolate_cameras(cameras.to(torch.float64), times, positions="cubic")
    send = server._websock_server.queue_message
    serializer.insert_sleep(LEAD_SECONDS)
    send(messages.SetSceneNodeVisibilityMessage(hidden, False))
    for transform, intrinsics in zip(flight.camera_to_world, flight.intrinsics, strict=True):
        centre, (_, down, forward) = transform[:3, 3], transform[:3, :3].T
        fov = 2 * math.atan(0.5 * cameras.height / float(intrinsics[1, 1]))
        send(messages.SetCameraLookAtMessage(_tuple(centre + look_distance * forward)))
        send(messages.SetCameraUpDirectionMessage(_tuple(-down)))
        send(messages.SetCameraPositionMessage(_tuple(centre)))
        send(messages.SetCameraFovMessage(fov))
        serializer.insert_sleep(1 / FPS)
    serializer.insert_sleep(REST_SECONDS)
    send(messages.SetSceneNodeVisibilityMessage(hidden, True))


def paused_at_first(page: str) -> str:
    """The page, stopped before its flight starts, with a hint how to start it."""
    assert "</head>" in page
    return page.replace("</head>", f"{PAUSE_AT_FIRST}</head>", 1)


def _tuple(vector: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z
