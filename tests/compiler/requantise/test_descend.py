"""Laws of the choice of integers, on layers so small that hand or brute force can check them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_compiler.requantise.descend import descend

seeds = st.integers(0, 2**32 - 1)
LIMIT = 127


def layer(seed, groups=1, rows=3, columns=7, gap=3.0):
    """Return (wanted, deployed, hessian, weight) of a random layer."""
    draw = np.random.default_rng(seed)
    deployed = draw.integers(-20, 21, (groups, rows, columns)).astype(np.int8)
    wanted = deployed + draw.normal(0, gap, deployed.shape)
    inputs = draw.normal(0, 1, (groups, 50, columns)) + draw.normal(0, 2, (groups, 50, 1))
    hessian = (inputs.transpose(0, 2, 1) @ inputs / 50 + 0.05 * np.eye(columns)).astype(np.float32)
    return wanted, deployed, hessian, draw.uniform(0.5, 2, (groups, rows))


def cost(q, wanted, deployed, hessian, weight, price):
    """Return what `descend` minimises."""
    error = q - wanted
    loss = (((error @ hessian) * error).sum(2) * weight).sum()
    return loss + price * np.count_nonzero(q != deployed)


def test_a_kept_weight_pushes_its_error_into_the_other_column():
    # Inputs 1 and 1 always together: only the sum of both weights matters. Wanted 5.6 + 5.0, and
    # rounding gives 6 + 5; one of the deployed 5s may stay, since 5 + 6 or 6 + 5 is as good.
    wanted, deployed = np.array([[[5.6, 5.4]]]), np.array([[[5, 5]]], np.int8)
    hessian = np.array([[[1.0, 0.999], [0.999, 1.0]]], np.float32)

    q = descend(wanted, deployed, hessian, np.ones((1, 1)), 0.01, LIMIT)

    assert q.sum() == 11
    assert np.count_nonzero(q != deployed) == 1


@given(seeds)
def test_without_sweeps_it_is_ordinary_rounding(seed):
    wanted, deployed, hessian, weight = layer(seed)

    q = descend(wanted, deployed, hessian, weight, 0.0, LIMIT, sweeps=0)

    np.testing.assert_array_equal(q, np.rint(wanted.astype(np.float32)))


@given(seeds)
def test_price_zero_with_uncorrelated_inputs_is_ordinary_rounding(seed):
    wanted, deployed, hessian, weight = layer(seed)
    hessian = hessian * np.eye(hessian.shape[1], dtype=np.float32)

    q = descend(wanted, deployed, hessian, weight, 0.0, LIMIT)

    assert np.abs(q - wanted).max() <= 0.5 + 1e-5


@given(seeds)
def test_price_zero_never_loses_against_ordinary_rounding(seed):
    problem = layer(seed)
    plain = np.rint(problem[0])

    q = descend(*problem, 0.0, LIMIT)

    assert cost(q, *problem, 0) <= cost(plain, *problem, 0) * (1 + 1e-4) + 1e-4


@given(seeds, st.sampled_from([7, 64, 127]))
def test_at_an_infinite_price_every_deployed_value_stays_that_can_be_represented(seed, limit):
    wanted, deployed, hessian, weight = layer(seed)
    deployed = (deployed * 5).astype(np.int8)

    q = descend(wanted, deployed, hessian, weight, np.inf, limit)

    np.testing.assert_array_equal(q, np.clip(deployed, -limit, limit))


@given(seeds, st.sampled_from([0.0, 0.5, 30.0, np.inf]))
def test_what_was_pruned_stays_zero_whatever_was_deployed(seed, price):
    wanted, deployed, hessian, weight = layer(seed, groups=2, columns=70)
    pruned = np.random.default_rng(seed).random(wanted.shape) < 0.5
    wanted[pruned] = 0

    q = descend(wanted, deployed, hessian, weight, price, LIMIT)

    assert not q[pruned].any()


@given(seeds, st.floats(0.01, 1000))
def test_the_sum_of_loss_and_price_is_never_above_that_of_ordinary_rounding(seed, price):
    problem = layer(seed, groups=2, rows=2, columns=70)  # more columns than one block
    plain = np.rint(problem[0])

    q = descend(*problem, price, LIMIT)

    assert cost(q, *problem, price) <= cost(plain, *problem, price) * (1 + 1e-4) + 1e-3


@given(seeds)
def test_equal_old_and_new_weights_change_nothing(seed):
    _, deployed, hessian, weight = layer(seed)

    for price in (0.0, 1.0, np.inf):
        q = descend(deployed.astype(np.float64), deployed, hessian, weight, price, LIMIT)
        np.testing.assert_array_equal(q, deployed)


@given(seeds)
def test_groups_do_not_see_each_other(seed):
    wanted, deployed, hessian, weight = layer(seed, groups=3)

    whole = descend(wanted, deployed, hessian, weight, 1.0, LIMIT)

    for g in range(3):
        part = slice(g, g + 1)
        alone = descend(wanted[part], deployed[part], hessian[part], weight[part], 1.0, LIMIT)
        np.testing.assert_array_equal(whole[part], alone)


@given(seeds, st.sampled_from([0.0, 0.5, 5.0]))
def test_no_value_leaves_the_limit(seed, price):
    problem = layer(seed, gap=40.0)

    q = descend(*problem, price, 30)

    assert np.abs(q).max() <= 30


def test_it_wins_most_of_what_the_best_of_all_choices_would():
    price, won, possible = 0.5, 0.0, 0.0
    for seed in range(60):
        problem = layer(seed, rows=1, columns=4, gap=0.7)
        wanted = problem[0]
        choices = [
            {int(old), int(np.floor(w)), int(np.ceil(w))}
            for old, w in zip(problem[1].ravel(), wanted.ravel(), strict=True)
        ]
        candidates = (np.array(one).reshape(1, 1, -1) for one in itertools.product(*choices))
        best = min(cost(one, *problem, price) for one in candidates)
        plain = cost(np.rint(wanted), *problem, price)
        made = cost(descend(*problem, price, LIMIT), *problem, price)
        won, possible = won + plain - made, possible + plain - best

    assert won >= 0.75 * possible


@pytest.mark.parametrize("price", [0.0, 0.3, 30.0])
def test_the_same_problem_has_the_same_answer(price):
    problem = layer(5, groups=2, rows=4, columns=130)

    np.testing.assert_array_equal(descend(*problem, price, LIMIT), descend(*problem, price, LIMIT))
