#!/bin/sh
# Installs what `make test-deploy` needs beyond `make test`, on Debian 12 as root. Does nothing where all is there.
set -eu
cd "$(dirname "$0")/../.."

# A real STAC API (PostgreSQL with PostGIS) and a real HTTP server in front of the images.
packages="nginx postgresql-15 postgresql-15-postgis-3"
# What watches runs.
packages="$packages prometheus prometheus-node-exporter"
# A browser for the report and the dashboard; Playwright's own is never downloaded.
packages="$packages chromium fonts-dejavu-core"
# The image and its containers, without a Docker engine; what checks the files of deploy/.
packages="$packages podman buildah runc netavark catatonit iptables mmdebstrap shellcheck systemd iproute2"
# Three machines of a SLURM cluster.
packages="$packages slurmctld slurmd slurm-client munge"
# shellcheck disable=SC2086  # One word per package is meant.
if ! dpkg-query --show --showformat='${db:Status-Status}\n' $packages 2>/dev/null |
    awk -v wanted="$(echo $packages | wc -w)" '$0 == "installed" { n++ } END { exit n != wanted }'; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

# Debian's own is too old to render the manifests.
command -v kubectl >/dev/null || {
    echo "kubectl is needed, 1.27 or later: https://kubernetes.io/docs/tasks/tools/" >&2
    exit 1
}

[ -x .venv-deploy/bin/python ] || "${PYTHON:-python3}" -m venv .venv-deploy
.venv-deploy/bin/pip install -qq --disable-pip-version-check --requirement tests/deploy/requirements.txt

# What stands in for the public base of the image: Debian with its Python. Takes a minute and a half, once.
if [ ! -e .venv-deploy/base.tar ]; then
    sources=$(ls /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    # shellcheck disable=SC2086  # One word per file is meant.
    mmdebstrap --quiet --format=tar --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm .venv-deploy/base.tar.part $sources
    mv .venv-deploy/base.tar.part .venv-deploy/base.tar
fi
