"""How well one threshold on the grey value tells buildings, site by site (history.md).

Run from the root of the repository; configs/oam_pretrain_resnet18_cfg.py has how tiles are made.
"""

from pathlib import Path

import cv2
import numpy as np


def counts(*sites):  # of grey values, by class
    found = np.zeros((2, 256))
    for image in (p for site in sites for p in Path("runs/oam/half/images").glob(f"{site}_*.png")):
        grey, label = cv2.imread(image, 0), cv2.imread(image.parents[1] / "labels" / image.name, -1)
        for c in (0, 1):
            found[c] += np.bincount(grey[label == c], minlength=256)
    return found


def miou(c, t):  # building is what is at least t
    right = np.array([c[0, :t].sum(), c[1, t:].sum()])
    return 50 * (right / (c.sum() - right[::-1])).sum()


for site in ("zanzibar", "nepal", "philippines", "nairobi", "kampala"):
    c = counts(site)
    other, building = c / c.sum(1, keepdims=True)
    area = (building * (other.cumsum() - other / 2)).sum()
    print(site, f"area {area:.2f}, buildings {c[1].sum() / c.sum():.1%}")
train, test = counts("zanzibar", "nepal", "philippines"), counts("nairobi", "kampala")
t = max(range(256), key=lambda t: miou(train, t))
best = max(miou(test, t) for t in range(256))
print(f"threshold {t}: {miou(train, t):.1f}, test {miou(test, t):.1f}; best for test {best:.1f}")
