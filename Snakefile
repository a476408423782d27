# The whole experiment of one config file: `snakemake` runs config/micro.yaml,
# `snakemake --configfile config/smoke.yaml` another one, `--config seeds=[0,1,2]` other seeds.
# The rules are the one description of the steps; dvc.yaml is generated from them (`make dvc`).
from snakemake.utils import min_version

min_version("9.0")


# `all` stands here, first: with it in an included file, bare `snakemake` finds nothing to do.
rule all:
    default_target: True
    input:
        lambda wildcards: rules.report.output,


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/sampling.smk"
include: "workflow/rules/scoring.smk"
include: "workflow/rules/selfplay.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


def start_tracking():
    """Make MLflow's database and runs; steps that track wait for it. Under `dvc repro` they make what they need."""
    if "DVC_STAGE" not in os.environ:
        track = [sys.executable, "-m", "hermesflow", "track", "--config", CONFIG_FILE, "--seeds"]
        subprocess.Popen([*track, *map(str, SEEDS)])


def record_in_dvc():
    """Tell DVC about results made by a direct run. `dvc repro` does it itself (and holds DVC's lock)."""
    if "DVC_STAGE" not in os.environ and is_mirror(Path("dvc.yaml"), Path(CONFIG_FILE), SEEDS):
        subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet"])


onstart:
    start_tracking()


onsuccess:
    record_in_dvc()
