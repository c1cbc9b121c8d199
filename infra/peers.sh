#!/usr/bin/env bash
# Makes .venv-peers: the Python libraries that `make benchmark` stands beside. They are not in our lock files, since
# some of them want another NumPy than we do; a benchmark whose peer is not there says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=.venv-peers
peers=(databento-dbn==0.72.0 hftbacktest==2.4.4 QuantLib==1.44 sortedcontainers==2.4.0 vollib==1.0.11)
stamp="$environment/.tapehouse-peers"
wanted="${peers[*]}"

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$environment"
.venv/bin/python -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "${peers[@]}"
echo "$wanted" >"$stamp"
