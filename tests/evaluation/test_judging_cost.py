import math
from dataclasses import replace

import pytest

from hermesflow.config.judges import Prices
from hermesflow.evaluation.judges.cost import Budget, estimate, total
from hermesflow.evaluation.judges.instructions import OF_IMAGE, OF_TEXT
from hermesflow.evaluation.judges.protocol import Item
from hermesflow.evaluation.judges.replies import Reply

PRICES = Prices(input=2.5, output=10.0, image_tokens=255)


def test_total_by_hand():
    replies = [Reply("", False, "m", 1000, 20), Reply("", True, "m", 3000, 0)]
    bill = total(replies, PRICES)
    assert (bill.answers, bill.prompt_tokens, bill.completion_tokens, bill.unmetered) == (2, 4000, 20, 0)
    assert bill.dollars == pytest.approx(0.0102)  # 4000 * 2.5 / 1e6 + 20 * 10 / 1e6


def test_answers_without_tokens_are_counted_apart():
    bill = total([Reply("", False, "m", None, None), Reply("", False, "m", 400_000, 0)], PRICES)
    assert (bill.answers, bill.unmetered, bill.dollars) == (2, 1, 1.0)


def test_estimate_by_hand():
    items = [Item("a", b"png", "what ?", ("x", "y"), "x"), Item("a", "an x", "what ?", ("x", "y"), "x")]
    of_image = math.ceil((len(OF_IMAGE) + len("Question: what ?\nChoices:\n- x\n- y")) / 4) + 255
    of_text = math.ceil((len(OF_TEXT) + len('Question: what ?\nChoices:\n- x\n- y\nThe answer to be read: "an x"')) / 4)
    bill = estimate(items, PRICES, max_tokens=50)
    assert (bill.answers, bill.prompt_tokens, bill.completion_tokens) == (2, of_image + of_text, 100)
    assert bill.dollars == pytest.approx((of_image + of_text) * 2.5e-6 + 100 * 10e-6)


def test_nothing_to_ask_costs_nothing():
    assert estimate([], PRICES, max_tokens=50).dollars == total([], PRICES).dollars == 0


def test_cached_tokens_have_a_price_of_their_own():
    replies = [Reply("", False, "m", 1000, 0, cached_tokens=600)]
    assert total(replies, PRICES).dollars == pytest.approx(0.0025)  # 1000 * 2.5 / 1e6
    bill = total(replies, replace(PRICES, cached_input=1.25))
    assert bill.dollars == pytest.approx(0.00175)  # (400 * 2.5 + 600 * 1.25) / 1e6
    assert (bill.prompt_tokens, bill.cached_tokens) == (1000, 600)


def test_a_budget_by_hand():
    prices = Prices(input=0, output=1e6, image_tokens=0)  # a token written is a dollar
    budget = Budget(10.0, spent=4.0)
    assert budget.reserve(3.0) and budget.reserve(3.0)
    assert not budget.reserve(0.1)
    budget.charge(3.0, Reply("", False, "m", 0, 1), prices)
    assert budget.used == 8.0  # 4 + 1 + 3 reserved
    budget.charge(3.0, Reply("", False, "m", None, None), prices)
    assert budget.used == 8.0  # nobody knows its price
    assert budget.reserve(2.0) and not budget.reserve(0.1)
    assert Budget(None, spent=1e9).reserve(1e9)
