#!/bin/sh
# Install rlgen and its locked dependencies: envs/install.sh PYTHON [PIP OPTIONS FOR RLGEN ITSELF]
# Every package but torch is checked against the hashes in the lock file. The machine chooses its build of torch.
set -eu
cd "$(dirname "$0")/.."
python=$1
shift
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m pip install --quiet --require-hashes -r envs/requirements-uv.lock
"$python" -m uv pip install --quiet --python "$python" --no-deps --require-hashes --compile-bytecode -r envs/requirements.lock
"$python" -m pip install --quiet -r envs/requirements-torch.lock
"$python" -m pip install --quiet --no-deps --no-build-isolation "${@:---editable}" .
