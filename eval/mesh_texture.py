"""The part of `mesh` that a prior does: a texture drawn anew, and judged by what was held out of the scene's input."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import torch
from rich.console import Console

from configs.errors import UserError
from data.cameras import Cameras
from eval.generate_run import memory_explained
from eval.mesh_stages import MeshStages
from eval.named_prior import (
    NO_PRIOR,
    VIDEO_PRIOR,
    check_prior_options,
    depth_shown,
    memory_cures,
    open_prior,
)
from eval.pages.mesh_pictures import draw_pictures
from eval.pages.texture_outputs import TextureChange
from eval.reconstruction import BACKGROUND
from eval.scene_pictures import read_pictures
from eval.scene_source import CAMERAS_NAME, SceneSource
from models.meshing.extraction import Progress
from models.meshing.files import TexturedMesh
from models.meshing.texture_denoising import (
    DrawCameras,
    KnownPicture,
    TextureDenoiseConfig,
    denoise_texture,
)
from models.priors.interface import DiffusionPrior
from train.distillation.cameras import VIEWS_AT_ONCE, CameraSampler, CameraSamplerConfig
from train.distillation.evidence import (
    Evidence,
    EvidenceConfig,
    check_input,
    gather_evidence,
    psnr_of_held_out,
)
from train.randomness import derive_seed

PRIOR_OPTIONS = ("image", "prompt", "guidance", "noise", "rounds", "denoise_steps", "keep")
"""Of the command line, without effect where there is no prior; None where they were not given."""


@dataclass(frozen=True)
class TexturePrior:
    """A prior that draws textures anew, from where it looks at them, and what judges the outcome if anything can."""

    prior: DiffusionPrior
    draw_cameras: DrawCameras
    evidence: Evidence | None
    config: TextureDenoiseConfig

    def redraw(
        self,
        textured: TexturedMesh,
        args: argparse.Namespace,
        device: torch.device,
        tell: Progress,
        stages: MeshStages,
    ) -> TextureChange:
        """The texture before and after, and the one of them that is kept: the better, where that can be told.

        stages: has the rounds that are done already, and keeps those that are done here.
        """
        known = None
        if self.evidence is not None:
            camera = self.evidence.cameras.select(0)
            known = KnownPicture(self.evidence.frames[0], camera, self.evidence.shown[0])
        rounds_done, start = stages.drawn() or (0, textured.texture)

        def generator_of(number: int) -> torch.Generator:
            return torch.Generator().manual_seed(derive_seed("texture", args.seed, number))

        with memory_explained(memory_cures(args)):
            after = denoise_texture(
                replace(textured, texture=start),
                self.prior,
                self.draw_cameras,
                self.config,
                generator_of,
                background=BACKGROUND,
                known=known,
                device=device,
                progress=tell,
                rounds_done=rounds_done,
                on_round=stages.save_drawn,
            )
        held_out = None
        if self.evidence is not None:
            held_out = (self._held_out(textured), self._held_out(after))
        worse = held_out is not None and held_out[1] < held_out[0]
        kept = textured if worse and args.keep != "refined" else after
        return TextureChange(args.prior, self.config, textured, after, kept, held_out)

    def _held_out(self, textured: TexturedMesh) -> float:
        assert self.evidence is not None
        drawn = draw_pictures(textured, self.evidence.cameras).textured
        return psnr_of_held_out(drawn, self.evidence)


def open_texture_prior(
    args: argparse.Namespace,
    config: TextureDenoiseConfig,
    source: SceneSource,
    used: Cameras,
    device: torch.device,
    console: Console,
) -> TexturePrior | None:
    """What a command line of `mesh` asks for beyond the renders; None for --prior none.

    used: the views that the mesh is made from. Raises UserError for what is missing or does not fit.
    """
    if args.prior == NO_PRIOR:
        for name in PRIOR_OPTIONS:
            if getattr(args, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} has no effect without a prior that draws the texture anew; name one"
                    " with --prior, or leave it out"
                )
        return None
    check_prior_options(args)
    path, depth, evidence = source.cameras, 1.0, None
    if path is None and (args.prior == VIDEO_PRIOR or args.image is not None):
        raise UserError(
            f"{source.file} has no cameras beside it ({CAMERAS_NAME}), whose first is where its image was taken from;"
            " name a path file with --cameras"
        )
    if path is not None:
        scene = source.gaussians.to(device)
        depth = depth_shown(scene, path.select(0), console)
        if args.image is not None:
            evidence = _evidence(args, source, path)
            # Renders are compared on the scene's device.
            check_input(scene, evidence.to(device), BACKGROUND, str(args.image), str(source.file))
    image = None if evidence is None else evidence.frames[0]
    first = (used if path is None else path).select(0)
    prior = open_prior(args, image, first, depth, device)
    assert prior is not None
    return TexturePrior(prior, camera_source(prior, path, depth, used), evidence, config)


def camera_source(
    prior: DiffusionPrior, path: Cameras | None, depth: float, used: Cameras
) -> DrawCameras:
    """From where a prior looks: along the scene's path and a little beside it, or from the views that made the mesh.

    depth: of what the path's first view shows [scene units].
    """
    if prior.kind == "path":
        assert path is not None
        sampler = CameraSampler(path, depth, CameraSamplerConfig())
        return lambda generator: sampler.draw(prior, generator)
    count = prior.num_views or VIEWS_AT_ONCE

    def draw_some(generator: torch.Generator) -> Cameras:
        order = torch.randperm(used.num_views, generator=generator)
        chosen = used.select(order[:count])
        return chosen if prior.frame_size is None else chosen.resize(*prior.frame_size)

    return draw_some


def _evidence(args: argparse.Namespace, source: SceneSource, path: Cameras) -> Evidence:
    pictures = read_pictures(source, path, args.image)
    return gather_evidence(
        pictures.frames,
        path.select(list(range(len(pictures.frames)))),
        EvidenceConfig(),
        args.seed,
        pictures.judge_only,
    )
