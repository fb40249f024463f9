from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.errors import UserError
from eval.scores.protocols import FrameProtocol, ProtocolName, find_protocol


def test_wonderland_takes_the_published_frames():
    protocol = find_protocol("wonderland")
    assert list(protocol.similarity_views(49, "clip")) == list(range(14))
    assert list(protocol.camera_views(49, "clip")) == list(range(16))
    assert list(protocol.set_views(49, "clip")) == list(range(49))
    assert list(find_protocol("all").similarity_views(49, "clip")) == list(range(49))


def test_a_clip_that_is_too_short_is_refused():
    protocol = find_protocol("wonderland")
    assert len(protocol.similarity_views(14, "clip")) == 14
    with pytest.raises(
        UserError, match="my_clip: 13 frames, .* first 14 for similarity; .* protocol=all"
    ):
        protocol.similarity_views(13, "my_clip")
    with pytest.raises(UserError, match="first 16 for camera error"):
        protocol.camera_views(15, "clip")


def test_a_recipe_may_name_a_preset_or_its_own_counts():
    value = TypeAdapter(ProtocolName | FrameProtocol)
    assert find_protocol(value.validate_python("wonderland")).camera_frames == 16
    own = find_protocol(value.validate_python({"similarity_frames": 5}))
    assert (own.similarity_frames, own.camera_frames) == (5, None)
    for wrong in ("wonderful", {"similarity_frames": 1}, {"frames": 5}):
        with pytest.raises(ValidationError):
            value.validate_python(wrong)
