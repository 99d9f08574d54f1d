# Every chore of the project. Each target sets up what it needs; `make` alone lists them.
#   PYTHON=python3.12 make build       another Python (3.11 or later) for .venv
#   APT_PACKAGES=true make build       leave the Debian packages alone: all that .ci/apt-packages names is there some other way
#   NESTVMM_REQUIRE= make test         skip the tests whose machine is missing instead of failing them
#   make test JOBS=1                   one test at a time; else two modules at a time: labs have one CPU
#   make test ARGS='-k memory'         arguments for pytest, or for `nestvmm bench` with `make bench`

PYTHON ?= python3
APT_PACKAGES ?= .ci/apt-packages
NESTVMM_REQUIRE ?= kvm,svm_lab,vmx_lab
JOBS ?= 2
SETS := build
BIN := .venv/bin
INSTALLED := .venv/installed
NATIVE := $(shell find native -type f -not -path '*/__pycache__/*')

.PHONY: help run test prove lint bench guests build clean packages
.DELETE_ON_ERROR:

help:
	@echo "make run     run the demonstration tower, guests/tower.toml"
	@echo "make test    run all tests, those in the labs included"
	@echo "make prove   run the tests that take too long for that: Linux's KVM at levels 1 and 2"
	@echo "make lint    check style, types and C warnings"
	@echo "make bench   measure on this host"
	@echo "make build   make .venv with nestvmm in it"
	@echo "make guests  build the guests"
	@echo "make clean   delete everything that was built, .venv included"

test prove bench: SETS := build lab

run: build guests
	$(BIN)/nestvmm run guests/tower.toml --stats

test: build guests
	NESTVMM_REQUIRE='$(NESTVMM_REQUIRE)' $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

prove: build guests
	NESTVMM_REQUIRE='$(NESTVMM_REQUIRE)' $(BIN)/python -m pytest --prove -m prove $(ARGS)

bench: build guests
	$(BIN)/nestvmm bench --peer qemu $(ARGS)

# The guests' own Makefile compiles them with warnings as errors.
lint: build guests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(CC) -std=gnu11 -Wall -Wextra -Werror -fsyntax-only $(wildcard native/*.c)
	$(CC) -std=gnu11 -Wall -Wextra -Werror -fsyntax-only -Inative -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') $(wildcard native/python/*.c)

guests: packages
	$(MAKE) -C guests

build: $(INSTALLED)

$(INSTALLED): pyproject.toml $(NATIVE) | packages
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nestvmm needs Python 3.11 or later and $(PYTHON) is " + sys.version.split()[0] + "; name a newer one: make PYTHON=python3.11 build")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,report]'
	@touch $@

packages:
	@$(APT_PACKAGES) $(SETS)

clean:
	-$(MAKE) -C guests clean
	rm -rf .venv build dist *.egg-info nestvmm/_native.*.so nestvmm/_dispatch.*.so nestvmm/engines/switcher_*.bin nestvmm/lab/*.bin .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find nestvmm native tests -name __pycache__ -type d -prune -exec rm -rf {} +
