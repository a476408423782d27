# The whole experiment of one config file: `snakemake` runs config/pictures.yaml,
# `snakemake --configfile config/smoke.yaml` another one, `--config seeds=[0,1,2]` other seeds.
# The rules are the one description of the steps; DVC's files are generated from them (`make dvc`).
from snakemake.utils import min_version

min_version("9.27")


# Steps run in it with `--sdm apptainer`, and in this environment without: see containers/README.md.
container: "containers/hermesflow.sif"


# `all` stands here, first: with it in an included file, bare `snakemake` finds nothing to do.
rule all:
    default_target: True
    input:
        lambda wildcards: rules.report.output,


include: "workflow/rules/config.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/files.smk"
include: "workflow/rules/hashing.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/sampling.smk"
include: "workflow/rules/scoring.smk"
include: "workflow/rules/selfplay.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/drawing.smk"
include: "workflow/rules/grading.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/handlers.smk"
include: "workflow/rules/slurm.smk"
