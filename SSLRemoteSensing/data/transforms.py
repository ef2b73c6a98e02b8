"""The pretext transforms on uint8 images (H, W, C): one small class each, called `(image, rng)`.

The names and parameters are those of the published configs. A transform draws from the given
`numpy.random.Generator` and from nowhere else. Brightness and contrast act on all bands;
saturation, hue and greyscale on the first three, taken as R, G, B.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from SSLRemoteSensing.core.errors import UserError

# ITU-R 601 weights, as OpenCV, Pillow and torchvision use them for greyscale.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class RandomHorizontalFlip:
    """Mirror left and right.

    Args:
        p: probability, 0 to 1.
    """

    axis = 1

    def __init__(self, p: float = 0.5):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return flip(image, self.axis) if rng.random() < self.p else image


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror top and bottom.

    Args:
        p: probability, 0 to 1.
    """

    axis = 0


class Rotate:
    """Turn counter-clockwise.

    Args:
        angle: in degrees, a multiple of 90; None: 0, 90, 180 or 270 by chance.
        p: probability, 0 to 1.
    """

    def __init__(self, angle: int | None = None, p: float = 1.0):
        if angle is not None and angle % 90:
            raise UserError(f"angle={angle} is no multiple of 90 degrees")
        self.angle, self.p = angle, probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        turns = int(rng.integers(4)) if self.angle is None else self.angle // 90
        return turn(image, turns) if rng.random() < self.p else image


class RandomCrop:
    """Cut a random window; one ratio scales both sides.

    Args:
        crop_ratio_min: smallest side of the window over the image's, above 0 to 1.
        crop_ratio_max: largest side of the window over the image's, to 1.
    """

    def __init__(self, crop_ratio_min: float = 0.7, crop_ratio_max: float = 0.95):
        check_ratios(("crop_ratio_min", crop_ratio_min), ("crop_ratio_max", crop_ratio_max))
        self.low, self.high = crop_ratio_min, crop_ratio_max

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left, height, width = self.place(image.shape, rng)
        return image[top : top + height, left : left + width]

    def place(self, shape: Sequence[int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width, in pixels, of the window of an image of `shape`."""
        ratio = rng.uniform(self.low, self.high)
        height, width = (max(1, round(side * ratio)) for side in shape[:2])
        return *corner(shape, height, width, rng), height, width


class ColorJitter:
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    A number b stands for the range [1 - b, 1 + b] (hue: [-b, b]), a pair for itself. Factors mean
    what they mean in torchvision; hue is in turns of the colour circle, -0.5 to 0.5.

    Args:
        brightness, contrast, saturation: factor, 0 to 255.
        hue: shift in turns, -0.5 to 0.5.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
    ):
        self.steps = [
            (adjust_brightness, factor_range("brightness", brightness, centre=1.0)),
            (adjust_contrast, factor_range("contrast", contrast, centre=1.0)),
            (adjust_saturation, factor_range("saturation", saturation, centre=1.0)),
            (adjust_hue, factor_range("hue", hue, centre=0.0)),
        ]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for i in rng.permutation(len(self.steps)):
            adjust, (low, high) = self.steps[i]
            image = adjust(image, rng.uniform(low, high))
        return image


class RandomGrayscale:
    """Replace R, G, B by their luma.

    Args:
        p: probability, 0 to 1.
    """

    def __init__(self, p: float = 0.5):
        self.p = probability(p)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return adjust_saturation(image, 0.0) if rng.random() < self.p else image


class Resize:
    """Scale: area mean when shrinking, else bilinear.

    Args:
        size: side or (height, width) in pixels.
    """

    def __init__(self, size: int | Sequence[int]):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"size={size!r}: expected a side or (height, width), in pixels")

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        return resize(image, *self.size)


class ToTensor:
    """A name of the published configs; scaling to 0..1 happens on the device, in the network."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image


class Normal(ToTensor):
    """A name of the published configs; it did nothing there."""


class DistortBlock:
    """Distort one square block: jitter its colours, then flip it (p 1/2) or turn it (p 1/2).

    The side is U(min_cover_ratio, max_cover_ratio) * min(H, W), the place uniform. The block is
    flipped along axis 0 (p 1/4), along axis 1 (p 1/4) or turned by 90, 180 or 270 degrees.

    Args:
        min_cover_ratio: smallest side of the block over the image's shorter side, above 0 to 1.
        max_cover_ratio: largest side of the block over the image's shorter side, to 1.
        brightness: factor; a number b stands for [1 - b, 1 + b], a pair for itself, as in
            `ColorJitter`.
        contrast, saturation: factor.
        hue: shift in turns of the colour circle; a number b stands for [-b, b].
    """

    def __init__(
        self,
        min_cover_ratio: float = 0.2,
        max_cover_ratio: float = 1 / 3,
        brightness: float | Sequence[float] = 0.3,
        contrast: float | Sequence[float] = (0.5, 1.5),
        saturation: float | Sequence[float] = (0.5, 1.5),
        hue: float | Sequence[float] = (-0.3, 0.3),
    ):
        check_ratios(("min_cover_ratio", min_cover_ratio), ("max_cover_ratio", max_cover_ratio))
        self.low, self.high = min_cover_ratio, max_cover_ratio
        self.jitter = ColorJitter(brightness, contrast, saturation, hue)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        side = max(1, int(rng.uniform(self.low, self.high) * min(height, width)))
        image = image.copy()
        place = window(image, side, side, rng)
        block = self.jitter(place, rng)
        move = int(rng.integers(4))
        place[:] = flip(block, move) if move < 2 else turn(block, int(rng.integers(1, 4)))
        return image


TRANSFORMS = {
    "RandomHorizontalFlip": RandomHorizontalFlip,
    "RandomVerticalFlip": RandomVerticalFlip,
    "Rotate": Rotate,
    "RandomCrop": RandomCrop,
    "ColorJitter": ColorJitter,
    "RandomGrayscale": RandomGrayscale,
    "Resize": Resize,
    "ToTensor": ToTensor,
    "Normal": Normal,
}


def flip(image: np.ndarray, axis: int) -> np.ndarray:
    """Mirror along `axis`: 0 swaps top and bottom, 1 swaps left and right."""
    return cv2.flip(image, axis).reshape(image.shape)


def turn(image: np.ndarray, turns: int) -> np.ndarray:
    """Turn counter-clockwise by `turns` quarter turns."""
    codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    if turns % 4 == 0:
        return image
    if image.shape[2] > 4:  # OpenCV turns some numbers of bands and not others
        return np.ascontiguousarray(np.rot90(image, turns))
    result = cv2.rotate(image, codes[turns % 4])
    return result.reshape(*result.shape[:2], -1)  # OpenCV drops the axis of a single band


def window(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random window of at most (height, width); a view, not a copy."""
    height, width = min(height, image.shape[0]), min(width, image.shape[1])
    top, left = corner(image.shape, height, width, rng)
    return image[top : top + height, left : left + width]


def corner(
    shape: Sequence[int], height: int, width: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a random window of (height, width) in an image of `shape`."""
    return int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale to (height, width): the area mean where that shrinks the image, else bilinear."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    groups = [
        cv2.resize(image[:, :, band : band + 4], (width, height), interpolation=interpolation)
        for band in range(0, image.shape[2], 4)  # OpenCV's area mean takes 4 bands at most
    ]
    return groups[0].reshape(height, width, -1) if len(groups) == 1 else np.dstack(groups)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """image * factor, clipped."""
    return blend(image, factor, 0.0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean luma of the image: factor * image + (1 - factor) * mean."""
    if image.shape[2] < 3:
        mean = float(image.mean())
    else:
        colour = image if image.shape[2] == 3 else np.ascontiguousarray(image[:, :, :3])
        mean = cv2.mean(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))[0]
    return blend(image, factor, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend R, G, B with their luma: factor * image + (1 - factor) * luma."""
    if image.shape[2] != 3:
        return on_first_three(adjust_saturation, image, factor)
    mix = factor * np.eye(3, dtype=np.float32) + np.float32(1 - factor) * LUMA[None, :]
    return cv2.transform(image, mix)


def adjust_hue(image: np.ndarray, factor: float) -> np.ndarray:
    """Shift the hue by `factor` turns, in 8-bit HSV."""
    if factor == 0:
        return image
    if image.shape[2] != 3:
        return on_first_three(adjust_hue, image, factor)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # OpenCV divides the circle into 256 steps on the way in and into 255 on the way out.
    table = np.rint((np.arange(256) / 256 + factor) % 1 * 255).astype(np.uint8)
    hsv[:, :, 0] = cv2.LUT(np.ascontiguousarray(hsv[:, :, 0]), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def on_first_three(adjust, image: np.ndarray, factor: float) -> np.ndarray:
    """R, G, B adjusted of an image of more bands; one of fewer as it is."""
    result = image if image.shape[2] < 3 else image.copy()
    if image.shape[2] > 3:
        result[:, :, :3] = adjust(np.ascontiguousarray(image[:, :, :3]), factor)
    return result


def blend(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """factor * image + offset, rounded and clipped to 0..255."""
    return cv2.addWeighted(image, factor, image, 0.0, offset).reshape(image.shape)


def factor_range(name: str, value: float | Sequence, centre: float) -> tuple[float, float]:
    if isinstance(value, int | float):
        low, high = centre - value, centre + value
        low = max(low, 0.0) if centre else low
    elif len(value) == 2:
        low, high = value
    else:
        raise UserError(f"{name}={value!r}: expected a number or a pair")
    limits = (0.0, 255.0) if centre else (-0.5, 0.5)  # at 255 every value but 0 is white
    if not limits[0] <= low <= high <= limits[1]:
        raise UserError(f"{name}={value!r}: the range must lie within {limits[0]} to {limits[1]}")
    return float(low), float(high)


def check_ratios(low: tuple[str, float], high: tuple[str, float]) -> None:
    if not 0 < low[1] <= high[1] <= 1:
        raise UserError(
            f"{low[0]}={low[1]}, {high[0]}={high[1]}: need 0 < {low[0]} <= {high[0]} <= 1"
        )


def probability(p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"p={p} is no probability")
    return p
