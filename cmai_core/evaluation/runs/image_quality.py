"""How alike two pictures look: SSIM and PSNR, picture by picture, by scikit-image."""

from __future__ import annotations

import numpy as np

from cmai_core.errors import DataError

_WINDOW = 11  # pixels that a Gaussian of σ = 1.5 cut at 3.5 σ covers


def ssim(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, IEEE TIP 13(4)): mean over pixels and colour channels, at most 1.

    With the paper's settings: Gaussian window of σ = 1.5, K1 = 0.01, K2 = 0.03, population covariances.

    Args:
        clean, adversarial: uint8 H×W×3, or N×H×W×3.

    Returns:
        float64 N (N = 1 for one picture); NaN for pictures smaller than the window, 11 pixels.

    Raises:
        DataError: other shapes or kinds of numbers.
    """
    from skimage.metrics import structural_similarity

    clean, adversarial = _checked(clean, adversarial)
    if min(clean.shape[1:3]) < _WINDOW:
        return np.full(len(clean), np.nan)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array(
        [
            structural_similarity(a, b, channel_axis=-1, data_range=255, **settings)
            for a, b in zip(clean, adversarial, strict=True)
        ],
        dtype=np.float64,
    )


def psnr(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in decibels, 10 log₁₀(255² / mean squared difference); inf for equal pictures.

    Args and Raises as `ssim`.

    Returns:
        float64 N.
    """
    from skimage.metrics import peak_signal_noise_ratio

    clean, adversarial = _checked(clean, adversarial)
    with np.errstate(divide="ignore"):
        found = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(clean, adversarial, strict=True)]
    return np.array(found, dtype=np.float64)


def _checked(clean: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clean, adversarial = np.asarray(clean), np.asarray(adversarial)
    for picture in (clean, adversarial):
        if picture.dtype != np.uint8 or picture.ndim not in (3, 4) or picture.shape[-1] != 3:
            raise DataError(
                f"A picture of kind {picture.dtype} and shape {picture.shape}.", "Give uint8 H×W×3 or N×H×W×3."
            )
    if clean.shape != adversarial.shape:
        raise DataError(f"Pictures of the shapes {clean.shape} and {adversarial.shape}.", "Give the same shape twice.")
    shape = (-1, *clean.shape[-3:])
    return clean.reshape(shape), adversarial.reshape(shape)
