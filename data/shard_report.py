"""What a shard folder holds, as a table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.shard_index import ShardIndex
from data.work_share import WorkShare


def report(folder: Path, account: dict[str, str]) -> None:
    """Prints a table of what the shard folder holds, followed by the non-empty rows of `account`."""
    content = ShardIndex.load(folder).content
    samples = [sample for shard in content.shards for sample in shard.samples]
    num_path = sum(sample.num_path_frames for sample in samples)
    num_extra = sum(sample.num_frames for sample in samples) - num_path
    num_bytes = sum(shard.bytes for shard in content.shards)
    table = Table("shards", str(folder), title=None)
    for name, value in {
        "clips": f"{content.num_clips} of {content.height}x{content.width}",
        "frames": f"{num_path} along paths, {num_extra} extra views",
        "files": f"{len(content.shards)} shards, {num_bytes / 1e6:.1f} MB",
        **account,
    }.items():
        if value:
            table.add_row(name, value)
    Console().print(table)


def report_share(folder: Path, share: WorkShare, made: str) -> None:
    """Says that this process's share is done, while others are still at work on theirs."""
    print(
        f"{folder}: {share.describe()} has done its share ({made}); the last rank to end finishes the folder."
        " If one fails, start it again"
    )
