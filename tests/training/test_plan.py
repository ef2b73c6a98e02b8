"""Where steps stand in the epochs, when a run goes on with other steps than it began with."""

import pytest

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.training.plan import make_plan
from SSLRemoteSensing.training.settings import LoopSettings


@pytest.mark.parametrize("step", [0, 3, 10, 19, 30])
def test_going_on_as_before_changes_nothing(step):
    straight = make_plan(103, 10, 3, None, None)
    assert (straight.total, straight.per_epoch) == (30, 10)
    going_on = make_plan(103, 10, 3, None, straight.position(step))
    assert (going_on.first, going_on.total, going_on.shift) == (step, 30, 0)


def test_larger_steps_begin_behind_what_was_seen():
    """25 of 100 images of the second epoch: in steps of 10 the next is the fourth, at image 30."""
    small = make_plan(100, 5, 4, None, None)
    large = make_plan(100, 10, 4, None, small.position(25))
    assert large.position(25) == {"step": 25, "epoch": 1, "offset": 30, "per_step": 10}
    assert large.total == 25 + 7 + 10 + 10
    assert (large.epoch(25 + 6), large.epoch(25 + 7)) == (1, 2)
    assert large.index(25) * large.per_step == 130
    assert large.progress(25) == (13, 40, 1)  # a third of the way, in epochs as in places


def test_a_number_of_steps_is_kept():
    small = make_plan(100, 5, None, 50, None)
    large = make_plan(100, 10, None, 50, small.position(20))
    assert (large.first, large.total) == (20, 50)
    assert large.progress(20) == (20, 50, 1)


def test_a_rest_smaller_than_a_step_is_left_out():
    late = make_plan(20, 4, 3, None, None).position(4)
    plan = make_plan(20, 12, 3, None, late)
    assert (plan.epoch(4), plan.position(4)["offset"]) == (1, 0)


@pytest.mark.parametrize("length", [{"num_epoch": 1, "num_step": 2}, {}])
def test_a_length_is_given_once_and_the_error_says_how_to_take_one_away(length):
    places = dict(checkpoints=dict(checkpoints_path="."), log=dict(log_path="."))
    with pytest.raises(UserError, match=r"either .*, and None for the other \(--set train_cfg\.nu"):
        LoopSettings(batch_size=1, optimizer=dict(name="SGD", lr=0.1), **places, **length)
