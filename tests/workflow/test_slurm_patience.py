"""What the rules change in Snakemake's Slurm executor (tests/cluster has it on a real Slurm)."""

import asyncio
import logging

import pytest

from .conftest import REPOSITORY


@pytest.fixture(scope="module")
def rules():
    names = {}
    exec((REPOSITORY / "workflow" / "rules" / "slurm.smk").read_text(), names)
    return names


def test_states_are_asked_for_until_there_is_an_answer(rules, caplog):
    answers = iter([(None, None), (None, None), ({"7": "RUNNING"}, 0.1)])

    async def ask(command, logger):
        return next(answers)

    asking = rules["patient"](ask, pause=0)
    assert asyncio.run(asking("squeue", logging.getLogger())) == ({"7": "RUNNING"}, 0.1)
    assert caplog.text.count("asking again") == 2


def test_a_controller_that_is_away_does_not_change_how_long_it_remembers_jobs(rules):
    answers = iter([None, 300, None])
    asking = rules["remembered"](lambda: next(answers))
    assert [asking(), asking(), asking()] == [float("inf"), 300, 300]
