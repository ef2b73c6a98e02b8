# make install      a virtual environment in .venv with the package and what it needs
# make test         the same with the tools of the checks; then ruff, import-linter, mypy and pytest
# make test-matrix  a part of the tests on several Pythons, newest and lowest versions
# make test-install the steps of the Dockerfile without docker: what they install, and that it starts
# make demo         the whole way on drawn scenes, in some minutes: see tools/demo.py
# make few_labels   the tiles of configs/few_labels_*_cfg.py, from the open data sets in data/
# make gpu          all that needs a GPU, in nine minutes of one: see tools/gpu_day.py
# make weights      weights to take, of all open data sets in data/; some hours on a CPU

PYTHON ?= python3
BIN = .venv/bin

install: .venv/installed

demo: .venv/installed
	$(BIN)/python tools/demo.py

# On a machine with a GPU, whose Python has torch; `make gpu_pack` beforehand where data/ is.
gpu:
	$(PYTHON) tools/gpu_day.py --minutes 9 --out gpu_day

gpu_pack: .venv/installed
	$(BIN)/python tools/gpu_day.py pack --data data

# What is there is not made again, what was stopped goes on.
FEW = runs/few_labels
PREPARE = $(BIN)/python tools/prepare.py
REDUCE = $(BIN)/python tools/reduce_tiles.py

few_labels: $(FEW)/mumbai/dataset.json $(FEW)/sparcs/dataset.json $(FEW)/dubai/dataset.json

$(FEW)/quarter/%/reduced: | .venv/installed
	$(REDUCE) --images data/$*/images --labels data/$*/labels --factor 4 --output $(@D)
	touch $@

$(FEW)/mumbai/dataset.json: | $(FEW)/quarter/mumbai/reduced
	$(PREPARE) folder --source $(FEW)/quarter/mumbai --output $(@D) --tile 64 --label_offset -1 \
		--classes informal built impervious vegetation barren water \
		--splits data/mumbai/scenes.csv

$(FEW)/sparcs/dataset.json: | $(FEW)/quarter/sparcs/reduced
	$(PREPARE) folder --source $(FEW)/quarter/sparcs --output $(@D) --tile 64 \
		--classes shadow shadow_on_water water snow land cloud flooded \
		--splits data/sparcs/scenes.csv

$(FEW)/dubai/dataset.json: | $(FEW)/quarter/dubai/reduced
	$(PREPARE) folder --source $(FEW)/quarter/dubai --output $(@D) --tile 64 --label_offset -1 \
		--classes building land road vegetation water \
		--splits train 'val=area8_*' 'test=area3_*,area6_*,area7_*'

runs/oam/half/reduced: | .venv/installed
	$(REDUCE) --images data/oam_buildings/images --factor 2 --output $(@D)
	touch $@

runs/oam/naip/dataset.json: | .venv/installed
	$(PREPARE) folder --source data/naip --output $(@D) --tile 128 --bands rgb --splits val=0

# Images of the training scenes alone, so that the weights can be tested on the others. Those of
# landsat_clouds have 16 bits, and one run has one scale.
WEIGHTS = runs/weights/resnet18
POOL = few_labels/mumbai/images/train few_labels/sparcs/images/train few_labels/dubai/images/train \
	oam/naip/images/train
SITES = zanzibar nepal philippines
FILES = $(POOL:%='%/*.png',)$(SITES:%='oam/half/images/%_*.png',)

weights: few_labels runs/oam/half/reduced runs/oam/naip/dataset.json
	$(BIN)/python train.py --config_file configs/few_labels_pretrain_cfg.py \
		--checkpoints_path $(WEIGHTS) --log_path $(WEIGHTS)/log --set name=weights_resnet18 \
		train_cfg.num_step=3000 train_cfg.train_data.data_path=runs \
		"train_cfg.train_data.data_format=($(FILES))"
	$(BIN)/python tools/export.py --checkpoint $(WEIGHTS)/backbone.pth --overwrite \
		--format safetensors --output $(WEIGHTS)/export/weights.safetensors

test: .venv/installed-dev
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck tools/install.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Another machine's interpreters: make test-matrix PYTHONS='3.12 /opt/python3.13/bin/python'
PYTHONS = 3.11 3.12 3.13 3.14
test-matrix: .venv/installed-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/version_matrix.py --pythons $(PYTHONS)

BUILD = cpu
test-install:
	rm -rf build/installed
	tools/install.sh build/installed $(BUILD)
	du -sh build/installed
	rm -rf build/installed

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.PHONY: install demo gpu gpu_pack few_labels weights test test-matrix test-install
