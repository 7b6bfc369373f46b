# make demo | test | lint | format | generate | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one thread a worker: the tests run side by side
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 8))")

.PHONY: demo test lint format generate clean

# set-up: the pins of envs/, again when they change
$(VENV)/.done: envs/cpu.txt envs/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/dev.txt
	@touch $@

demo: $(VENV)/.done
	$(BIN)/snakemake --cores all --resources gpu=1 --quiet rules host
	@echo
	@cat logs/pass*.log
	@echo
	@echo "final descriptors:     results/descriptors/final_descriptors.txt"
	@echo "why the others went:   results/descriptors/removed_descriptors.tsv"
	@echo "who stands for whom:   results/descriptors/final_cluster_info.json"
	@echo "picture:               results/descriptors/overview.png"

test: $(VENV)/.done
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

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

clean:
	rm -rf results logs benchmarks/*.tsv .snakemake
