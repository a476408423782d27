# Every target makes its own environment first (.venv). `VENV=/path make test` uses another one.
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
PYTHON ?= python3
CONFIG ?= config/pictures.yaml
# of make paper: the arms that make demo leaves out are in a file of their own, if there is one
PAPER = $(or $(wildcard $(CONFIG:.yaml=-paper.yaml)),$(CONFIG))
INSTALLED ?= $(VENV)/.installed
NAME = $(shell sed -n 's/^name: *//p' $(CONFIG))
RUN = PATH="$(BIN):$$PATH" MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
# A live view in a terminal, plain lines in a log file.
RICH := $(shell test -t 2 && echo --logger rich)
SEEDS ?= 0,1,2
README = $(if $(filter config/pictures.yaml,$(CONFIG)),--readme README.md)
# of make full-size: a config that bench/full_size.py lists
BACKBONE ?= showo
COMMA := ,

# lmms-eval wants other versions than constraints.txt (workflow/envs/lmms-eval.txt), so it has an environment of its own.
LMMS ?= .venv-lmms
LMMS_EVAL = lmms-eval==0.7.3

.PHONY: help setup lmms demo quick smoke paper robustness report ui test test-fast test-long test-costs test-kills test-lmms test-cluster test-faults lint bench gpu-check full-size dvc restore

help:
	@echo "make demo     set up, run the whole paper on small pictures, write results/pictures/report.html"
	@echo "make quick    the same on flat shapes, in a third of the time"
	@echo "make smoke    the whole DAG on tiny sizes"
	@echo "make paper    all arms, seeds $(SEEDS), then docs/results/pictures/ and the README's results"
	@echo "make robustness  after make paper: settings of one iteration, one at a time, then docs/results/robustness/"
	@echo "make ui       MLflow on the runs        make report   the HTML report again"
	@echo "make test     set up and run the tests  make lint     style and types"
	@echo "make test-fast  those that are not slow: two minutes"
	@echo "make test-long  several processes, every boundary of a save, further whole DAGs"
	@echo "make test-costs  what plan and bench say against what processes take"
	@echo "make test-kills  make smoke, killed at ten random moments: the same files"
	@echo "make lmms     set up lmms-eval          make test-lmms  run the tests that need it"
	@echo "make test-cluster  the smoke DAG through a real Slurm on this machine; make test-faults with accidents"
	@echo "make bench    hot paths against their limits, hashing  make dvc      regenerate DVC's files, schema, config/README.md"
	@echo "make full-size  one Pair-DPO step and two drawing steps of 1.3B on the CPU: 22 GiB of memory, some minutes;"
	@echo "                BACKBONE=janus-pro-1b: eight image tokens of 2.1B"
	@echo "make gpu-check  what a GPU does, in eight minutes: docs/results/gpu/; on a machine without one, a tiny size on the CPU"
	@echo "make restore  results of the current config from DVC's cache"

setup: $(INSTALLED)
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

lmms: $(LMMS)/.installed
$(LMMS)/.installed: workflow/envs/lmms-eval.txt constraints.txt pyproject.toml
	test -x $(LMMS)/bin/python || $(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -r $<
	$(LMMS)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps $(LMMS_EVAL) -e .
	touch $@

demo: setup
	$(RUN) workflow/run $(RICH) --configfile $(CONFIG)
	@$(MAKE) --no-print-directory report CONFIG=$(CONFIG)
	@echo && cat results/$(NAME)/report/answer.md
	@echo && echo "Tables and figures: results/$(NAME)/report/. Everything in one page: results/$(NAME)/report.html."
	@echo "Training curves and preference samples: make ui."

quick:
	@$(MAKE) --no-print-directory demo CONFIG=config/micro.yaml

smoke: setup
	$(RUN) workflow/run $(RICH) --configfile config/smoke.yaml

paper: setup
	$(RUN) workflow/run $(RICH) --configfile $(PAPER) --config "seeds=[$(SEEDS)]"
	$(RUN) snakemake --quiet all --configfile $(PAPER) --config "seeds=[$(SEEDS)]" --report results/$(NAME)/report.html
	$(RUN) python -m hermesflow publish --config $(PAPER) --seeds $(subst $(COMMA), ,$(SEEDS)) $(README)
	@echo "Committed copies: docs/results/$(NAME)/."

robustness: setup
	$(RUN) python workflow/scripts/robustness.py config/pictures-paper.yaml $(wildcard config/robustness/*.yaml)
	@echo "What matters and what does not: docs/results/robustness/README.md."

report: setup
	$(RUN) snakemake --quiet all --configfile $(CONFIG) --report results/$(NAME)/report.html

ui: setup
	@echo "The columns that matter: menu Views, top right. How to compare runs: docs/mlflow.md."
	$(RUN) MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///results/mlflow.db

PYTEST = $(RUN) OMP_NUM_THREADS=1 python -m pytest
OTHERS = cluster or faults or lmms or kills

# ALL=1: with test-long and test-costs, in the same processes
test: $(VENV)/.installed-dev
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(if $(ALL),-m "not ($(OTHERS))")

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "not (slow or $(OTHERS))"

test-long: $(VENV)/.installed-dev
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m long tests/training tests/workflow

test-costs: $(VENV)/.installed-dev
	$(PYTEST) -n 2 -m costs tests/bench tests/budget

test-lmms: $(LMMS)/.installed $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(LMMS)/bin/python -m pytest -m lmms tests/lmms
	LMMS_PYTHON=$(abspath $(LMMS))/bin/python $(PYTEST) -m lmms tests/workflow

test-kills: $(VENV)/.installed-dev
	$(PYTEST) -m kills tests/workflow

# A Slurm of its own on this machine: root, slurm-wlm and munge (tests/cluster/install.sh).
test-cluster test-faults: $(VENV)/.installed-dev
	$(PYTEST) -m $(@:test-%=%) tests/cluster

lint: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) mypy

bench: setup
	$(RUN) python -m bench
	$(RUN) python -m bench.files

# A machine with a GPU may have no network: its own Python serves where there is no environment.
gpu-check:
	PYTHONPATH="src:$$PYTHONPATH" $(or $(wildcard $(BIN)/python),$(PYTHON)) -m bench.gpu_check

# glibc gives memory back at once only if it is told to.
full-size: setup
	$(RUN) MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=1048576 python -m bench.full_size --backbone $(BACKBONE)

dvc: $(VENV)/.installed-dev
	$(RUN) python -m hermesflow schema > workflow/schemas/config.schema.json
	$(BIN)/jsonschema-markdown --no-footer --no-empty-columns workflow/schemas/config.schema.json 2> /dev/null > config/README.md
	$(RUN) python -m hermesflow dvc --config $(PAPER)
	$(RUN) snakemake --quiet all --rulegraph mermaid-js --configfile $(CONFIG) | $(BIN)/python -m hermesflow dag

restore: setup
	$(RUN) python workflow/scripts/restore.py $(CONFIG)
