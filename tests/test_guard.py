"""When the numbers of a run go wrong, by a plain re-statement of the rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rngru.backends import Step
from rngru.training import Guard

SYMBOLS = 20
BLIND = math.log(SYMBOLS)


def step(loss: float, gradnorm: float = 1.0) -> Step:
    return Step(loss, gradnorm, {}, {}, np.zeros((1, 1, 1), np.float32))


class Rule:
    """The rule in words, with every loss kept: the mean forgets a tenth with each batch."""

    def __init__(self):
        self.start, self.seen = None, []

    def wrong(self, loss, looked, finite):
        losses = [*self.seen, loss]
        weights = [0.9 ** (len(losses) - 1)]  # the first stands for all before it
        weights += [0.1 * 0.9 ** (len(losses) - 1 - i) for i in range(1, len(losses))]
        mean = sum(weight * each for weight, each in zip(weights, losses, strict=True))
        start = loss if self.start is None else self.start
        if not finite or not math.isfinite(loss) or not mean <= max(2 * start, BLIND + 1):
            self.seen = []
            return True
        if not looked:
            self.start, self.seen = start, losses
        return False


losses = st.floats(0, 20) | st.sampled_from([math.nan, math.inf, BLIND + 1, 0.0])
happenings = st.lists(
    st.tuples(losses, st.booleans(), st.sampled_from([True] * 9 + [False])), max_size=40
)


@given(happenings)
def test_what_is_wrong_is_what_the_rule_says(happenings):
    """A mean that forgets too fast, a start forgotten after a way back, a look that counts as a batch."""
    guard, rule, times = Guard(SYMBOLS), Rule(), 0
    for loss, looked, finite in happenings:
        wrong = rule.wrong(loss, looked, finite)
        told = guard.fault(loss, None if looked else step(loss), finite=finite)
        assert bool(told) == wrong
        times += wrong
        assert guard.times == times


def test_a_loss_at_the_limit_is_still_fine():
    """An untrained model of few symbols, exactly at its limit, stopped before it begins."""
    guard = Guard(SYMBOLS)
    assert guard.fault(BLIND + 1, step(1)) == ""
    assert guard.times == 0


def test_the_limit_is_the_larger_of_the_two():
    """A bad start (a model changed by hand) for which twice the start is the only fair limit."""
    guard = Guard(SYMBOLS)
    assert guard.fault(50.0, step(50)) == ""
    assert guard.fault(140.0, step(140)) == ""  # 0.9 · 50 + 0.1 · 140 = 59
    assert guard.fault(1000.0, step(1000)) != ""  # 0.9 · 59 + 0.1 · 1000 = 153


def test_one_bad_batch_is_no_alarm_but_a_climb_is():
    """A surprising page stops the run; or a slow divergence is never seen."""
    guard = Guard(SYMBOLS)
    assert [guard.fault(2.0, step(2)) for _ in range(5)] == [""] * 5
    assert guard.fault(20.0, step(20)) == ""  # 3.8, and the limit is 4.0 nats
    assert guard.fault(20.0, step(20)).startswith("The loss climbs")


def test_a_look_changes_nothing():
    """Looks ahead, of few symbols, that move the mean or set the start."""
    guard = Guard(SYMBOLS)
    assert guard.fault(3.0) == ""
    for _ in range(20):
        assert guard.fault(3.9) == ""
    guard.fault(1.0, step(1))
    assert guard.fault(3.9, step(3.9)) == ""
    # Had the looks counted, this mean (1.29 with the batch before) would be above 4.
    assert guard.fault(20.0, step(20)) == ""


@pytest.mark.parametrize(
    ("loss", "found", "finite", "told"),
    [
        (6.0, step(6), True, "The loss climbs far above its start, to 6 nats per word"),
        (6.0, None, True, "The loss climbs far above its start, to 6 nats per word"),
        (math.nan, None, True, "The last update left numbers that are not finite; the loss is nan"),
        (2.5, None, False, "The last update left numbers that are not finite; the loss is 2.5"),
        (
            2.5,
            step(2.5),
            False,
            "The last update left numbers that are not finite; the loss is 2.5",
        ),
        (math.inf, step(math.inf, 2), True, "The loss is inf and the length of the gradient 2"),
        (2.5, step(2.5, math.nan), True, "The loss is 2.5 and the length of the gradient nan"),
    ],
)
def test_what_is_told(loss, found, finite, told):
    """A person who is told of the loss where the weights are at fault."""
    guard = Guard(SYMBOLS, "words")
    guard.fault(1.0, step(1))
    for _ in range(200):  # the mean follows
        guard.fault(3.99, step(3.99))
    assert guard.fault(loss, found, finite=finite) == told
