"""A picture of a camera path: pyramids over the scene, from above, from the side and from behind.

The three panels share one scale, in scene units, and the axes of the path's first camera. What is far from
the path lies outside of them: it is the path that has to be legible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.cameras import Cameras
from data.durable_files import write_durably
from eval.pages.pictures import png_bytes
from models.gaussians import Gaussians
from models.scenes.stored import colors_of, harmonics_of

RIGHT, UP, FORWARD = 0, 1, 2
AXES = ("right", "up", "forward")
PANELS = (
    ("from above", RIGHT, FORWARD),
    ("from the side", FORWARD, UP),
    ("from behind", RIGHT, UP),
)
"""Title, and which axes point right and up."""

SIDE, LEFT, GAP, TOP, BOTTOM = 430, 58, 70, 88, 56
"""Of a panel's square and of what is around the panels, in pixels."""
SMOOTH = 3
"""The picture is drawn so many times larger and then reduced."""
MAX_PYRAMIDS, MAX_POINTS = 9, 60_000
MIN_OPACITY = 0.1
START, END = np.array([24.0, 100, 190]), np.array([214.0, 52, 36])
PAPER, GRID, EDGE, TEXT = "white", "#ebebee", "#8a8a94", "#2b2b33"
POINT_COLOUR = 0.5
PALENESS = 0.45
"""Share of paper in a point's colour, so that the path stands out."""
LEAST_EXTENT, AIR = 1.0, 1.3
"""What is shown at least [scene units], and how much wider than the path a panel is."""
PYRAMID_DEPTH = 0.085
"""Of a panel's side."""
POINT_SIZE = 2
LABEL_SIZE, LABEL_DISTANCES = (46, 22), (26, 42, 60)
"""Of the words at the ends of the path, in pixels."""

Points = Float[np.ndarray, "n 3"]
"""Right, up, forward of the path's first camera [scene units]."""
Color = tuple[int, int, int]


def write_path_picture(
    path: Path, cameras: Cameras, scene: Gaussians | Tensor | None = None, title: str = ""
) -> None:
    """Writes `draw_path`'s picture as PNG; raises UserError where the disk is full or not writable."""
    write_durably(path, png_bytes(draw_path(cameras, scene, title)))


def draw_path(
    cameras: Cameras, scene: Gaussians | Tensor | None = None, title: str = ""
) -> Image.Image:
    """An unbatched path from above, from the side and from behind.

    scene: Gaussians or points `[n 3]` in the cameras' world, drawn pale behind the path.

    Every view is a dot on a line from blue (start) to red (end); up to `MAX_PYRAMIDS` of them, the first and
    the last among them, are pyramids with their true opening angles and a flag on their upper side.
    """
    path = cameras.to(torch.float64).to("cpu")
    points, colors = _scene_points(scene, path.world_to_camera[0])
    local = path.relative_to(0)
    places = _upright(local.positions.numpy())
    centre, extent = _shown(places)
    width = LEFT + len(PANELS) * (SIDE + GAP) - GAP // 2
    picture = Image.new("RGB", (width * SMOOTH, (TOP + SIDE + BOTTOM) * SMOOTH), PAPER)
    panels = [
        _Panel(LEFT + i * (SIDE + GAP), TOP, across, along, centre, extent)
        for i, (_, across, along) in enumerate(PANELS)
    ]
    pyramids = _pyramids(local, PYRAMID_DEPTH * extent)
    for panel in panels:
        panel.draw_grid(picture)
        panel.draw_points(picture, points, colors)
        panel.draw_path(picture, places, pyramids)
    picture = picture.resize(
        (picture.width // SMOOTH, picture.height // SMOOTH), Image.Resampling.BOX
    )
    for panel, (name, _, _) in zip(panels, PANELS, strict=True):
        panel.write(picture, name)
        panel.mark_ends(picture, places, pyramids)
    draw = ImageDraw.Draw(picture)
    draw.text((LEFT, 22), title or "camera path", fill=TEXT, font=_font(19), anchor="lm")
    draw.text((LEFT, 46), path_summary(path), fill=EDGE, font=_font(14), anchor="lm")
    return picture


def path_summary(cameras: Cameras) -> str:
    """One line: views, length, the turn from start to end, and the field of view where it changes."""
    steps = cameras.positions.diff(dim=0).norm(dim=-1)
    apart = float((cameras.positions[-1] - cameras.positions[0]).norm())
    turn = cameras.world_to_camera[-1, :3, :3] @ cameras.world_to_camera[0, :3, :3].mT
    angle = math.degrees(math.acos(min(1.0, max(-1.0, (float(turn.trace()) - 1) / 2))))
    length = float(steps.sum())
    parts = [f"{cameras.num_views} views"]
    parts.append(
        f"{length:.2f} scene units long, ends {apart:.2f} from its start"
        if length > 0.005
        else "stays where it is"
    )
    parts.append(f"turned by {angle:.0f}°" if angle >= 0.5 else "not turned")
    fov = [math.degrees(2 * math.atan(cameras.height / 2 / f)) for f in
           cameras.intrinsics[[0, -1], 1, 1].tolist()]  # fmt: skip
    if abs(fov[1] - fov[0]) > 0.05:
        parts.append(f"field of view {fov[0]:.0f}° to {fov[1]:.0f}°")
    return "  ·  ".join(parts)


@dataclass(frozen=True)
class _Panel:
    """One half: where its square is in the picture [px], which axes it shows, and of what part of the world."""

    left: int
    top: int
    across: int
    along: int
    centre: Float[np.ndarray, " 3"]
    extent: float

    def pixels(
        self, points: Float[np.ndarray, "*shape 3"], scale: int = 1
    ) -> Float[np.ndarray, "*shape 2"]:
        """Where points are in the picture, or in one `scale` times as large."""
        x = (points[..., self.across] - self.centre[self.across]) / self.extent + 0.5
        y = 0.5 - (points[..., self.along] - self.centre[self.along]) / self.extent
        return np.stack([self.left + SIDE * x, self.top + SIDE * y], axis=-1) * scale

    def ticks(self, axis: int) -> list[float]:
        """Round numbers along an axis, four to nine of them."""
        rough = self.extent / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        first = math.ceil((self.centre[axis] - self.extent / 2) / step)
        last = math.floor((self.centre[axis] + self.extent / 2) / step)
        return [step * i for i in range(first, last + 1)]

    def draw_grid(self, picture: Image.Image) -> None:
        draw = ImageDraw.Draw(picture)
        for axis in (self.across, self.along):
            for value in self.ticks(axis):
                ends = np.tile(self.centre, (2, 1))
                ends[:, axis] = value
                other = self.along if axis == self.across else self.across
                ends[:, other] += np.array([-0.5, 0.5]) * self.extent
                line = [tuple(p) for p in self.pixels(ends, SMOOTH)]
                zero = abs(value) < 1e-9
                draw.line(line, fill="#c4c4cc" if zero else GRID, width=SMOOTH * (2 if zero else 1))
        corner = (self.left * SMOOTH, self.top * SMOOTH)
        opposite = ((self.left + SIDE) * SMOOTH, (self.top + SIDE) * SMOOTH)
        draw.rectangle((corner, opposite), outline=EDGE, width=SMOOTH)

    def draw_points(
        self, picture: Image.Image, points: Points, colors: Float[np.ndarray, "n 3"]
    ) -> None:
        """The scene, what is nearer to the viewer over what is further."""
        hidden = 3 - self.across - self.along
        # Nearest is the highest from above, the rightmost from the side, the last from behind.
        order = np.argsort(points[:, hidden] * (-1 if hidden == FORWARD else 1))
        spots = self.pixels(points[order], SMOOTH).round().astype(int)
        low = np.array([self.left, self.top]) * SMOOTH
        high = low + (SIDE - POINT_SIZE) * SMOOTH
        inside = ((spots > low) & (spots < high)).all(axis=1)
        spots, tones = spots[inside], colors[order][inside]
        pale = (255 * (PALENESS + (1 - PALENESS) * tones)).astype(np.uint8)
        canvas = np.array(picture)
        for dx in range(POINT_SIZE * SMOOTH):
            for dy in range(POINT_SIZE * SMOOTH):
                canvas[spots[:, 1] + dy, spots[:, 0] + dx] = pale
        picture.paste(Image.fromarray(canvas))

    def draw_path(
        self, picture: Image.Image, places: Points, pyramids: dict[int, Float[np.ndarray, "8 3"]]
    ) -> None:
        last = len(places) - 1
        draw = ImageDraw.Draw(picture, "RGBA")
        for view, corners in sorted(pyramids.items(), key=lambda item: item[0] in (0, last)):
            color = _color(view / max(1, last))
            is_end = view in (0, last)
            apex, *base, flag_left, flag, flag_right = (
                tuple(p) for p in self.pixels(corners, SMOOTH)
            )
            for one, two in zip(base, base[1:] + base[:1], strict=True):
                if is_end:
                    draw.polygon([apex, one, two], fill=(*color, 26))
            width = SMOOTH * 2 if is_end else SMOOTH
            for one, two in zip(base, base[1:] + base[:1], strict=True):
                draw.line([apex, one], fill=(*color, 255), width=width)
                draw.line([one, two], fill=(*color, 255), width=width)
            draw.polygon([flag_left, flag, flag_right], fill=(*color, 255))
        spots = self.pixels(places, SMOOTH)
        for view in range(last):
            line = [tuple(spots[view]), tuple(spots[view + 1])]
            draw.line(line, fill=(*_color(view / max(1, last)), 255), width=3 * SMOOTH)
        for view, (x, y) in enumerate(spots):
            radius = (5.5 if view in (0, last) else 2.6) * SMOOTH
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=(*_color(view / max(1, last)), 255))

    def write(self, picture: Image.Image, name: str) -> None:
        """The panel's title, and the numbers and names of its axes."""
        draw = ImageDraw.Draw(picture)
        draw.text((self.left, self.top - 14), name, fill=TEXT, font=_font(15), anchor="lm")
        for value in self.ticks(self.across):
            x = self.pixels(_at(self.centre, self.across, value))[0]
            place = (x, self.top + SIDE + 12)
            draw.text(place, f"{value:.6g}", fill=EDGE, font=_font(13), anchor="mm")
        for value in self.ticks(self.along):
            y = self.pixels(_at(self.centre, self.along, value))[1]
            place = (self.left - 8, y)
            draw.text(place, f"{value:.6g}", fill=EDGE, font=_font(13), anchor="rm")
        right = (self.left + SIDE, self.top + SIDE + 34)
        draw.text(right, f"{AXES[self.across]} [scene units]", TEXT, _font(14), anchor="rm")
        draw.text((self.left + 8, self.top + 14), AXES[self.along], TEXT, _font(14), anchor="lm")

    def mark_ends(
        self, picture: Image.Image, places: Points, pyramids: dict[int, Float[np.ndarray, "8 3"]]
    ) -> None:
        """ "start" and "end" beside the ends of the path, where they cover the least of what is drawn."""
        draw = ImageDraw.Draw(picture)
        # A few spots on every line stand for what must not be covered.
        shares = np.linspace(0, 1, 12)[:, None, None]
        lines = [np.stack([places[:-1], places[1:]])]
        for apex, *base in (corners[:5] for corners in pyramids.values()):
            lines.append(np.stack([[apex] * 4 + base, base + base[1:] + base[:1]]))
        starts, ends = np.concatenate(lines, axis=1)
        taken = self.pixels((starts + shares * (ends - starts)).reshape(-1, 3))
        angles = np.radians([90, 0, 180, 270, 45, 135, 225, 315])
        directions = np.stack([1.3 * np.cos(angles), np.sin(angles)], axis=1)
        around = np.concatenate([directions * distance for distance in LABEL_DISTANCES])
        box = np.array(LABEL_SIZE) / 2
        for text, place, share in (("start", places[0], 0.0), ("end", places[-1], 1.0)):
            candidates = self.pixels(place) + around
            covered = (np.abs(candidates[:, None] - taken) < box).all(axis=2).sum(axis=1)
            middle = np.array([self.left, self.top]) + SIDE / 2
            outside = (np.abs(candidates - middle) > SIDE / 2 - box).any(axis=1)
            x, y = candidates[(covered + len(taken) * outside).argmin()].tolist()
            font = _font(16)
            draw.text((x, y), text, _color(share), font, "mm", stroke_width=3, stroke_fill=PAPER)
            # The other word must not lie on this one.
            taken = np.concatenate(
                [taken, np.tile([[x, y], [x - box[0], y], [x + box[0], y]], (50, 1))]
            )


def _scene_points(
    scene: Gaussians | Tensor | None, to_first: Float[Tensor, "4 4"]
) -> tuple[Points, Float[np.ndarray, "n 3"]]:
    """At most `MAX_POINTS` of a scene's points in the first camera's axes, and their RGB."""
    if scene is None:
        return np.zeros((0, 3)), np.zeros((0, 3))
    if isinstance(scene, Gaussians):
        scene = scene.prune(MIN_OPACITY)
        points, colors = scene.means, colors_of(harmonics_of(scene)[:, :1]).clamp(0, 1)
    else:
        points, colors = scene, torch.full_like(scene, POINT_COLOUR)
    step = max(1, math.ceil(len(points) / MAX_POINTS))
    points = points[::step].double().cpu() @ to_first[:3, :3].mT + to_first[:3, 3]
    return _upright(points.numpy(force=True)), colors[::step].double().numpy(force=True)


def _upright(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Right, up, forward of points in a camera's axes."""
    return points * [1.0, -1.0, 1.0]


def _shown(places: Points) -> tuple[Float[np.ndarray, " 3"], float]:
    """Middle and side of the cube that is shown: the path, and what its first camera looks at."""
    seen = np.concatenate([places, [[0.0, 0.0, LEAST_EXTENT]]])
    low, high = seen.min(axis=0), seen.max(axis=0)
    return (low + high) / 2, AIR * float((high - low).max())


def _pyramids(local: Cameras, depth: float) -> dict[int, Float[np.ndarray, "8 3"]]:
    """For some views, apex, four corners and the three of a flag on the upper side, upright."""
    last = local.num_views - 1
    views = sorted({round(i * last / max(1, MAX_PYRAMIDS - 1)) for i in range(MAX_PYRAMIDS)})
    h, w = float(local.height), float(local.width)
    pixels = torch.tensor(
        [[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1],
         [0.35 * w, 0, 1], [0.5 * w, -0.3 * h, 1], [0.65 * w, 0, 1]],
        dtype=torch.float64,
    )  # fmt: skip
    drawn = {}
    for view in views:
        corners = pixels @ torch.linalg.inv(local.intrinsics[view]).mT * depth
        corners = torch.cat([torch.zeros(1, 3, dtype=torch.float64), corners])
        transform = local.camera_to_world[view]
        drawn[view] = _upright((corners @ transform[:3, :3].mT + transform[:3, 3]).numpy())
    return drawn


def _color(share: float) -> Color:
    r, g, b = (START + share * (END - START)).round().astype(int).tolist()
    return r, g, b


def _at(point: Float[np.ndarray, " 3"], axis: int, value: float) -> Float[np.ndarray, " 3"]:
    moved = point.copy()
    moved[axis] = value
    return moved


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
