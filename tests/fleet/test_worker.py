"""How long a slow client may hold a thread."""

from edgec_fleet.worker import Budget


def test_a_thread_is_held_as_long_as_bytes_pay_for_it():
    budget = Budget(10.0, 1000, 0.0)

    assert not budget.is_spent(1000, 9.0)
    assert not budget.is_spent(1000 + 512, 10.5)  # one second earned
    assert budget.is_spent(1000 + 512, 11.1)
    budget.renew(60.0)
    assert not budget.is_spent(1_000_000, 12.0)
    assert budget.is_spent(1_000_060, 12.0 + 61.0)  # a byte a second does not pay
