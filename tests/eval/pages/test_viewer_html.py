"""The viewer page holds the scene itself: what it carries is decoded and compared."""

from __future__ import annotations

import base64
import re

import msgspec
import numpy as np
import pytest
import torch
import zstandard

from data.cameras import Cameras, intrinsics_from_fov
from eval.pages.viewer_html import MIN_OPACITY, write_viewer
from models.gaussians import Gaussians, quat_to_matrix


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    """200 Gaussians of very different sizes, 20 of them almost transparent."""
    generator = torch.Generator().manual_seed(0)
    opacities = torch.full((200,), 0.8)
    opacities[:20] = MIN_OPACITY / 2
    return Gaussians(
        means=torch.randn(200, 3, generator=generator) + torch.tensor([0.0, 0.0, 4.0]),
        quats=torch.nn.functional.normalize(torch.randn(200, 4, generator=generator), dim=-1),
        scales=10 ** (-3 + 2 * torch.rand(200, 3, generator=generator)),
        opacities=opacities,
        colors=torch.rand(200, 3, generator=generator),
    )


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    to_world = torch.eye(4).repeat(9, 1, 1)
    to_world[:, 0, 3] = torch.linspace(0, 0.4, 9)
    return Cameras.from_camera_to_world(
        to_world, intrinsics_from_fov(50.0, 32, 48).expand(9, 3, 3), 32, 48
    )


@pytest.fixture(scope="module")
def page(gaussians, cameras, tmp_path_factory):
    """The page's text, the messages inside it, and its binary buffers."""
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    assert write_viewer(path, gaussians, cameras) == 180
    text = path.read_text()
    data = base64.b64decode(re.search(r'__VISER_EMBED_DATA__="([^"]+)"', text)[1])
    size = int.from_bytes(data[:8], "little")
    inner = zstandard.ZstdDecompressor().decompress(data[8:], max_output_size=size)
    length = int.from_bytes(inner[:8], "little")
    content = msgspec.msgpack.decode(inner[8 : 8 + length])
    return text, content["messages"], inner[8 + length :]


def messages_of(page, kind: str) -> list[dict]:
    """Those of the resting scene, before the flight."""
    return [message for time, message in page[1] if message["type"] == kind and time == 0]


def test_it_carries_every_visible_gaussian_where_it_is(page, gaussians):
    splats = messages_of(page, "GaussianSplatsMessage")[0]
    tail = page[2]
    kept = gaussians.prune(MIN_OPACITY)
    zoom = 1 / splats["props"]["scale"]
    expected = (kept.means * zoom).numpy().astype(np.float32)
    # The splats are rows of 32 bytes: centre, 4 bytes for the viewer, covariance in half floats, colour.
    start = tail.find(expected[0].tobytes())
    assert start >= 0, "the first centre is nowhere in the page"
    rows = np.frombuffer(tail, np.uint8, 180 * 32, start).reshape(180, 32)
    centres = np.ascontiguousarray(rows[:, :12]).view(np.float32)
    assert np.allclose(centres, expected, rtol=1e-5)
    covariance = np.ascontiguousarray(rows[:, 16:28]).view(np.float16).astype(np.float64)
    axes = quat_to_matrix(kept.quats.double()) * kept.scales.double()[:, None, :]
    true = (axes @ axes.mT).numpy()[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    assert np.abs(covariance / zoom**2 - true).max() < 1e-3 * np.abs(true).max()
    smallest = kept.scales.max(dim=1).values.argmin()
    found = covariance[smallest] / zoom**2
    assert np.abs(found - true[smallest]).max() < 0.02 * np.abs(true[smallest]).max()
    colours = rows[:, 28:31] / 255
    assert np.abs(colours - kept.colors.numpy()).max() < 0.005


def test_up_is_minus_y_and_it_opens_behind_the_middle_camera(page, cameras):
    position = messages_of(page, "SetCameraPositionMessage")[-1]["position"]
    target = messages_of(page, "SetCameraLookAtMessage")[-1]["look_at"]
    assert position[0] == pytest.approx(0.2, abs=1e-6) == target[0]
    assert position[2] < 0 < target[2] and position[1] < 0
    up = [m for m in messages_of(page, "SetOrientationMessage") if m["name"] == ""]
    w, x, y, z = up[-1]["wxyz"]
    turned = quat_to_matrix(torch.tensor([w, x, y, z]).float())
    # The browser's own up (three.js) is +y: the scene's orientation takes our up, -y, there.
    assert torch.allclose(turned[:, 1], torch.tensor([0.0, -1.0, 0.0]), atol=1e-5)


def test_it_shows_the_path_and_loads_nothing(page):
    assert messages_of(page, "CameraFrustumMessage") and messages_of(page, "LineSegmentsMessage")
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="https?:', page[0])


def test_it_flies_along_the_path_when_its_play_button_is_pressed(page, cameras):
    """The messages carry the path, even in time; the page is stopped before the first of them."""
    flight = [(time, message) for time, message in page[1] if time > 0]
    places = [(t, m["position"]) for t, m in flight if m["type"] == "SetCameraPositionMessage"]
    assert len(places) == 150 and not any(m.get("initial") for _, m in flight)
    times, positions = np.array([t for t, _ in places]), np.array([p for _, p in places])
    assert np.allclose(np.diff(times), 1 / 30)
    assert np.allclose(positions[[0, -1]], cameras.positions[[0, -1]].numpy(), atol=1e-6)
    assert np.allclose(positions[:, 0], np.linspace(0, 0.4, 150), atol=1e-6)
    targets = np.array([m["look_at"] for _, m in flight if m["type"] == "SetCameraLookAtMessage"])
    ahead = targets - positions
    assert np.allclose(ahead[:, :2], 0, atol=1e-6) and bool((ahead[:, 2] > 1).all())
    ups = [m["position"] for _, m in flight if m["type"] == "SetCameraUpDirectionMessage"]
    assert np.allclose(ups, [0, -1, 0], atol=1e-6)
    fovs = [m["fov"] for _, m in flight if m["type"] == "SetCameraFovMessage"]
    assert np.degrees(fovs) == pytest.approx([50.0] * 150, abs=1e-4)
    shown = [m["visible"] for _, m in flight if m["type"] == "SetSceneNodeVisibilityMessage"]
    assert shown == [False, True]  # of the drawn path, which would be in the way
    head = page[0][: page[0].index("</head>")]
    assert 'KeyboardEvent("keydown", {code: "Space"})' in head


def test_without_a_path_there_is_no_flight(gaussians, cameras, tmp_path):
    for given in (None, cameras.select(0)):
        write_viewer(tmp_path / "viewer.html", gaussians, given)
        assert "flight-hint" not in (tmp_path / "viewer.html").read_text()


def test_it_writes_nothing_to_the_terminal(gaussians, tmp_path, capsys):
    write_viewer(tmp_path / "viewer.html", gaussians)
    assert capsys.readouterr().out == ""
