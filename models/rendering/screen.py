"""What a render tells of each Gaussian on the screen: how large it is drawn, and where it wants to go.

Density control (3DGS, sec. 5) looks at the loss' gradients by the 2-D centres, which the gradients by the centres in
the world do not tell: those also hold what moving does to a splat's shape.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class ScreenTrace:
    """Handed to `render`, which fills it; unbatched scenes alone.

    radii: half the longer side of the box around each splat [px], 0 where a view does not draw it.
    gradients: of the loss by the splats' centres [1/px], once `backward` has run.
    """

    def __init__(self) -> None:
        self.radii: Float[Tensor, "v n"] = torch.empty(0, 0)
        self.gradients: Float[Tensor, "v n 2"] = torch.empty(0, 0, 2)

    def begin(self, num_views: int, num_gaussians: int, device: torch.device) -> None:
        """Forgets what was recorded and makes room."""
        self.radii = torch.zeros(num_views, num_gaussians, device=device)
        self.gradients = torch.zeros(num_views, num_gaussians, 2, device=device)

    def record_radii(self, first_view: int, radii: Float[Tensor, "some n"]) -> None:
        """The radii of consecutive views."""
        self.radii[first_view : first_view + len(radii)] = radii

    def record_gradients(self, first_view: int, gradients: Float[Tensor, "some n 2"]) -> None:
        """The gradients of consecutive views."""
        self.gradients[first_view : first_view + len(gradients)] = gradients
