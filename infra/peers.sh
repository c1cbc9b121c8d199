#!/usr/bin/env bash
# Makes what `make benchmark` stands beside. Python libraries go into .venv-peers: they are not in our lock files, since
# some of them want another NumPy than we do. etcd and rqlite are built from Go source, once for a machine (minutes; rqlite
# needs a C compiler). A benchmark whose peer is not there says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=.venv-peers
peers=(databento-dbn==0.72.0 hftbacktest==2.4.4 QuantLib==1.44 sortedcontainers==2.4.0 vollib==1.0.11)
stamp="$environment/.tapehouse-peers"
wanted="${peers[*]}"

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$environment"
    .venv/bin/python -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "${peers[@]}"
    echo "$wanted" >"$stamp"
fi
.venv/bin/python -m tapehouse.app.bench.kv_programs
