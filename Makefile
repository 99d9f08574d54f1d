# placeholder, replaced soon
build: .venv/bin/nestvmm
.venv/bin/nestvmm: pyproject.toml $(wildcard native/*)
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev,report]'
