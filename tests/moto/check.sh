#!/usr/bin/env bash
# Checks DescribeInstances against an EC2 that is not ours: moto's server, from PyPI.
# Makes a virtual environment in a temporary directory (about a minute, and python3 with venv), starts moto on a free
# loopback port, makes an instance with boto3, and runs the test that asks for it through the real client. Ends what it
# started and removes the directory. Not part of scripts/test, for the minute and for PyPI.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

directory="$(mktemp -d)"
server=
clean_up() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$directory"
}
trap clean_up EXIT

python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server,ec2]'

# moto names the port that it took, and nothing else that is of use.
"$directory/venv/bin/moto_server" --host 127.0.0.1 --port 0 >"$directory/log" 2>&1 &
server=$!
url=
for _ in $(seq 600); do
    url="$(sed -n 's/.*Running on \(http:[^ ]*\).*/\1/p' "$directory/log" | head -n 1)"
    if [ -n "$url" ]; then
        break
    fi
    if ! kill -0 "$server" 2>/dev/null; then
        cat "$directory/log" >&2
        exit 1
    fi
    sleep 0.1
done
if [ -z "$url" ]; then
    echo "tests/moto/check.sh: moto did not say where it listens" >&2
    exit 1
fi

# Credentials that moto does not check, and the client's own must not be used.
export AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing AWS_DEFAULT_REGION=eu-north-1 NO_PROXY=127.0.0.1
"$directory/venv/bin/python" tests/moto/make_instances.py "$url" >"$directory/instances.json"
ADIT_TEST_MOTO_URL="$url" ADIT_TEST_MOTO_INSTANCES="$directory/instances.json" \
    cargo test --package adit --lib moto -- --ignored --nocapture
