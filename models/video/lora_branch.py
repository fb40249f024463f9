"""The LoRA branch: camera tokens fused into the visual ones, and low-rank updates of the base's layers.

Wonderland, sec. 3.2. The updates run inside the base, put there by PEFT, and are owned here: `LoraLayers` holds
the very modules that PEFT's layers call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.torchvision_compat import mend_torchvision
from models.video.camera_encoder import CameraEncoder
from models.video.control_branch import zero_linear

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel
    from peft.tuners.lora import LoraLayer

ADAPTER = "camera"


class FusionBranch(nn.Module):
    """Replaces visual tokens by a linear map of (visual, camera) tokens that starts as (identity, zero).

    The paper's one map from 2d to d is kept as its two halves: the camera's half depends on nothing that
    changes while a video is denoised.
    """

    def __init__(self, encoder: CameraEncoder, token_width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.visual = nn.Linear(token_width, token_width)
        nn.init.eye_(self.visual.weight)
        nn.init.zeros_(self.visual.bias)
        self.camera = zero_linear(token_width, bias=False)

    def encode(self, rays: Float[Tensor, "b t 6 h w"]) -> Float[Tensor, "b l d"]:
        """The camera's half of the fused tokens."""
        return self.camera(self.encoder(rays))

    def forward(
        self, visual: Float[Tensor, "b l d"], cameras: Float[Tensor, "b l d"]
    ) -> Float[Tensor, "b l d"]:
        return self.visual(visual) + cameras


class LoraLayers(nn.Module):
    """Low-rank updates for the layers of one transformer; names in its state are diffusers' LoRA names."""

    def __init__(self, transformer: nn.Module, rank: int, targets: tuple[str, ...]) -> None:
        """transformer: the base, of which the shapes are read. Updates start at zero."""
        super().__init__()
        self.rank, self.targets = rank, targets
        self.names = [
            name
            for name, module in transformer.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(tuple(f".{t}" for t in targets))
        ]
        for name in self.names:
            layer = transformer.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            down = nn.Linear(layer.in_features, rank, bias=False)
            up = nn.Linear(rank, layer.out_features, bias=False)
            nn.init.zeros_(up.weight)
            place_module(self, f"transformer.{name}.lora_A", down)
            place_module(self, f"transformer.{name}.lora_B", up)
        self.switched: list[LoraLayer] = []
        self.mask: Bool[Tensor, " b"] | None = None

    def inject(self, transformer: CogVideoXTransformer3DModel) -> list[RemovableHandle]:
        """Puts the updates into the transformer, switched off; returns the hooks that mask samples."""
        mend_torchvision()
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        # At alpha = rank the update is unscaled, which is what diffusers assumes where a file doesn't say.
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=self.names)
        # diffusers' `add_adapter` would first make weights of its own, of this size again.
        inject_adapter_in_model(config, transformer, ADAPTER, low_cpu_mem_usage=True)
        transformer._hf_peft_config_loaded = True
        handles = []
        for name in self.names:
            layer = transformer.get_submodule(name)
            assert isinstance(layer, LoraLayer)
            down = self.get_submodule(f"transformer.{name}.lora_A")
            # PEFT would cast to the update's dtype what autocast casts back at once.
            layer.cast_input_dtype_enabled = False
            layer.lora_A[ADAPTER] = down
            layer.lora_B[ADAPTER] = self.get_submodule(f"transformer.{name}.lora_B")
            self.switched.append(layer)
            handles.append(down.register_forward_hook(self._masked))
        self.switch(False)
        return handles

    def remove(self, transformer: CogVideoXTransformer3DModel) -> None:
        """Takes the updates out again; they stay here with their weights."""
        transformer.unload_lora()
        del transformer._hf_peft_config_loaded  # the class's own says that there is none
        self.switched.clear()

    def switch(self, on: bool, mask: Bool[Tensor, " b"] | None = None) -> None:
        """Turns the updates on, for the samples in `mask`, or off."""
        self.mask = mask
        for layer in self.switched:
            # The public way, `enable_adapters`, would also turn requires_grad off and on.
            layer._disable_adapters = not on

    def _masked(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        return None if self.mask is None else output * self.mask[:, None, None].to(output.dtype)


def place_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers `module` below `root` at a dotted path, with empty modules on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
