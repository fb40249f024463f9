"""What the cases of a consistency trial show: ladders of falling scores, what changed nothing, and the claims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from scipy.stats import spearmanr

from eval.trials.claims import Row, unmeasured, verdict

LEAST_RHO = 0.95
"""Spearman correlation of score and severity that is claimed."""
SAME_DB = 0.5
"""A score that changes by less is taken as the same: about what another seed changes."""
MOST_SECONDS = 90.0

CLIP_NUMBERS = (
    "source",
    "psnr",
    "held_out_psnr",
    "input_psnr",
    "fitted_psnr",
    "gain_db",
    "copy_psnr",
    "overlap",
    "travel",
    "num_views",
    "size",
)


def summarise_trial(lines: Sequence[Row]) -> dict[str, Any]:
    """Tables and claims from a trial's lines, each with its `seconds`. Lines with an "error" are counted only."""
    rows = sorted((line for line in lines if "error" not in line), key=lambda row: row["clip"])
    tried = [row for row in rows if row["group"] == "ladder"]
    clean = {row["source"]: row for row in tried if row["kind"] == "clean"}
    tried = [row for row in tried if row["source"] in clean]
    found = {
        "clips": [_clip(row) for row in clean.values()],
        "ladders": _ladders(tried, clean),
        "consistent": [_change(row, clean) for row in tried if row["family"] == "consistent"],
        "easy": [_change(row, clean) for row in tried if row["family"] == "easy"],
        "ranking": _ranking([row for row in rows if row["group"] == "ranking"]),
    }
    return {"claims": _claims(found), **found}


def _clip(row: Row) -> Row:
    return {name: row[name] for name in CLIP_NUMBERS}


def _ladders(tried: Sequence[Row], clean: dict[str, Row]) -> list[Row]:
    """Per clip and perturbation: the score at each level from 0, and whether it falls."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in tried:
        if row["family"] in ("inconsistent", "input"):
            groups.setdefault((row["source"], row["kind"]), []).append(row)
    found = []
    for (source, kind), steps in groups.items():
        rows = [clean[source], *steps]
        levels = [row["level"] for row in rows]
        scores = [row["psnr"] for row in rows]
        of_input = [row["input_psnr"] for row in rows]
        ladder = {
            "source": source,
            "kind": kind,
            "family": steps[0]["family"],
            "levels": levels,
            "squared_change": [row["squared_change"] for row in rows],
            "psnr": scores,
            "rho": _falling_rho(levels, scores),
            "falling_steps": _falling_steps(scores),
            "first_seed_falling_steps": _falling_steps([row["seed_psnr"][0] for row in rows]),
            "steps": len(scores) - 1,
            "largest_rise_db": round(max(b - a for a, b in pairwise(scores)), 4),
        }
        if None not in of_input:
            ladder |= {"input_psnr": of_input, "input_rho": _falling_rho(levels, of_input)}
        found.append(ladder)
    return found


def _falling_rho(levels: Sequence[int], scores: Sequence[float]) -> float:
    return round(-float(spearmanr(levels, scores).statistic), 4)


def _falling_steps(scores: Sequence[float]) -> int:
    return sum(after < before for before, after in pairwise(scores))


def _change(row: Row, clean: dict[str, Row]) -> Row:
    """How a case differs from the same clip unchanged."""
    before = clean[row["source"]]
    known = isinstance(row["gain_db"], float) and isinstance(before["gain_db"], float)
    return {
        "source": row["source"],
        "kind": row["kind"],
        "level": row["level"],
        "strength": row["strength"],
        "psnr": row["psnr"],
        "psnr_change": round(row["psnr"] - before["psnr"], 4),
        "gain_db": row["gain_db"] if known else None,
        "gain_change": round(row["gain_db"] - before["gain_db"], 4) if known else None,
        "sharpness": round(row["sharpness"] / before["sharpness"], 4),
        "motion": round(row["motion"] / max(before["motion"], 1e-9), 4),
        "copy_psnr": row["copy_psnr"],
        "remarks": row["remarks"],
    }


def _ranking(rows: Sequence[Row]) -> list[Row]:
    """Per clip: the scores by the default fit and by the long one, and how far they rank the cases alike."""
    found = []
    for source in dict.fromkeys(row["source"] for row in rows):
        here = [row for row in rows if row["source"] == source]
        factor = max(row["factor"] for row in here)
        short = {(row["kind"], row["level"]): row for row in here if row["factor"] == 1}
        long = {(row["kind"], row["level"]): row for row in here if row["factor"] == factor}
        both = [case for case in short if case in long]
        if factor == 1 or len(both) < 2:
            continue
        pairs = [(short[case]["psnr"], long[case]["psnr"]) for case in both]
        alike = [(a - c) * (b - d) > 0 for (a, b), (c, d) in combinations(pairs, 2)]
        seconds = [short[case]["seconds"] for case in both]
        found.append(
            {
                "source": source,
                "factor": factor,
                "num_views": here[0]["num_views"],
                "size": here[0]["size"],
                "cases": [
                    {"kind": kind, "level": level, "short": a, "long": b}
                    for (kind, level), (a, b) in zip(both, pairs, strict=True)
                ],
                "rho": round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 4),
                "pairs_alike": sum(alike),
                "pairs": len(alike),
                "wall_seconds": [round(one["wall"], 1) for one in seconds if "wall" in one],
                "cpu_seconds": [round(one["cpu"], 1) for one in seconds if "cpu" in one],
            }
        )
    return found


def _claims(found: dict[str, Any]) -> list[Row]:
    """What the score is said to do, what was found, and whether it holds; None where nothing was measured."""
    inconsistent = [row for row in found["ladders"] if row["family"] == "inconsistent"]
    by_input = [row for row in found["ladders"] if row["family"] == "input"]
    judged = [row for row in by_input if "input_rho" in row]
    unseen = dict.fromkeys(row["source"] for row in by_input if "input_rho" not in row)
    left_out = f"; not judged in {', '.join(unseen)}" if unseen else ""
    plain = [row for row in found["consistent"] if row["kind"] != "recoloured"]
    recoloured = [row for row in found["consistent"] if row["gain_change"] is not None]
    return [
        _rho_claim("falls as views lose consistency", inconsistent),
        _pooled_claim(
            "the error of the predictions grows as the views were changed, in all clips and ways together",
            inconsistent,
        ),
        _steps_claim("falls at every step", inconsistent),
        _strongest_claim("is lower where the input view disagrees most with the rest", judged),
        _rho_claim("falls as the input view disagrees with the rest", judged, left_out=left_out),
        _rho_claim(
            "so does its part that is the input view's alone", judged, "input_rho", left_out
        ),
        _same_claim("does not fall for a rescaled or mirrored scene", plain, "psnr_change"),
        _same_claim(
            "gain does not fall for a recoloured scene", recoloured, "gain_change", tolerance=2.0
        ),
        *_ranking_claims(found["ranking"]),
    ]


def _rho_claim(claim: str, ladders: Sequence[Row], name: str = "rho", left_out: str = "") -> Row:
    words = f"{claim}: Spearman correlation with the level, mean at least {LEAST_RHO}"
    if not ladders:
        return unmeasured(words)
    values = [row[name] for row in ladders]
    mean = sum(values) / len(values)
    least = min(ladders, key=lambda row: row[name])
    told = f"{mean:.3f} over {len(values)}, least {least[name]:.3f} ({_name(least)})"
    return verdict(words, told + left_out, mean >= LEAST_RHO)


def _strongest_claim(claim: str, ladders: Sequence[Row]) -> Row:
    """The strongest change against none, in every ladder."""
    words = f"{claim} than where it agrees, in every clip"
    if not ladders:
        return unmeasured(words)
    falls = [row["psnr"][0] - row["psnr"][-1] for row in ladders]
    least = min(zip(falls, ladders, strict=True), key=lambda pair: pair[0])
    told = f"{sum(fall > 0 for fall in falls)} of {len(falls)}, least {least[0]:.2f} dB ({_name(least[1])})"
    return verdict(words, told, least[0] > 0)


def _pooled_claim(claim: str, ladders: Sequence[Row]) -> Row:
    """Errors are squared differences, which add up; decibels of clips that differ in their error do not compare.

    How far falls in decibels go with the levels, over all together, is told beside it.
    """
    words = f"{claim}: Spearman correlation of both, as mean squares, at least {LEAST_RHO}"
    pairs = [
        (change, _mean_square(score) - _mean_square(row["psnr"][0]))
        for row in ladders
        for change, score in zip(row["squared_change"], row["psnr"], strict=True)
    ]
    if not pairs:
        return unmeasured(words)
    rho = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    plain = [
        (level, row["psnr"][0] - score)
        for row in ladders
        for level, score in zip(row["levels"], row["psnr"], strict=True)
    ]
    in_db = float(spearmanr(*zip(*plain, strict=True)).statistic)
    told = f"{rho:.3f} over {len(pairs)}; falls in dB with the levels: {in_db:.3f}"
    return verdict(words, told, rho >= LEAST_RHO)


def _mean_square(psnr: float) -> float:
    """The mean squared error that a PSNR [dB] stands for."""
    return 10 ** (-psnr / 10)


def _steps_claim(claim: str, ladders: Sequence[Row]) -> Row:
    if not ladders:
        return unmeasured(claim)
    names = ("falling_steps", "steps", "first_seed_falling_steps")
    falling, steps, by_one = (sum(row[name] for row in ladders) for name in names)
    worst = max(ladders, key=lambda row: row["largest_rise_db"])
    told = f"{falling} of {steps} steps"
    if worst["largest_rise_db"] > 0:
        told += f"; the largest rise is {worst['largest_rise_db']:.2f} dB ({_name(worst)})"
    told += f"; {by_one} by the first seed's held-out views alone"
    return verdict(claim, told, falling == steps)


def _same_claim(claim: str, rows: Sequence[Row], name: str, tolerance: float = SAME_DB) -> Row:
    words = f"{claim}: by less than {tolerance:g} dB"
    if not rows:
        return unmeasured(words)
    worst = min(rows, key=lambda row: row[name])
    told = f"largest fall {max(0.0, -worst[name]):.2f} dB of {len(rows)} ({_name(worst)})"
    return verdict(words, told, -worst[name] < tolerance)


def _ranking_claims(ranking: Sequence[Row]) -> list[Row]:
    alike = f"ranks as a much longer fit does: Spearman correlation at least {LEAST_RHO}"
    quick = f"a fit takes less than {MOST_SECONDS:g} s of one core's time"
    if not ranking:
        return [unmeasured(alike), unmeasured(quick)]
    least = min(ranking, key=lambda row: row["rho"])
    told = f"{least['rho']:.3f}, {least['pairs_alike']} of {least['pairs']} pairs"
    told += f", against {least['factor']} times the passes ({least['source']})"
    times = [value for row in ranking for value in row["wall_seconds"]]
    cpu = [value for row in ranking for value in row["cpu_seconds"]]
    first = ranking[0]
    of = f"{first['num_views']} views of {first['size'][0]}x{first['size'][1]}"
    spent = (
        f"{max(times):.0f} s at most, {max(cpu):.0f} s of one core's time ({of})" if times else ""
    )
    return [
        verdict(alike, told, least["rho"] >= LEAST_RHO),
        verdict(quick, spent or "not timed", max(cpu) < MOST_SECONDS if cpu else None),
    ]


def _name(row: Row) -> str:
    level = f" {row['level']}" if "level" in row else ""
    return f"{row['source']}, {row['kind']}{level}"
