# Snakemake's Slurm executor forgets jobs whose state it cannot ask for (issue 207 there): with the controller away it
# turns to sacct, and after some attempts waits for ever. Here it asks until it gets an answer.
import asyncio
import sys


def patient(ask, *, pause=10):
    """A query of job states that is repeated until the controller answers."""

    async def asking(command, logger):
        while (answer := await ask(command, logger))[0] is None:
            logger.warning(f"Slurm does not say how jobs are: asking again in {pause} s. They go on meanwhile.")
            await asyncio.sleep(pause)
        return answer

    return asking


def remembered(ask):
    """How long the controller remembers jobs, as it last said: while it is away squeue is still the one to ask."""
    answers = [float("inf")]

    def asking():
        if (answer := ask()) is not None:
            answers[:] = [answer]
        return answers[0]

    return asking


if executor := sys.modules.get("snakemake_executor_plugin_slurm"):
    executor.query_job_status = patient(executor.query_job_status)
    executor.get_min_job_age = remembered(executor.get_min_job_age)
