PYTHON ?= python3
# options of benchmarks/cpu.py, e.g. BENCH='--calibration FILE --profile --target abonyx-int8/old=8'
BENCH ?=

.PHONY: demo test bench faults slow packaging packaging-short site

demo: .venv/installed  ## score the examples with the lean install
	mkdir -p out
	.venv/bin/abonyx score examples/therapeutic_vh.csv -o out/therapeutic_vh_scores.csv --table

test: .venv-test/installed  ## lint, types, import arrows, tests
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports --no-logo
	.venv-test/bin/python -m pytest -n 2 --dist loadfile

bench: .venv-test/bench .venv-bench-openvino/installed .venv-bench-esmcpp/installed  ## commands; engines side by side
	.venv-test/bin/python benchmarks/commands.py -o benchmarks/records/commands.json
	.venv-test/bin/python benchmarks/cpu.py -o benchmarks/records/cpu.json --work out/bench $(BENCH)

faults: slow  ## kills, full disks, hostile files and processes, in their long form
	.venv-test/bin/python benchmarks/faults.py -o benchmarks/records/faults.json --page docs/reliability.md

slow: .venv-test/installed  ## the long tests that `make test` leaves out, but for those of packages
	.venv-test/bin/python -m pytest -m slow --ignore tests/packaging

packaging: .venv-test/installed  ## sdist and wheel outside the clone; the lowest versions of every extra
	.venv-test/bin/python -m pytest -m slow tests/packaging

packaging-short: .venv-test/installed  ## sdist and wheel checked; size of the lean install; README's first command
	.venv-test/bin/python -m pytest -m slow tests/packaging/test_packaging.py -k "upload or lean_install"

site: .venv-test/installed  ## the documentation site, into out/site
	NO_MKDOCS_2_WARNING=1 .venv-test/bin/python -m mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[cpu]"
	touch $@

.venv-test/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet -c constraints.txt -e ".[cpu,parquet,excel,frames,evaluate,serve,client,export,ray,training,docs,test]"
	touch $@

.venv-test/bench: .venv-test/installed benchmarks/peers/requirements-main.txt
	.venv-test/bin/python -m pip install --quiet -c constraints.txt -r benchmarks/peers/requirements-main.txt
	touch $@

.venv-bench-%/installed: benchmarks/peers/requirements-%.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench-$*
	.venv-bench-$*/bin/python -m pip install --quiet -r $<
	touch $@
