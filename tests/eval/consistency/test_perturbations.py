"""Perturbations: as strong as they say, worse with each level, and only where they say."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from configs.errors import UserError
from eval.consistency.perturbations import PERTURBATIONS, displace, perturb, tone

STEADY = [name for name, p in PERTURBATIONS.items() if p.family != "consistent"]


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize("name", STEADY)
def test_each_level_changes_frames_more_than_the_one_before(clip, name):
    changes = [rms(perturb(clip, name, level).frames, clip.frames) for level in range(6)]
    assert changes[0] == 0
    assert all(before < after for before, after in pairwise(changes))


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_families_change_what_they_say(clip, name):
    changed = perturb(clip, name, len(PERTURBATIONS[name].strengths))
    family = PERTURBATIONS[name].family
    input_stays = torch.equal(changed.frames[0], clip.frames[0])
    others_stay = torch.equal(changed.frames[1:], clip.frames[1:])
    cameras_stay = torch.equal(changed.cameras.world_to_camera, clip.cameras.world_to_camera)
    assert changed.frames.shape == clip.frames.shape
    assert changed.frames.min() >= 0 and changed.frames.max() <= 1
    if family == "input":
        assert others_stay and cameras_stay and not input_stays
    elif family in ("inconsistent", "easy"):
        assert input_stays and cameras_stay and not others_stay
    else:
        assert not (input_stays and others_stay and cameras_stay)


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_draws_depend_on_seed_and_clip_alone(clip, name):
    first, again = perturb(clip, name, 1), perturb(clip, name, 1)
    assert torch.equal(first.frames, again.frames)
    if name not in ("rescaled", "mirrored", "blurred", "still"):
        assert not torch.equal(perturb(clip, name, 1, seed=1).frames, first.frames)


def test_displacement_looks_pixels_up_where_it_says():
    ramp = torch.linspace(0, 1, 48).expand(1, 3, 32, 48).contiguous()
    move = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    inner = displace(ramp, move)[..., 4:-6]
    assert torch.allclose(inner, ramp[..., 4:-6] + 2 / 47, atol=1e-4)
    assert torch.allclose(displace(ramp, 0 * move), ramp, atol=1e-5)


def test_shift_has_the_stated_length(clip):
    """A shift of 8% of a width is found again by trying all whole shifts of one frame."""
    strength = PERTURBATIONS["shift"].strengths[-1]
    changed = perturb(clip, "shift", 5)
    lengths = []
    for before, after in zip(clip.frames[1:], changed.frames[1:], strict=True):
        margin = 9
        middle = after[:, margin:-margin, margin:-margin]
        errors = {
            (dy, dx): float(
                (before.roll((-dy, -dx), (1, 2))[:, margin:-margin, margin:-margin] - middle)
                .square()
                .mean()
            )
            for dy in range(-margin, margin + 1)
            for dx in range(-margin, margin + 1)
        }
        dy, dx = min(errors, key=errors.__getitem__)
        lengths.append(dy**2 + dx**2)
    found = (sum(lengths) / len(lengths)) ** 0.5
    assert found == pytest.approx(strength * clip.cameras.width, abs=0.7)


def test_swapped_area_is_the_stated_share(clip):
    strength = PERTURBATIONS["swap"].strengths[-1]
    changed = (perturb(clip, "swap", 5).frames != clip.frames).any(dim=1)[1:]
    assert 0.5 * strength < float(changed.float().mean()) <= 1.1 * strength


def test_tone_curves_keep_black_and_white():
    frames = torch.tensor([0.0, 0.25, 1.0]).view(1, 3, 1, 1)
    assert torch.allclose(
        tone(frames, torch.full((1, 3, 1, 1), 2.0).log()).flatten(),
        torch.tensor([0.0, 0.0625, 1.0]),
    )


def test_standing_still_ends_at_the_input_view(clip):
    still = perturb(clip, "still", 5).frames
    assert torch.equal(still, clip.frames[:1].expand_as(still))


def test_a_rescaled_scene_keeps_depth_in_units_of_the_path(clip):
    strength = PERTURBATIONS["rescaled"].strengths[-1]
    changed = perturb(clip, "rescaled", 5)
    assert torch.allclose(changed.cameras.positions, strength * clip.cameras.positions, rtol=1e-5)
    assert torch.equal(changed.depth, strength * clip.depth)


def test_mistakes_are_told(clip):
    with pytest.raises(UserError, match="no perturbation 'wobble'; there are shift, warp"):
        perturb(clip, "wobble", 1)
    with pytest.raises(UserError, match="mirrored: level 2, expected 0 to 1"):
        perturb(clip, "mirrored", 2)
    with pytest.raises(UserError, match="one frame has nothing to perturb"):
        perturb(clip.select([0]), "shift", 1)
