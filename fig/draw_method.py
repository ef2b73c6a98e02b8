"""Draw method.png, the README's picture of the method.

The town in it is invented here, and so are the restored image, the scores and the similarities.
The occluded, anchor and transformed images are made of it by the package's own transforms.
"""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from PIL import Image

from SSLRemoteSensing.data import transforms as T

INK, GREY, BLUE = "#2b2f36", "#6f7782", "#3f6f9f"
OCHRE, PLUM, GREEN = "#a66f22", "#7b5a94", "#4c8460"
CLASSES = ["impervious", "building", "low vegetation", "tree", "car"]
COLOURS = np.uint8([(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0)])
ROOFS = np.array([(158, 84, 64), (142, 72, 58), (168, 104, 82), (122, 106, 98), (112, 112, 118)])
CARS = [(235, 235, 235), (40, 42, 48), (150, 30, 32), (58, 84, 130), (176, 180, 186)]
STONE = (170, 162, 150)
SUN = np.array([0.8, 0.6])  # the way shadows fall


def town(rng: np.random.Generator, size: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """An invented town from above: image and coloured label map, both (512, 512, 3) uint8."""
    labels = np.full((size, size), CLASSES.index("low vegetation"), np.uint8)

    def noise(cell: int) -> np.ndarray:
        coarse = rng.normal(size=(size // cell + 2,) * 2).astype(np.float32)
        return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]

    def place(points) -> np.ndarray:
        """Street coordinates to pixels: bent a little, and turned by 15 degrees."""
        u, v = np.asarray(points, float).T
        v = v + 30 * np.sin(u / 260)
        return np.int32(np.stack([0.966 * u + 0.259 * v, 0.966 * v - 0.259 * u], 1) + size / 2)

    def rectangle(u, v, a, b) -> np.ndarray:
        return np.array([(u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b)])

    def paint(points, colour, label: str | None = None) -> None:
        cv2.fillPoly(image, [place(points)], [float(c) for c in colour], cv2.LINE_AA)
        if label:
            cv2.fillPoly(labels, [place(points)], CLASSES.index(label))

    image = np.float32((104, 124, 74)) + noise(128) * (14, 7, 8) + noise(24) * (9, 8, 5)
    image = np.ascontiguousarray(image + noise(3) * 5, np.float32)
    streets = [((-900, v), (900, v), 68) for v in (-330, 330)] + [((70, -900), (70, 900), 60)]
    for kerb, colour in ((26, (168, 164, 156)), (0, (112, 113, 116))):
        for start, end, width in streets:
            line = [place(np.linspace(start, end, 60))]
            cv2.polylines(image, line, False, colour, width + kerb, cv2.LINE_AA)
            cv2.polylines(labels, line, False, 0, width + kerb)

    houses, trees, cars = [], [], []
    for street in (-330, 330):
        for u in range(-800, 800, 60):
            if abs(u - 70) > 80:
                paint(rectangle(u, street, 14, 2), (205, 204, 198))
        for side in (-1, 1):
            u = rng.uniform(-760, -700)
            while u < 780:
                a, b = rng.uniform(52, 74), rng.uniform(44, 58)
                v = street + side * (66 + b + rng.uniform(12, 30))
                if abs(u - 70) > a + 62:
                    houses.append((u, v, a, b))
                    paint(rectangle(u + a + 15, v - side * 30, 13, b + 40), STONE, CLASSES[0])
                    paint(rectangle(u, v + side * b, a * 0.7, 34), STONE, CLASSES[0])
                u += 2 * a + rng.uniform(52, 84)
            for u in np.arange(-740, 760, 50)[rng.random(30) < 0.3]:
                cars.append((u, street + 20 * side))
            for u in np.arange(-760, 760, 76)[rng.random(20) < 0.45]:
                trees.append((u, street + 58 * side, rng.uniform(17, 27)))
    trees += [(*rng.uniform((-750, -85, 22), (700, 85, 46)),) for _ in range(48)]
    trees += [(*rng.uniform((-750, -640, 22), (700, 640, 34)),) for _ in range(60)]
    for house in houses:
        paint(rectangle(*house), STONE, "building")
    foot = np.float32(labels == CLASSES.index("building"))
    shade = np.max([np.roll(foot, np.int32(reach * SUN[::-1]), (0, 1)) for reach in range(34)], 0)
    lawn = np.uint8(labels == CLASSES.index("low vegetation"))
    room = cv2.distanceTransform(np.pad(lawn, 400, mode="edge"), cv2.DIST_L2, 3)
    trees = [(place([tree[:2]])[0], tree[2]) for tree in trees]
    trees = [(at, r) for at, r in trees if room[tuple(np.clip(at[::-1] + 400, 0, 1823))] > 0.4 * r]
    for at, radius in trees:
        cv2.circle(shade, np.int32(at + 0.8 * radius * SUN).tolist(), int(radius), 1, -1)
    image *= 1 - cv2.GaussianBlur(shade, (0, 0), 1.5)[..., None] * (0.62, 0.58, 0.5)

    for u, v in cars:
        paint(rectangle(u + 2, v + 3, 21, 11), (70, 71, 76))
        paint(rectangle(u, v, 19, 9), rng.choice(CARS), "car")
        paint(rectangle(u + 6, v, 3, 7), (40, 46, 54))
    for u, v, a, b in houses:
        roof, inset = rng.choice(ROOFS) * rng.uniform(0.9, 1.15), rng.choice([0, 0.55]) * b
        corners, west, east = rectangle(u, v, a, b), (u - a + inset, v), (u + a - inset, v)
        paint([*corners[:2], east, west], roof * 1.12)
        paint([*corners[2:], west, east], roof * 0.7)
        paint([corners[0], west, corners[3]], roof * 1.22)
        paint([corners[1], east, corners[2]], roof * 0.6)
        cv2.line(image, *place([west, east]), (roof * 1.35).tolist(), 3, cv2.LINE_AA)
    for centre, radius in trees:
        tint = rng.uniform(0.75, 1.15)
        for angle, far in zip(rng.uniform(0, 6.3, 70), np.sqrt(rng.random(70)), strict=True):
            step = 0.85 * far * np.array([np.cos(angle), np.sin(angle)])
            light = tint * (1 - 0.42 * step @ SUN) * rng.uniform(0.8, 1.15)
            leaves = np.int32(centre + radius * step).tolist(), int(radius * 0.24)
            cv2.circle(image, *leaves, (58 * light, 84 * light, 46 * light), -1)
            cv2.circle(labels, *leaves, CLASSES.index("tree"), -1)
    image = image * 1.08 + noise(2) * 5 + rng.normal(scale=5, size=image.shape)
    image = cv2.GaussianBlur(np.clip(image, 0, 255), (0, 0), 0.8).astype(np.uint8)
    return T.resize(image, 512, 512), COLOURS[labels[::2, ::2]]


class Canvas:
    """A figure measured in pixels, y downwards, and the few shapes used here."""

    def __init__(self, width: int, height: int):
        self.figure = Figure((width / 100, height / 100), dpi=100)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(self, x, y, text, colour=INK, size=23, ha="left", **style) -> None:
        style = {"va": "center", "linespacing": 1.25, "zorder": 5} | style
        self.axes.text(x, y, text, color=colour, size=size * 0.72, ha=ha, **style)

    def box(self, x, y, width, height, edge, fill=0.08, text="", **style) -> None:
        look = f"round,pad=0,rounding_size={min(8, width / 5, height / 5)}"
        shape = FancyBboxPatch((x, y), width, height, look, fc=(edge, fill), ec=edge, lw=1.4)
        self.axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, text, **{"ha": "center"} | style)

    def bars(self, x, y, heights, width, step, colour) -> None:
        for i, height in enumerate(heights):
            self.box(x + i * step, y - height / 2, width, height, colour, 0.75)

    def line(self, *points, colour=GREY) -> None:
        """An arrow through `points`, level or upright from each to the next."""
        tip, back = np.array(points[-1]), np.sign(np.subtract(points[-2], points[-1]))
        head = [tip, tip + 14 * back + 6 * back[::-1], tip + 14 * back - 6 * back[::-1]]
        self.axes.add_patch(Polygon(head, fc=colour, lw=0, zorder=4))
        points = np.array([*points[:-1], tip + 10 * back])
        self.axes.plot(*points.T, color=colour, lw=1.8, solid_capstyle="butt")

    def picture(self, image, x, y, side, tag="") -> None:
        """`image` in a square centred at height y, its name in the upper corner."""
        top = y - side // 2
        self.axes.imshow(T.resize(image, side, side), extent=(x, x + side, top + side, top))
        self.box(x, top, side, side, INK, 0)
        if tag:
            self.text(x + 9, top + 9, tag, va="top", bbox={"fc": "w", "lw": 0, "pad": 2.5})


def draw(path: Path) -> None:
    scene, label_map = town(np.random.default_rng(4))
    anchor = T.RandomHorizontalFlip(1)(scene, np.random.default_rng(0))
    occluded = T.DistortBlock(0.32)(anchor, np.random.default_rng(0))
    transformed, rng = anchor, np.random.default_rng(2)
    for change in (T.Rotate(90), T.RandomCrop(), T.ColorJitter(0.3, 0.5, 0.5, 0.3)):
        transformed = change(transformed, rng)
    c = Canvas(1920, 1200)

    c.text(24, 42, "Pre-training: images, no labels", size=28, weight="bold")
    c.picture(scene, 24, 430, 200, "aerial image")
    c.line((224, 430), (350, 430))
    c.text(286, 408, "flip, turn", ha="center")
    c.line((440, 340), (440, 265))
    c.text(332, 175, "one block jittered,\nthen flipped\nor turned", ha="right")
    c.line((440, 520), (440, 595))
    c.text(332, 685, "one of 6 flips\nand turns, then crop\nand colour jitter", ha="right")
    views = (175, occluded, "occluded"), (430, anchor, "anchor"), (685, transformed, "transformed")
    for y, image, name in views:
        c.picture(image, 350, y, 180, name)
        c.line((530, y), (576, y))

    blocks, decoder = np.array([560, 465, 370, 280, 190]), np.array([50, 80, 110, 140, 165])
    for y, scale in ((430, 1), (1035, 0.375)):
        outline = [(576, -340), (882, -97), (882, 97), (576, 340)]
        outline = [(x, y + scale * dy) for x, dy in outline]
        c.axes.add_patch(Polygon(outline, fc=(GREY, 0.12), ec=GREY, lw=1.4))
        c.bars(590, y, blocks * scale, 46, 58, GREY)
    for i in range(5):
        name = f"block{i + 2}   1/{2 ** (i + 1)}"
        c.text(613 + 58 * i, 430, name, "w", ha="center", rotation=90, weight="bold")
    c.text(742, 708, "one backbone,\nits weights shared by\nthe three branches")

    tasks = [
        (24, 311, BLUE, "inpainting", 20, "L1 to the anchor,\nweighted by M"),
        (350, 222, OCHRE, "transform prediction (AGR)", 1, "cross-entropy,\n6 classes"),
        (587, 250, PLUM, "exemplar contrastive", 1, "softmax over\ncosine similarity"),
    ]
    for top, height, colour, title, weight, loss in tasks:
        middle = top + height / 2
        c.box(1080, top, 560, height, colour)
        c.text(1100, top + 28, title, colour, 26, weight="bold")
        c.line((1640, middle), (1676, middle), colour=colour)
        c.box(1676, middle - 80, 220, 160, colour, 0.15)
        c.text(1786, middle - 42, f"{weight} \u00d7", colour, 34, "center", weight="bold")
        c.text(1786, middle + 28, loss, ha="center")

    c.line((882, 370), (905, 370), (905, 225), (1100, 225), colour=BLUE)
    c.text(1000, 205, "occluded", BLUE, ha="center")
    c.text(898, 54, "4 skip maps", BLUE)
    c.bars(1100, 225, decoder, 24, 34, BLUE)
    c.line((1260, 225), (1300, 225), colour=BLUE)
    c.picture(cv2.GaussianBlur(anchor, (0, 0), 3), 1300, 225, 150, "restored")
    c.picture(cv2.convertScaleAbs(cv2.absdiff(anchor, occluded), alpha=1.6), 1474, 225, 150, "M")
    c.text(1624, 317, "M = |anchor \u2212 occluded|", BLUE, ha="right")

    c.text(976, 556, "block6 maps", ha="center")
    c.box(900, 388, 152, 144, GREY, 0.12)
    for y, name in ((430, "anchor"), (490, "transformed")):
        c.line((882, y), (908, y))
        c.box(908, y - 24, 136, 48, GREY, 0.75, name, colour="w", size=21)
    c.line((1052, 460), (1080, 460))
    c.line((1066, 460), (1066, 722), (1080, 722))

    for x, width, text in ((1100, 110, "concat"), (1244, 124, "2 conv,\npool, 2 FC")):
        c.box(x, 430, width, 90, OCHRE, 0.15, text)
        c.line((x + width, 475), (x + width + 34, 475), colour=OCHRE)
    classes = ["flip \u2194", "flip \u2195", "0\u00b0", "90\u00b0", "180\u00b0", "270\u00b0"]
    for i, score in enumerate((8, 14, 6, 110, 12, 24)):
        c.text(1490, 415 + 27 * i, classes[i], ha="right")
        c.box(1504, 406 + 27 * i, score, 18, OCHRE, 0.8 if i == 3 else 0.3)

    c.box(1100, 677, 110, 90, PLUM, 0.15, "pool,\n2 FC")
    c.line((1210, 722), (1244, 722), colour=PLUM)
    for x, name in ((1256, "anchor"), (1306, "transformed")):
        c.box(x, 648, 36, 148, PLUM, 0.75, name, colour="w", size=21, rotation=90)
    c.line((1352, 722), (1436, 722), colour=PLUM)
    c.text(1390, 700, "cosine", PLUM, ha="center")
    for i, j in np.ndindex(8, 8):  # rows: 4 anchors, 4 transformed; the positive is 4 further
        fill = {0: 0, 4: 0.85}.get(abs(i - j), 0.2)
        c.box(1446 + 22 * j, 636 + 22 * i, 18, 18, PLUM, fill)

    c.axes.plot((24, 1896), (862, 862), color=GREY, lw=1, ls=(0, (6, 6)))
    c.text(24, 900, "Fine-tuning: a few labels", size=28, weight="bold")
    c.line((671, 694), (671, 836))
    c.box(576, 836, 190, 52, "w", 1)
    c.box(576, 836, 190, 52, GREEN, 0.15, "backbone.pth")
    c.line((671, 888), (671, 936))
    c.picture(scene, 350, 1035, 180, "image")
    c.line((530, 1035), (576, 1035))
    c.line((882, 1035), (1096, 1035))
    for i in range(4):  # block2 + i goes to stage 3 - i of either decoder
        up, half, stage = 613 + 58 * i, blocks[i] / 2, decoder[3 - i] / 2
        over, down = 78 + 15 * i, 1214 - 34 * i
        c.line((up, 430 - half), (up, over), (down, over), (down, 225 - stage), colour=BLUE)
        half, stage, over, down = 0.375 * half, 1.27 * stage, 1184 - 10 * i, 1297 - 58 * i
        c.line((up, 1035 + half), (up, over), (down, over), (down, 1035 + stage), colour=GREEN)
    c.text(1100, 900, "segmentation network", GREEN, 26, weight="bold")
    c.text(989, 1012, "block6", ha="center")
    c.bars(1100, 1035, decoder * 1.27, 46, 58, GREEN)
    c.line((1378, 1035), (1450, 1035), colour=GREEN)
    c.picture(label_map, 1450, 1035, 180, "label map")
    for i, name in enumerate(CLASSES):
        c.box(1676, 956 + 34 * i, 26, 22, COLOURS[i] / 255, 1)
        c.box(1676, 956 + 34 * i, 26, 22, INK, 0)
        c.text(1712, 967 + 34 * i, name)
    pixels = BytesIO()
    c.figure.savefig(pixels)
    Image.open(pixels).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(__file__).with_name("method.png"))
