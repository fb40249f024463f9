from __future__ import annotations

import pytest
import torch

from configs.errors import UserError
from eval.images import metric_weights
from eval.images.metric_weights import WeightsFile, find_weights
from eval.scores.measured import NotAvailable
from models.published_weights import INCEPTION, file_name, file_sha256


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The path of Inception's weights in an empty cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "hub" / "checkpoints" / file_name(INCEPTION)
    path.parent.mkdir(parents=True)
    return path


def test_absent_weights_are_not_available_and_where_to_get_them_is_said(cached):
    found = find_weights(INCEPTION, None, "FID", "inception")
    assert isinstance(found, NotAvailable)
    assert INCEPTION in found.why and str(cached) in found.why and "inception=PATH" in found.why
    assert "\n" not in found.why


def test_weights_in_the_cache_must_be_the_published_ones(cached, monkeypatch):
    cached.write_bytes(b"half a download")
    found = find_weights(INCEPTION, None, "FID", "inception")
    assert isinstance(found, NotAvailable) and "damaged" in found.why and "6726825d" in found.why

    sha256 = file_sha256(cached)
    monkeypatch.setattr(metric_weights, "published_sha256", lambda address: sha256[:8])
    found = find_weights(INCEPTION, None, "FID", "inception")
    assert found == WeightsFile(cached, sha256, published=True)
    assert found.label == sha256[:16]


def test_a_named_file_is_taken_and_marked_where_it_is_another(cached, tmp_path):
    own = tmp_path / "mine.pth"
    own.write_bytes(b"mine")
    found = find_weights(INCEPTION, own, "FID", "inception")
    assert isinstance(found, WeightsFile) and not found.published
    assert found.label.endswith("(not the published weights)")
    with pytest.raises(UserError, match="inception: .*nowhere.pth: no such file.*FID"):
        find_weights(INCEPTION, tmp_path / "nowhere.pth", "FID", "inception")
