# Everything one does with this repository. `python3 start.py RECIPE` runs a recipe where there is no `just`.

# pip's variable for a folder of wheels is understood here too.
export UV_FIND_LINKS := env("UV_FIND_LINKS", replace(env("PIP_FIND_LINKS", ""), " ", ","))
# The first start should not spend its seconds compiling.
export UV_COMPILE_BYTECODE := if path_exists(justfile_directory() / ".venv") == "true" { "0" } else { "1" }
export PATH := justfile_directory() / ".tools/bin" + ":" + env("PATH")

[private]
default:
    @just --list --unsorted

# a dozen real photos through the whole pipeline on the embedded stack
[no-exit-message]
demo *arguments:
    uv run safelight demo {{ arguments }}

# a page to drag photos onto, at http://127.0.0.1:8090, against the embedded stack; needs npm
[no-exit-message]
example:
    npm install --prefix deploy/local/example --no-audit --no-fund --ignore-scripts --no-package-lock
    uv run python deploy/local/example/server.py

# start every server and service, wait until ready
[no-exit-message]
up *arguments:
    uv run safelight up {{ arguments }}

# let work finish, then stop everything; data stay
down:
    uv run safelight down

# what runs, where, how big
[no-exit-message]
status *arguments:
    uv run safelight status {{ arguments }}

# what the processes wrote: `just logs ingest -f`
logs *arguments:
    uv run safelight logs {{ arguments }}

# the command line: `just safelight submit photo.jpg --watch`, paths from the repository's root
[no-exit-message]
[positional-arguments]
safelight *arguments:
    @uv run safelight "$@"

# lint, types, import rules, then every test: two at a time where each brings its own servers, one by one where time counts
test *arguments: check
    uv run --group engines pytest {{ if arguments == "" { "-n 2 tests/unit tests/pixels" } else { arguments } }}
    {{ if arguments == "" { "uv run --group engines pytest -n 2 --dist loadfile tests/integration" } else { "" } }}
    {{ if arguments == "" { "uv run --group engines pytest tests/chaos tests/e2e" } else { "" } }}

# lint, types and import rules
check:
    uv run --group engines ruff check
    uv run --group engines ruff format --check
    uv run --group engines mypy contracts runtime services deploy clients tests start.py
    uv run --group engines lint-imports

# kill a service before and after every boundary, and compare with a calm run
crashes *arguments:
    SAFELIGHT_CRASHES=all uv run pytest tests/chaos/test_boundaries.py {{ arguments }}

# kill processes at random while jobs run, then count: `just chaos --jobs 500 --seconds 190 --seed 7`
[no-exit-message]
chaos *arguments:
    uv run python -m tests.chaos {{ arguments }}

# measure; without a name, the stack: `just bench idle`, `just bench gpu --help`
bench *names:
    uv run --group engines python -m tests.bench {{ names }}

# bring the code into shape
fmt:
    uv run ruff check --fix
    uv run ruff format

# types and documents for products in TypeScript, from what the code says now; needs npm
clients:
    uv run python -m clients.generate
