"""What the cases of a camera trial show: known errors found again, TSED, conventions, and the claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from eval.cameras.convention import OTHER_AXES
from eval.cameras.perturbed import STRENGTHS
from eval.trials.claims import Row, unmeasured, verdict

WITHIN = 0.05
"""A known error counts as found again within this share of it."""
FLOORS = 2.0
"""Times its own floor that the photometric error of right cameras may be."""
ERRORS = (("r_err_deg", "R_err"), ("t_err", "T_err"))
OPENGL = f"cameras in {OTHER_AXES[0].what}"
METHODS = {"features": "structure from motion", "pixels": "alignment of pixels"}
GROUPS = {
    "capture": "captures",
    "large": "large procedural frames",
    "small": "small procedural frames",
    "coded": "small frames after the codec",
}


def summarise_trial(lines: Sequence[Row]) -> dict[str, Any]:
    """Tables and claims from a trial's lines. Lines with an "error" are left out."""
    rows = [line for line in lines if "error" not in line]
    right = [row for row in rows if row["level"] == 0]
    doubts = {row["source"]: _doubt_deg(row) for row in right}
    found = {
        "clips": right,
        "features": [
            _recovered(row, "camera") | {"doubt_deg": doubts[row["source"]]}
            for row in rows
            if row["level"] > 0
        ],
        "pixels": [
            _recovered(row, "photometric")
            for row in rows
            if row["level"] > 0 and "photometric" in row
        ],
        "tsed": _tsed_ladders(rows),
        "alarms": [_case(row) | {"alarm": row["alarm"]} for row in rows if row["alarm"]],
        "num_cases": len(rows),
    }
    return {"claims": _claims(found), **found}


def _case(row: Row) -> Row:
    return {name: row[name] for name in ("source", "group", "kind", "level")}


def _recovered(row: Row, method: str) -> Row:
    """The known error and the one found, and by what share they differ; None where none was found."""
    case = _case(row)
    for name, _ in ERRORS:
        known, found = (row[method]["known"] or {}).get(name), row[method][name]
        case[f"known_{name}"] = known
        case[name] = found
        is_number = isinstance(known, float) and isinstance(found, float)
        case[f"{name}_off"] = round(found / known - 1, 4) if is_number else None
    return case


def _doubt_deg(row: Row) -> float | None:
    """How far a capture's own cameras miss its matches [deg of the view]: no error is known any better than that.

    None for procedural clips, whose cameras are exact, and where there are too few matches to tell.
    """
    typical_px = row["tsed"]["typical_px"]
    if row["group"] != "capture" or not isinstance(typical_px, float):
        return None
    return round(math.degrees(math.atan(typical_px / row["focal_px"])), 4)


def _tsed_ladders(rows: Sequence[Row]) -> list[Row]:
    """Per clip and kind of perturbation: TSED and the median distance, from the right cameras to level 4."""
    found = []
    for source, of_clip in groupby(rows, key=lambda row: row["source"]):
        right, *wrong = of_clip
        for kind, steps in groupby(wrong, key=lambda row: row["kind"]):
            ladder = [right["tsed"], *(row["tsed"] for row in steps)]
            percent, typical = ([one[name] for one in ladder] for name in ("percent", "typical_px"))
            if all(isinstance(value, float) for value in (*percent, *typical)):
                found.append(
                    {"source": source, "kind": kind, "percent": percent, "typical_px": typical}
                )
    return found


def _claims(found: dict[str, Any]) -> list[Row]:
    """What the camera errors are said to do, what was found, and whether it holds."""
    claims = [_placed_claim(found["clips"])]
    for group in ("capture", "large"):
        chosen = [row for row in found["features"] if row["group"] == group]
        claims += [
            _every_claim(group, chosen, least, *error) for error in ERRORS for least in (1, 2)
        ]
    for group in ("small", "coded"):
        for method in METHODS:
            chosen = [row for row in found[method] if row["group"] == group]
            claims += [_median_claim(group, method, chosen, *error) for error in ERRORS]
    claims += [_floor_claim(found["clips"], *error) for error in ERRORS]
    claims += [
        _right_tsed_claim(found["clips"]),
        _steps_claim("TSED does not rise as cameras get worse", found["tsed"], "percent", -1),
        _steps_claim(
            "the median epipolar distance grows as cameras get worse",
            found["tsed"],
            "typical_px",
            1,
        ),
        _named_claim(found["clips"]),
        verdict(
            "right cameras, and those that are merely wrong, are not taken for another convention",
            f"{len(found['alarms'])} alarms in {found['num_cases']} cases",
            not found["alarms"] if found["num_cases"] else None,
        ),
    ]
    return claims


def _placed_claim(clips: Sequence[Row]) -> Row:
    words = f"structure from motion places every frame of {GROUPS['capture']} and {GROUPS['large']}"
    chosen = [row for row in clips if row["group"] in ("capture", "large")]
    if not chosen:
        return unmeasured(words)
    least = min(chosen, key=lambda row: row["camera"]["registration_rate"])
    rate = least["camera"]["registration_rate"]
    return verdict(words, f"{rate:.0%} at least ({least['source']})", rate == 1)


def _every_claim(group: str, rows: Sequence[Row], least: int, name: str, title: str) -> Row:
    """Over the cases from level `least` on."""
    degrees, share = STRENGTHS[least - 1]
    words = (
        f"{GROUPS[group]}: structure from motion finds a known {title} again, from {degrees:g} deg and {share:g}"
        f" spans on every time within {WITHIN:.0%}"
    )
    chosen = [row for row in rows if row["level"] >= least]
    doubtful = [row for row in chosen if name == "r_err_deg" and _is_doubtful(row)]
    judged = [row for row in chosen if row not in doubtful]
    if not judged:
        return unmeasured(words)
    told, known = _told(judged, name)
    if doubtful:
        cases = ", ".join(f"{row['source']} {row['kind']} {row['level']}" for row in doubtful)
        doubt = max(row["doubt_deg"] for row in doubtful)
        told += (
            f"; left out, since their own cameras miss their matches by {doubt:.3f} deg: {cases}"
        )
    return verdict(words, told, len(known) == len(judged) and max(known) <= WITHIN)


def _is_doubtful(row: Row) -> bool:
    """Whether the true cameras are known less well than the found error is to agree with theirs."""
    return (
        row["doubt_deg"] is not None and row["doubt_deg"] > WITHIN * STRENGTHS[row["level"] - 1][0]
    )


def _median_claim(group: str, method: str, rows: Sequence[Row], name: str, title: str) -> Row:
    words = f"{GROUPS[group]}: {METHODS[method]} finds a known {title} again, in half of the cases within {WITHIN:.0%}"
    if not rows:
        return unmeasured(words)
    told, known = _told(rows, name)
    return verdict(words, told, bool(known) and median(known) <= WITHIN)


def _told(rows: Sequence[Row], name: str) -> tuple[str, list[float]]:
    """How far found errors are off, in words, and as sorted shares of the known ones."""
    measured = [row for row in rows if row[f"{name}_off"] is not None]
    shares = sorted(abs(row[f"{name}_off"]) for row in measured)
    if not shares:
        return f"not available in any of {len(rows)}", shares
    worst = max(measured, key=lambda row: abs(row[f"{name}_off"]))
    within = sum(share <= WITHIN for share in shares)
    return (
        f"{within} of {len(rows)}; median {median(shares):.1%}, largest {shares[-1]:.1%}"
        f" ({worst['source']}, {worst['kind']} {worst['level']})"
        + (f"; {len(rows) - len(shares)} not available" if len(shares) < len(rows) else "")
    ), shares


def _floor_claim(clips: Sequence[Row], name: str, title: str) -> Row:
    floor = {"r_err_deg": "r_floor_deg", "t_err": "t_floor"}[name]
    words = (
        f"small frames, coded or not: alignment of pixels gives right cameras a {title} of at most {FLOORS:g}"
        " times the floor that it names"
    )
    ratios = [
        (row["photometric"][name] / row["photometric"][floor], row["source"])
        for row in clips
        if "photometric" in row and isinstance(row["photometric"][floor], float)
    ]
    if not ratios:
        return unmeasured(words)
    most, source = max(ratios)
    told = f"{most:.2f} times at most ({source}), median {median(one for one, _ in ratios):.2f}"
    return verdict(words, f"{told}, of {len(ratios)}", most <= FLOORS)


def _right_tsed_claim(clips: Sequence[Row]) -> Row:
    words = "TSED of right cameras is at least 90%"
    known = [
        (row["tsed"]["percent"], row["source"])
        for row in clips
        if isinstance(row["tsed"]["percent"], float)
    ]
    if not known:
        return unmeasured(words)
    least, source = min(known)
    return verdict(words, f"{least:.0f}% at least ({source}), of {len(known)}", least >= 90)


def _steps_claim(words: str, ladders: Sequence[Row], name: str, sign: int) -> Row:
    if not ladders:
        return unmeasured(words)
    steps = [
        (sign * (after - before), row) for row in ladders for before, after in pairwise(row[name])
    ]
    fine = sum(step > 0 or (sign < 0 and step == 0) for step, _ in steps)
    told = f"{fine} of {len(steps)} steps"
    worst, row = min(steps, key=lambda step: step[0])
    if fine < len(steps):
        told += (
            f"; the largest step the other way is {abs(worst):.3g} ({row['source']}, {row['kind']})"
        )
    return verdict(words, told, fine == len(steps))


def _named_claim(clips: Sequence[Row]) -> Row:
    words = "cameras in OpenGL axes, the commonest mistake, are recognised"
    named = [row["conventions"][OPENGL] for row in clips]
    if not named:
        return unmeasured(words)
    others = [
        value for row in clips for what, value in row["conventions"].items() if what != OPENGL
    ]
    told = f"in {sum(named)} of {len(named)} clips; other conventions {sum(others)} of {len(others)} times"
    return verdict(words, told, all(named))
