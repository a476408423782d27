# Time left while a run goes on, and after the last job DVC is told. MLflow needs nothing: each step logs its results, and
# `hermesflow sync` all of them.
from snakemake.logging import is_quiet_about, logger

from hermesflow.cli.time_left import Job, TimeLeft


def record_in_dvc():
    """Tell DVC about results made by a direct run. `dvc repro` does it itself (and holds DVC's lock)."""
    if "DVC_STAGE" in os.environ or not (mirrored := mirrored_stages(Path(CONFIG_FILE), SEEDS)):
        return
    source, targets = mirrored
    file = digests_file(CONFIG)
    subprocess.run([sys.executable, "-m", "hermesflow", "digests", "--config", source, "--steps", file], check=True)
    now = read_json(file)
    if all(now[name] == digest for name, digest in STEPS.items() if not (targets and name == "report")):
        subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *targets])
    else:  # of what is in the files now
        print(
            "Code or settings were changed while it ran, so DVC is not told of the results. Run it again.",
            file=sys.stderr,
        )


onsuccess:
    record_in_dvc()


# Not in what Snakemake starts for jobs (`--no-hooks`), nor on a cluster, where jobs wait for others than these.
onstart:
    hushed = is_quiet_about(workflow.output_settings.quiet or (), "progress")
    if workflow.local_exec and not (workflow.touch or hushed or "DVC_STAGE" in os.environ):
        # No event tells of jobs before they start, so they are the DAG's: what Snakemake's scheduler itself asks it.
        runs = [job for job in workflow.dag.needrun_jobs() if not job.is_norun]
        threads = {rule: job.threads for rule, job in {job.rule.name: job for job in runs}.items()}  # 1 ms a job
        waits_for = workflow.dag.dependencies
        jobs = {
            job.jobid: Job(
                job.rule.name,
                threads[job.rule.name],
                job.priority,
                frozenset(other.jobid for other in waits_for[job]),
            )
            for job in runs
        }
        # Lines go through Snakemake's logger: to its log file too, and above the live view of `--logger rich`.
        logger.addHandler(
            TimeLeft(
                jobs,
                workflow.cores,
                say=logger.info,
                durations=ROOT / "logs" / "durations.csv",
                published=Path("docs/results") / CONFIG.name / "durations.json",
            )
        )
