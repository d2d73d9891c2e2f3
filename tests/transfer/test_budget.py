"""How long a client may hold a thread of an HTTP listener."""

import pytest

from edgec_fleet.worker import Budget


@pytest.mark.parametrize(
    ("bytes_a_second", "is_cut"), [(0, True), (100, True), (600, False), (2000, False)]
)
def test_who_is_too_slow_for_long_is_cut_off_however_much_came_before(bytes_a_second, is_cut):
    budget, moved, spent = Budget(60.0, 0, now=0.0), 10_000_000, False
    for second in range(1, 600):
        moved += bytes_a_second
        spent = spent or budget.is_spent(moved, float(second))

    assert spent is is_cut
