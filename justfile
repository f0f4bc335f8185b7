# The commands of this project. `just` alone lists them.

control := env("ELIDA_CONTROL", "http://127.0.0.1:9090")

_list:
    @just --list --unsorted

# Build the release binary and put it in bin/elida.
build:
    cargo build --release
    mkdir -p bin && cp target/release/elida bin/elida

# Start ELIDA with its bundled demo provider: no key, no configuration.
demo *ARGS:
    cargo run --release --quiet -- demo {{ARGS}}

# Start ELIDA with a configuration file.
run CONFIG="conf/elida.yaml":
    cargo run --release --quiet -- run --config {{CONFIG}}

# Check a configuration file.
check CONFIG="conf/elida.yaml":
    cargo run --quiet -- check --config {{CONFIG}}

# Everything that must pass: format, lints, all tests with the real binary and real clients.
test: lint
    cargo nextest run

# One test, or all whose name contains NAME.
test-one NAME:
    cargo nextest run {{NAME}}

# Tests with line coverage (needs cargo-llvm-cov).
test-coverage:
    cargo llvm-cov nextest --html

# Basic requests through a running gateway: Ollama's own, or the demo provider's.
test-ollama URL="http://localhost:8080":
    curl --fail-with-body -sS {{URL}}/api/tags
    curl --fail-with-body -sS {{URL}}/api/generate -d '{"model":"llama3.2","prompt":"Why is the sky blue?","stream":false}'

# A stream through a running gateway.
test-stream URL="http://localhost:8080":
    curl --fail-with-body -sSN {{URL}}/api/chat -d '{"model":"llama3.2","messages":[{"role":"user","content":"count to ten, one number at a time"}]}'

# Sessions of a running gateway.
sessions:
    cargo run --quiet -- sessions --control {{control}}

# Totals of a running gateway.
stats:
    cargo run --quiet -- stats --control {{control}}

# Format the code.
fmt:
    cargo fmt

# Make conf/schema.json again, after a key of the configuration has changed.
schema:
    cargo run --quiet -- schema > target/schema.json
    mv target/schema.json conf/schema.json

# Formatting and lints, warnings are errors.
lint:
    cargo fmt --check
    cargo clippy --quiet --all-targets -- --deny warnings

# Build the container image.
image:
    docker build -f docker/Dockerfile -t elida .
