"""The `view` command: a scene in the browser, from a local server."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from configs.errors import EXIT_DONE, run_command

DESCRIPTION = """\
Shows a scene of 3D Gaussians (PLY or SPZ) in the browser. Ctrl+C stops it.

  ./launch.sh view runs/demo/scene.ply
  ./launch.sh view scene.ply --port 9000 --host 0.0.0.0     # reachable from other machines
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code. See DESCRIPTION."""
    parser = argparse.ArgumentParser(
        prog="launch.sh view",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scene", type=Path, help="3DGS PLY or SPZ file")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: %(default)s, this machine only"
    )
    parser.add_argument("--seconds", type=float, help="stop after so long (default: until Ctrl+C)")
    args = parser.parse_args(argv)

    from eval.pages.viewer_html import add_scene, start_server
    from models.scenes.files import load_scene

    gaussians = load_scene(args.scene)
    server = start_server(args.port, args.host)
    try:
        add_scene(server, gaussians)
        address = f"http://{args.host}:{server.get_port()}"
        print(f"{args.scene}: {gaussians.num_gaussians:,} Gaussians at {address} (Ctrl+C stops)")
        _wait(args.seconds)
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
    return EXIT_DONE


def _wait(seconds: float | None) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        time.sleep(0.1 if seconds is not None else 1.0)


if __name__ == "__main__":
    run_command(main)
