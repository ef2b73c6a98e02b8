"""Colours of classes."""

from itertools import combinations

import numpy as np

from SSLRemoteSensing.core.classes import colour_map, usual_palette


def test_classes_have_the_colours_that_maps_have_and_no_two_the_same():
    names = [
        "informal settlement",
        "Built-up",
        "impervious",
        "low_vegetation",
        "bare land",
        "Water",
    ]
    settlement, built, impervious, low, bare, water = usual_palette(names)
    assert np.argmax(water) == 2  # blue
    assert np.argmax(low) == 1  # green
    assert max(impervious) - min(impervious) < 10  # grey
    assert np.argmax(built) == np.argmax(settlement) == np.argmax(bare) == 0
    assert len({settlement, built, impervious, low, bare, water}) == 6


def test_words_count_as_wholes_and_unknown_or_double_ones_get_another_colour():
    """'ice' is in office, 'car' in scar, 'sea' in research."""
    known = usual_palette(["ice", "car", "sea"])
    others = usual_palette(["offices", "scar", "research", "trees", "tree", "forest"])
    assert not {*known} & {*others}
    assert len({*others}) == 6
    assert usual_palette(["tree"])[0] in others[3:]
    names = ["informal", "built", "impervious", "vegetation", "barren", "water"]
    pairs = combinations(np.array(usual_palette(names)), 2)
    assert min(np.linalg.norm(first - second) for first, second in pairs) > 60
    many = usual_palette([f"class {number}" for number in range(40)])
    assert len({*many}) == 40
    assert colour_map(np.array([[0, 39, 255]]), many).tolist() == [
        [list(many[0]), list(many[39]), [0, 0, 0]]
    ]
