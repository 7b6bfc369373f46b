#!/usr/bin/env bash
# The first hour of a stranger, make cold-start: a fresh clone of what is committed, in a folder with a space in its name,
# another locale and a Python without UTF-8 mode, no rights (root: as nobody), no network once installed.
set -euo pipefail
python=$(command -v "${PYTHON:-python3}")
here=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git clone --quiet "file://$here" "$scratch/a cold start"
[ ! -d "$here/../shared" ] || cp -r "$here/../shared" "$scratch/shared"
mkdir "$scratch/home"

as=()
isolated=(unshare --user --map-current-user --keep-caps --net)
if [ "$(id -u)" = 0 ]; then
	chown -R nobody "$scratch"
	as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
	isolated=(unshare --net)
fi

if ! "${as[@]}" "$python" -c ""; then
	echo "cold start: $python does not run as ${as[*]:-$(id -un)}; give another one, such as PYTHON=/usr/bin/python3" >&2
	exit 2
fi
cd "$scratch/a cold start"
export HOME="$scratch/home" LC_ALL="${LOCALE:-C}" PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 TMPDIR="$scratch/tmp dir"
"${as[@]}" mkdir "$TMPDIR"
"${as[@]}" make --no-print-directory PYTHON="$python" .venv/.done
echo "installed: $(.venv/bin/python --version), $(id -un "$(stat -c %u .venv)"), $PWD, LC_ALL=$LC_ALL"
for goal in ${GOALS:-demo test}; do
	# a network of its own, with nothing in it but this machine's loopback
	"${isolated[@]}" bash -c 'ip link set lo up && exec "$@"' - "${as[@]}" \
		make --no-print-directory PYTHON="$python" "$goal"
done
