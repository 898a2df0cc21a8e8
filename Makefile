# make train: set everything up and train a small PerViT on real images.
# make train-detection, make train-segmentation: the same, with the published PerViT-nano as the backbone.
# make test:  set everything up, with mmcv's compiled ops, and run every test.
# make test-forks: the same in an environment of its own, with the onedl-* forks.
#
# Everything goes into the virtual environment $(VENV), made with $(PYTHON). Stamp files in it record what is done, so a
# second run installs nothing.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/pervit_nano_3e_fashion-mnist.py
# More arguments for tools/train.py and for pytest.
TRAIN_ARGS ?=
TEST_ARGS ?=
# Processes that share the tests, one thread each. Give 0 for the debugger: make test TEST_PROCESSES=0 TEST_ARGS=--pdb
TEST_PROCESSES ?= 2

# STACK=forks installs the onedl-* forks, which have the same import names. An environment holds one of the two stacks.
STACK ?= originals
FORKS_PYTHON ?= python3.12
ifeq ($(STACK),forks)
CONSTRAINTS := constraints-forks.txt
MMCV := onedl-mmcv
# Without torch at hand, pip builds the fork without ops.
MMCV_LITE := onedl-mmcv
CLASSIFICATION := onedl-mmengine onedl-mmpretrain
DENSE := onedl-mmdetection onedl-mmsegmentation
else
CONSTRAINTS := constraints.txt
MMCV := mmcv
MMCV_LITE := mmcv-lite
CLASSIFICATION := mmengine mmpretrain
DENSE := mmdet mmsegmentation
endif

PY := $(VENV)/bin/python
# -qq: errors only.
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check -c $(CONSTRAINTS)
SETTINGS := $(sort constraints.txt $(CONSTRAINTS)) setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-test data scenes train train-detection train-segmentation test test-recipes test-web \
  test-forks faults lint clean clean-all

help:
	@echo 'make train       set up, fetch Fashion-MNIST, train $(CONFIG)'
	@echo 'make train-detection, make train-segmentation'
	@echo '                 set up with mmcv ops, draw FashionScenes, train the published PerViT-nano'
	@echo '                 on with Mask R-CNN or Semantic FPN, in PROCESSES=N processes'
	@echo 'make test        set up with mmcv ops, fetch Fashion-MNIST, draw FashionScenes, lint, run every test'
	@echo 'make test-recipes'
	@echo '                 set up, run the rest of docs/other_libraries.md and docs/recipes.md'
	@echo 'make test-web    set up, try demo/web_demo.py in Chromium'
	@echo 'make test-forks  make test with the onedl-* forks, on $(FORKS_PYTHON), in $(VENV)-forks'
	@echo 'make faults      set up, run the tests of what goes wrong alone'
	@echo 'make setup       what training takes (no compiler needed)'
	@echo 'make setup-test  what testing takes (a C++ compiler and the headers of Python)'
	@echo 'make data        put Fashion-MNIST into data/fashion_mnist'
	@echo 'make scenes      put FashionScenes into data/fashion_scenes'
	@echo 'make lint        ruff'
	@echo 'make clean       remove caches and build output'
	@echo 'make clean-all   remove $(VENV), $(VENV)-forks and the data as well'
	@echo 'Another Python: make train PYTHON=python3.12. Another environment: VENV=folder.'

$(VENV)/.stamp-venv:
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo 'There is no $(PYTHON): install Python 3.10, 3.11 or 3.12, or name one by PYTHON=...' >&2; \
	  exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "$(PYTHON) is $$('$(PYTHON)' -V 2>&1): the tested stack takes Python 3.10, 3.11 or" \
	    '3.12; name such a one by PYTHON=python3.11, for example.' >&2; \
	  exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments: on Debian or Ubuntu, "apt-get install' \
	    'python3-venv" as root.' >&2; \
	  exit 1; }
	@echo 'Making the virtual environment $(VENV).'
	@'$(PYTHON)' -m venv '$(VENV)'
	@touch $@

# Training takes mmcv with ops if it is installed already, and mmcv-lite otherwise. mmcv-lite would overwrite the files
# of mmcv.
$(VENV)/.stamp-setup: $(VENV)/.stamp-venv $(SETTINGS)
	@echo 'Installing torch, MMEngine, mmcv and MMPretrain (gigabytes; this takes minutes).'
	@$(PIP) setuptools
	@mmcv=$(MMCV_LITE); \
	if $(PY) -c 'import importlib.metadata as m; m.version("$(MMCV)")' 2>/dev/null; then \
	  mmcv=$(MMCV); fi; \
	$(PIP) torch torchvision "$$mmcv" $(CLASSIFICATION)
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(check_opencv)
	@touch $@

# OpenCV's wheel needs libraries of the system. A machine without a desktop may lack them.
OPENCV_LIBRARIES := libgl1 libglib2.0-0 libxcb1
define check_opencv
$(PY) -c 'import cv2' 2>/dev/null || { \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo 'Installing $(OPENCV_LIBRARIES), which OpenCV needs, by apt-get.'; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends $(OPENCV_LIBRARIES) >/dev/null; \
  fi; \
  $(PY) -c 'import cv2' || { \
    echo 'OpenCV cannot be imported (see above): on Debian or Ubuntu, "apt-get install' \
      '$(OPENCV_LIBRARIES)" as root.' >&2; \
    exit 1; }; }
endef

# The constraints hold the versions that are installed already, so pip changes nothing else. ninja lets the build of
# mmcv use all cores.
$(VENV)/.stamp-setup-test: $(VENV)/.stamp-setup $(wildcard tools/build_mmcv*.py)
	@echo 'Installing MMDetection, MMSegmentation and the tools for testing.'
	@$(PIP) $(DENSE) ftfy regex pytest pytest-xdist hypothesis ruff tensorboard ninja onnx onnxscript onnxruntime \
	  scikit-learn captum timm safetensors fvcore
	@$(PY) tools/build_mmcv.py
	@touch $@

setup: $(VENV)/.stamp-setup

setup-test: $(VENV)/.stamp-setup-test

data: setup
	@$(PY) tools/prepare_fashion_mnist.py

train: setup data
	$(PY) tools/train.py $(CONFIG) $(TRAIN_ARGS)

scenes: setup-test data
	@$(PY) tools/prepare_fashion_scenes.py

# One process for each GPU. Without a GPU, two processes of one thread each get through more images than one process of
# two threads.
PROCESSES ?= $$($(PY) -c 'import torch; print(torch.cuda.device_count() or 2)')
DENSE_TRAIN := PYTHON=$(PY) bash tools/dist_train.sh

train-detection: scenes
	$(DENSE_TRAIN) configs/detection/mask-rcnn_pervit-nano_fashion-scenes.py $(PROCESSES) $(TRAIN_ARGS)

train-segmentation: scenes
	$(DENSE_TRAIN) configs/segmentation/pervit-nano_fpn_fashion-scenes.py $(PROCESSES) $(TRAIN_ARGS)

lint: $(VENV)/.stamp-venv
	@$(PY) -m ruff --version >/dev/null 2>&1 || $(PIP) ruff
	$(PY) -m ruff check .

# The first pass hides the GPUs: most tests are about the CPU, where two runs agree to the last bit. The tests marked for
# CUDA follow where there is a GPU, in one process. If TEST_ARGS leaves none of them, pytest ends with 5. A file's tests
# stay in one process, because they share what is slow to make.
test: scenes lint
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile \
	  --no-loadscope-reorder $(TEST_ARGS)
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  echo 'There is a GPU: running the tests marked for CUDA.'; \
	  $(PY) -m pytest $(TEST_ARGS) -m cuda || [ $$? = 5 ]; fi

# Other libraries have an environment of their own on top of $(VENV): in $(VENV) itself, transformers would break
# MMPretrain, and grad-cam would overwrite OpenCV.
RECIPES := $(VENV)/recipes
$(RECIPES)/.stamp: $(VENV)/.stamp-setup-test
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'The recipes need Python 3.11 or newer: make test-recipes VENV=folder PYTHON=python3.11' >&2; exit 1; }
	@echo 'Installing transformers, Lightning, lightly, grad-cam, wandb and OpenVINO into $(RECIPES).'
	@$(PY) -m venv --without-pip '$(RECIPES)'
	@$(PY) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$('$(RECIPES)/bin/python' -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	@'$(RECIPES)/bin/python' -m pip install -qq --no-input --disable-pip-version-check -c $(CONSTRAINTS) \
	  timm safetensors transformers accelerate lightning lightly grad-cam wandb openvino
	@touch $@

test-recipes: $(RECIPES)/.stamp
	'$(RECIPES)/bin/python' -m pytest tests/test_recipes $(TEST_ARGS)

# A Chromium that is there already will do.
test-web: setup-test
	@$(PIP) gradio playwright
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo 'Installing chromium by apt-get.'; apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else echo 'There is no chromium: on Debian or Ubuntu, "apt-get install chromium" as root.' >&2; exit 1; fi; }
	$(PY) -m pytest tests/test_apis/test_token_page.py tests/test_apis/test_token_view.py $(TEST_ARGS)

test-forks:
	$(MAKE) test STACK=forks PYTHON='$(FORKS_PYTHON)' VENV='$(VENV)-forks'

# What goes wrong: kills while saving, hostile files, mistakes in configs, random configurations. Part of make test.
faults: setup-test
	$(PY) -m pytest tests/test_faults tests/test_engine/test_preflight.py \
	  tests/test_engine/test_hooks/test_checkpoint_hook.py $(TEST_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path './$(VENV)*' -prune -o -name __pycache__ -type d -print | xargs rm -rf

clean-all: clean
	rm -rf '$(VENV)' '$(VENV)-forks' data/fashion_mnist data/fashion_scenes
