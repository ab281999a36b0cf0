#!/usr/bin/env bash
# Makes .venv with the package, its tools and the pinned versions of constraints.txt; does nothing when it is there.
#
#   bash launch/setup.sh              make or refresh .venv
#   source launch/setup.sh            the same, and leave the environment active (what the other scripts do)
#   PYTHON=python3.13 bash launch/setup.sh      with a Python of your choice (3.11 or newer)

visa_jax_setup() {
  local root python wanted venv stamp
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
  venv="$root/.venv"
  stamp="$venv/.visa-jax-stamp"

  # What decides whether the environment is up to date; the folder, because an editable install points to it.
  wanted="$(cat "$root/setup.py" "$root/constraints.txt" <(echo "$root ${PYTHON:-}") | cksum)"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted $("$venv/bin/python" -V 2>&1)" ]; then
    export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
    return 0
  fi

  python="$(visa_jax_find_python)" || return 1
  echo "setup: installing into $venv with $("$python" -V)" >&2
  if command -v uv >/dev/null; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv" || return 1
    uv pip install --quiet --python "$venv/bin/python" -e "$root[test]" -c "$root/constraints.txt" || return 1
  else
    if [ ! -x "$venv/bin/pip" ]; then
      if ! "$python" -m venv "$venv"; then
        echo "setup: $python can not make virtual environments (on Debian or Ubuntu: apt install python3-venv)" >&2
        return 1
      fi
    fi
    "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
      -e "$root[test]" -c "$root/constraints.txt" || { echo "setup: pip install failed" >&2; return 1; }
  fi
  # Byte code of what is imported, not of all that is installed: a quarter of the time.
  PYTHONDONTWRITEBYTECODE= TRANSFORMERS_VERBOSITY=error "$venv/bin/python" -c \
    "import pytest, visa_jax.cli.branches, visa_jax.cli.quickstart" || { echo "setup: what was installed can not be imported" >&2; return 1; }
  echo "$wanted $("$venv/bin/python" -V 2>&1)" > "$stamp"
  export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
}

# The first Python >= 3.11 that really runs (a shim of pyenv may be there without the version behind it).
visa_jax_find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "setup: no Python >= 3.11 found (looked for: ${PYTHON:-python3.12 python3.11 python3.13 python3 python})" >&2
  return 1
}

if ! visa_jax_setup; then
  # Sourced by a script or executed: either way that script is over.
  [ "${BASH_SOURCE[0]}" = "$0" ] && exit 1
  return 1
fi
