# make install   a virtual environment in .venv with the package and what it needs
# make test      the same with the tools of the checks; then ruff, import-linter, mypy and pytest
# make demo      the whole way on drawn scenes, in some minutes: see tools/demo.py

PYTHON ?= python3
BIN = .venv/bin

install: .venv/installed

demo: .venv/installed
	$(BIN)/python tools/demo.py

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.PHONY: install demo test
