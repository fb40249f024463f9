"""Takes the steps of a refinement, with previews and saved states, and stops when asked to."""

from __future__ import annotations

import signal

from rich.console import Console

from data.cameras import Cameras
from data.progress_bars import stage_bars
from eval.pages.pictures import png_bytes
from eval.pages.refine_outputs import preview
from eval.unfinished_folder import UnfinishedFolder
from models.gaussians import Gaussians
from train.distillation.refine import Refinement, RefineStep
from train.stopping import EXIT_REQUEUE, StopRequest

PREVIEWS = 10
"""How often a preview is renewed and the state saved in a run."""


def run_with_previews(
    refinement: Refinement, before: Gaussians, path: Cameras, folder: UnfinishedFolder
) -> list[RefineStep]:
    """Takes the steps that are left, with a progress bar, previews along `path`, and saved states.

    Ctrl-C and the signals that ask for an end are obeyed between two steps, after a save: then KeyboardInterrupt, or
    SystemExit with `EXIT_REQUEUE`, is raised. A second one acts at once.
    """
    steps: list[RefineStep] = []
    total = refinement.config.iterations
    every = max(1, total // PREVIEWS)

    def save() -> None:
        picture = preview(before, refinement.gaussians(), path, refinement.config.background)
        folder.save(refinement.state(), png_bytes(picture))

    with stage_bars() as progress, StopRequest() as stop:
        while not refinement.is_done and not stop.signalled:
            steps.append(refinement.step())
            progress("refining", refinement.num_steps, total)
            if refinement.num_steps % every == 0:
                save()
        if stop.signalled:
            save()
    if stop.signalled:
        Console(stderr=True).print(
            f"stopped at step {refinement.num_steps} of {total}; the same command goes on from there"
        )
        if stop.caught is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_REQUEUE)
    return steps
