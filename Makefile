# qnext: what a person types. Everything here calls scripts/ or CMake; nothing is built outside build/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 1800
ABUSE_SECONDS ?= 120
QNEXT := build/release/qnext
export CMAKE_CXX_COMPILER_LAUNCHER := $(shell command -v ccache)
# Trained by this project (make tiny); THINKING=1: the one that thinks before it answers.
MODEL ?= models/qnext-tiny/qnext-tiny-$(if $(THINKING),thinking,instruct).gguf
# Random weights of the real widths: 4 layers, 3.9 GiB.
BENCH_MODEL ?= build/bench/synthetic-q4_k.gguf
BENCH_ARGS ?= --prompt 512,4096 --gen 64 --depth 0,4096 --batch 1,8 --svg build/bench/roofs.svg
PROMPT ?= Tell me a short story about a lighthouse keeper.

.PHONY: help setup setup-train build train tiny eval-tiny run serve test test-asan test-tsan test-long fuzz soak abuse abuse-tsan bench format check clean

help:  ## this list
	@grep -E '^[a-z% -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup:  ## install what is missing (Debian packages, crates, test data); does nothing twice
	@scripts/setup.sh

build: setup  ## the release binary, build/release/qnext
	@cmake --preset release > build/release.configure.log || (cat build/release.configure.log; exit 1)
	@cmake --build --preset release -j $(JOBS) --target qnext

run: build  ## talk to the embedded model: a chat on a terminal, a demonstration without one
	@if [ -t 0 ] && [ -t 1 ]; then $(QNEXT) chat $(MODEL); else $(QNEXT) run $(MODEL) "$(PROMPT)" --max-tokens 400 --seed 1; fi

serve: build  ## the embedded model on a chat page, http://127.0.0.1:8080, and for OpenAI's clients, at its /v1
	$(QNEXT) serve $(MODEL) --pack-cache none --open

setup-train: setup
	@scripts/setup.sh --train

train: setup-train  ## the trainer, build/release/qnext-train (libtorch): qnext train, qnext data
	@cmake --preset release > build/release.configure.log || (cat build/release.configure.log; exit 1)
	@cmake --build --preset release -j $(JOBS) --target qnext qnext-train

tiny: train  ## make models/qnext-tiny from nothing: texts, tokenizer, training (hours), GGUF; goes on where it was stopped
	models/qnext-tiny/make.sh

eval-tiny: train  ## scores of models/qnext-tiny: problems, stories, endings, MTP
	build/venv/bin/python3 bench/eval_tiny.py $(EVAL_ARGS)

experiment-%: train  ## experiment 1 to 6 on what the family's training claims: docs/experiments; EXPERIMENT_ARGS change it
	build/venv/bin/python3 bench/experiments.py $* $(EXPERIMENT_ARGS)

test: setup-train  ## everything that must hold: layers and budgets, unit, golden, property and end-to-end tests
	python3 tools/check_layers.py
	python3 tools/check_layers_test.py
	@cmake --preset release > build/release.configure.log || (cat build/release.configure.log; exit 1)
	cmake --build --preset release -j $(JOBS)
	ctest --test-dir build/release --output-on-failure -j $(JOBS) || (scripts/why_failed.sh build/release; exit 1)

test-asan: setup  ## the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake --preset asan > /dev/null
	cmake --build --preset asan -j $(JOBS)
	ctest --test-dir build/asan --output-on-failure -j $(JOBS) -E '^(e2e|rust)\.' || (scripts/why_failed.sh build/asan; exit 1)

test-tsan: setup  ## the threaded parts under ThreadSanitizer
	cmake --preset tsan > /dev/null
	cmake --build --preset tsan -j $(JOBS) --target base_test model_test engine_test server_test
	ctest --test-dir build/tsan --output-on-failure -j $(JOBS) -R '^(base|model|engine|server)\.' || (scripts/why_failed.sh build/tsan; exit 1)

fuzz: setup  ## each fuzzer for FUZZ_SECONDS (60), with clang's libFuzzer
	cmake --preset asan > /dev/null
	cmake --build --preset asan -j $(JOBS) --target fuzzers
	scripts/fuzz.sh build/asan $(FUZZ_SECONDS)

soak: build  ## random load on the server for SOAK_SECONDS (1800): exact answers, flat memory, nothing left running
	QNEXT=$(QNEXT) build/venv/bin/python3 tests/load/soak.py --seconds $(SOAK_SECONDS)

abuse abuse-tsan: setup  ## broken and hostile clients, ABUSE_SECONDS (120) of each kind, at a server with AddressSanitizer, or ThreadSanitizer
	cmake --preset $(ABUSE_PRESET) > /dev/null
	cmake --build --preset $(ABUSE_PRESET) -j $(JOBS) --target qnext
	QNEXT=build/$(ABUSE_PRESET)/qnext build/venv/bin/python3 tests/load/abuse.py --seconds $(ABUSE_SECONDS)
abuse: ABUSE_PRESET = asan
abuse-tsan: ABUSE_PRESET = tsan

bench: build $(BENCH_MODEL)  ## speed of BENCH_MODEL (synthetic) against this machine's roofs, within 10 minutes; BENCH_ARGS change it
	$(QNEXT) bench $(BENCH_MODEL) --pack-cache build/bench $(BENCH_ARGS)

build/bench/synthetic-%.gguf: tools/make_synthetic.py | setup
	@mkdir -p $(@D)
	tools/make_synthetic.py $@ --type $* --tokenizer build/downloads/tokenizer-qwen3/tokenizer.json

format:  ## rewrite every source in the house style
	git ls-files '*.cc' '*.h' | xargs clang-format -i
	cargo fmt --manifest-path rust/qnext-text/Cargo.toml

check: setup  ## formatting, clang's warnings, clang-tidy, layers, clippy
	git ls-files '*.cc' '*.h' | xargs clang-format --dry-run -Werror
	python3 tools/check_layers.py
	cmake --preset clang > /dev/null
	cmake --build --preset clang -j $(JOBS)
	scripts/tidy.sh build/clang
	cargo clippy --locked --manifest-path rust/qnext-text/Cargo.toml --target-dir build/rust-target -- -D warnings

clean:  ## remove build/
	rm -rf build
