"""Set-up shared by all tests: no network, and every shape in a signature checked at every call."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "data", "models", "train", "eval")
KERNELS = ("models.rendering.kernels",)
"""Modules of ours that import numba for others."""

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")


def imports_numba(source: str) -> bool:
    """Whether a module holds numba kernels: numba can't compile a function wrapped in a check."""
    for node in ast.parse(source).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name and (name.split(".")[0] == "numba" or name in KERNELS) for name in names):
            return True
    return False


def checked_modules() -> list[str]:
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if path.name != "__init__.py" and not imports_numba(path.read_text(encoding="utf-8"))
    ]


# It has to be here, before any test module imports ours.
install_import_hook(checked_modules(), "beartype.beartype")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none, whatever markers were asked for."""
    import torch

    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python handles it, also where a shell started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved image-to-scene pipeline of random weights: clips of 9 frames of 32x48, cameras that matter."""
    import torch

    from models.autoencoders.linear_codec import LinearCodec, LinearCodecConfig
    from models.lalrm import LaLRM, LaLRMConfig
    from models.pipeline import ImageToScenePipeline
    from models.video.base import VideoModelConfig, create_base
    from models.video.camera_branches import CameraBranches, CameraBranchesConfig
    from models.video.model import VideoModel
    from models.video.sampling import SamplingConfig

    folder = tmp_path_factory.mktemp("pipeline")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = LinearCodec(LinearCodecConfig(latent_channels=4))
        codec.fit(torch.rand(4, 9, 3, 32, 48))
        base = create_base(
            VideoModelConfig(
                latent_channels=4, heads=2, head_width=16, layers=2, time_width=16, text_width=8,
                text_tokens=3, num_frames=9, height=32, width=48, learned_positions=False,
            )
        )  # fmt: skip
        small = CameraBranchesConfig(control_blocks=1, lora_rank=2, encoder_width=8)
        branches = CameraBranches(small, base.transformer)
        for parameter in (*base.transformer.parameters(), *branches.parameters()):
            torch.nn.init.normal_(parameter, std=0.1)
        lalrm = LaLRM(LaLRMConfig(latent_channels=4, width=16, depth=1, heads=2))
        model = VideoModel(base, branches, train_base=False)
        pipeline = ImageToScenePipeline(codec, model, lalrm, sampling=SamplingConfig(steps=2))
        pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of random weights, as diffusers saves one."""
    import json

    import torch

    from models.torchvision_compat import mend_torchvision

    mend_torchvision()
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("stable_diffusion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=12, attention_head_dim=4,
        ).save_pretrained(folder / "unet")  # fmt: skip
        AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ).save_pretrained(folder / "vae")  # fmt: skip
        words = CLIPTextConfig(
            vocab_size=8, hidden_size=12, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=7, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        CLIPTextModel(words).save_pretrained(folder / "text_encoder")
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>", "ab</w>", "c</w>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def zero123(stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that is told by image and pose, of random weights; autoencoder and scheduler are the other's."""
    import shutil

    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("zero123")
    for part in ("vae", "scheduler"):
        shutil.copytree(stable_diffusion / part, folder / part)
    settings = UNet2DConditionModel.load_config(stable_diffusion / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel.from_config({**settings, "in_channels": 8}).save_pretrained(
            folder / "unet"
        )
        vision = CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            image_size=16, patch_size=8, projection_dim=6,
        )  # fmt: skip
        CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
        layer = torch.nn.Linear(10, 12)
    (folder / "cc_projection").mkdir()
    weights = {f"projection.{name}": value for name, value in layer.state_dict().items()}
    save_file(weights, folder / "cc_projection" / "diffusion_pytorch_model.safetensors")
    return folder
