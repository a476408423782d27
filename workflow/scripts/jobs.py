"""Print every job of a config as JSON lines: rule, wildcards, input, output. Snakemake's own dry run tells.

    python workflow/scripts/jobs.py CONFIG [SEED ...]

Without seeds they are those of the config.
"""

import json
import logging
import sys
from pathlib import Path

from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent


class Jobs(logging.Handler):
    """Collect what Snakemake says about each job."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record if it describes a job."""
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            self.jobs.append(
                {
                    "rule": record.rule_name,
                    "wildcards": dict(record.wildcards),
                    "input": sorted(map(str, record.input)),
                    "output": sorted(map(str, record.output)),
                }
            )


def main(config_file: str, *seeds: str) -> None:
    """Dry-run everything for one config."""
    handler = Jobs()
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(
                configfiles=[Path(config_file)], config={"seeds": [int(seed) for seed in seeds]} if seeds else {}
            ),
        )
        logger.addHandler(handler)  # Snakemake has set up its own by now
        workflow.dag(dag_settings=DAGSettings(forceall=True)).execute_workflow(executor="dryrun")
    for job in handler.jobs:
        print(json.dumps(job, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
