"""What the scores of clips are called, what they mean, and their units: one vocabulary for terminal and page."""

from __future__ import annotations

from eval.scores.measured import NotAvailable

NOT_AVAILABLE = "not available"
TITLES = {
    "images": "Images, against the reference",
    "camera": "Camera error, by structure from motion",
    "tsed": "TSED, commanded cameras against matched features",
    "photometric": "Camera error from pixels alone",
    "consistency": "3D consistency",
}
TEXTS = {
    "images": (
        "Frame by frame against the real frames of the same views, by torchmetrics and lpips. Higher is better but"
        " for LPIPS."
    ),
    "camera": (
        "Cameras found from the frames alone, against the commanded ones: relative to the first frame, lengths in the"
        " paths' own spans. R_err is an angle, T_err a distance, both means over frames; lower is better. Frames that"
        " could not be placed are not in the means: read the registration rate with them. Neither tells how far the"
        " camera went."
    ),
    "tsed": (
        "Neighbouring frames whose feature matches lie, in the median, within the threshold of their epipolar lines."
        " A still picture satisfies any move without turning: see how far features moved."
    ),
    "photometric": (
        "For frames too small or too smooth for features: cameras by direct alignment of the frames, against the"
        " commanded ones, in the same measures. The deviation is the measurement's own; the floor is what a video that"
        " follows its cameras perfectly would score because of it."
    ),
    "consistency": (
        "A scene of Gaussians is fitted to a part of the frames, and predicts those that were held out and the input"
        " view. The upper bound is the same on real frames, the lower one the same frames with shuffled poses; place is"
        " where the score stands between them, 0 to 1. A copy of the nearest frame says how easy the views are."
    ),
}
NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG)",
    "r_err_deg": "R_err",
    "r_err_rad": "R_err",
    "r_err_sum_rad": "sum of R_err over frames",
    "t_err": "T_err",
    "t_err_sum": "sum of T_err over frames",
    "registration_rate": "registration rate",
    "reprojection_error_px": "reprojection error",
    "r_err_deg_deviation": "± of R_err",
    "t_err_deviation": "± of T_err",
    "r_floor_deg": "floor of R_err",
    "t_floor": "floor of T_err",
    "explained": "explained by alignment",
    "epipolar_px": "distance from epipolar lines",
    "percent": "TSED",
    "typical_px": "typical epipolar distance",
    "moved_px": "features moved, frame to frame",
    "upper_psnr": "upper bound: real frames, PSNR",
    "lower_psnr": "lower bound: shuffled poses, PSNR",
    "copy_psnr": "copy of the nearest frame, PSNR",
    "held_out_psnr": "held-out views alone, PSNR",
    "input_psnr": "input view alone, PSNR",
    "gain_db": "above the lower bound",
    "place": "place between the bounds",
    "fid": "FID",
    "kid": "KID",
    "fvd": "FVD",
}
UNITS = {
    "r_err_deg": "deg",
    "r_err_rad": "rad",
    "r_err_sum_rad": "rad",
    "t_err": "spans",
    "t_err_sum": "spans",
    "r_err_deg_deviation": "deg",
    "r_floor_deg": "deg",
    "t_err_deviation": "spans",
    "t_floor": "spans",
    "percent": "%",
    "gain_db": "dB",
}
DIGITS = {"percent": 1, "gain_db": 2, "fid": 2, "fvd": 2, "kid": 5}
UNIT_DIGITS = {"dB": 2, "px": 2, "deg": 2}
"""Decimals, by the metric or else by the unit; three for the rest."""


def label(metric: str) -> str:
    """What a metric is called."""
    if metric.startswith("ms_ssim_"):
        return f"MS-SSIM of {metric.removeprefix('ms_ssim_')} scales"
    return NAMES.get(metric, metric)


def number(value: float | NotAvailable, metric: str) -> str:
    """A number with its unit, or that it is not available."""
    if isinstance(value, NotAvailable):
        return NOT_AVAILABLE
    unit = UNITS.get(metric, "dB" if metric.endswith("psnr") else "")
    unit = "px" if metric.endswith("_px") else unit
    digits = DIGITS.get(metric, UNIT_DIGITS.get(unit, 3))
    return f"{value:.{digits}f} {unit}".rstrip()
