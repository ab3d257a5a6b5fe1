#!/usr/bin/env bash
# Install Chromium, in which tests open the pages of reports, on Debian 12 or 13; on other systems, say what to do.
# Does nothing if there is a browser that the tests can drive. Comes after tools/install-r.sh, which updates libraries.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done

release=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}" || true)
if [ "$release" != bookworm ] && [ "$release" != trixie ]; then
  echo "There is no Chromium: install it to run the tests in a browser, which are skipped without it."
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  exec sudo "$0"
fi

echo "Installing Chromium (about a minute the first time)."
exec </dev/null
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
$apt update
$apt install --no-install-recommends chromium
