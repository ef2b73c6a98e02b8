#!/bin/sh
# Install the package with all its commands into a new virtual environment: what the Dockerfile does,
# for use without docker, too.
#
#     tools/install.sh FOLDER [cpu|cuda]
#
# cuda takes torch as the package index has it, on Linux with CUDA; cpu the smaller build of torch's
# own index, which uv knows. Versions are those of requirements.txt.
set -eu

folder=${1:?which folder? tools/install.sh FOLDER [cpu|cuda]}
build=${2:-cuda}
case $build in
cpu | cuda) ;;
*)
    echo "error: tools/install.sh: there is no build $build of torch; take cpu or cuda" >&2
    exit 2
    ;;
esac
if [ -e "$folder" ]; then
    echo "error: tools/install.sh: $folder is there already; name a new folder" >&2
    exit 2
fi

source=$(dirname "$0")/..
python3 -m venv "$folder"
python=$folder/bin/python
"$python" -m pip install --quiet --disable-pip-version-check uv==0.13.9
set -- -r "$source/requirements.txt" "$source"
if [ "$build" = cpu ]; then
    set -- --torch-backend cpu "$@"
fi
"$folder/bin/uv" pip install --python "$python" "$@"
"$python" -m pip uninstall --quiet --yes uv
# All that the commands import, so that what the system lacks is found now.
"$python" -I -c "import SSLRemoteSensing.workflows.calls"
"$folder/bin/sslrs" --version
