#!/bin/sh
# find_python.sh VENV [PYTHON]: prints the Python that makes the environment VENV, or says in one sentence why there is
# none. That is PYTHON where it is named, else the one that made VENV, else the first that is new enough.
venv=$1 python=$2

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }
refuse() { echo "$1" >&2; exit 1; }

if [ -n "$python" ]; then
    found=$(version "$python") || refuse "PYTHON=$python cannot be run: name a Python, 3.11 or newer."
    new_enough "$python" || refuse "PYTHON=$python is Python $found, and 3.11 or newer is needed: name another with PYTHON=."
else
    for python in "$venv/bin/python" python3 python3.13 python3.12 python3.11 ''; do
        [ -z "$python" ] || new_enough "$python" && break
    done
    [ -n "$python" ] || refuse "No Python 3.11 or newer was found: install one, or name it with PYTHON=."
fi
if [ -e "$venv/bin/python" ] || [ -L "$venv/bin/python" ]; then
    made=$(version "$venv/bin/python") || made="that is gone"
    [ "$made" = "$(version "$python")" ] ||
        refuse "$venv was made by a Python $made, and $python is $(version "$python"): remove it (rm -r $venv), or name its PYTHON=."
fi
"$python" -c 'import sys; print(sys._base_executable)'
