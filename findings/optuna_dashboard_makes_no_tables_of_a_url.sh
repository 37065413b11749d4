#!/bin/sh
# optuna-dashboard 0.21.0 with optuna 5.0.0: `wsgi(URL)` and `run_server(URL)`, unlike `create_study(storage=URL)` and
# `RDBStorage(URL)` with the same URL, make no tables in an empty database, so that the page's first start fails with optuna's
# StorageInternalError. Given `RDBStorage(URL)` in the URL's place it starts and shows no studies.
#
# Output seen:
#   a URL of an empty database: StorageInternalError
#   the same by RDBStorage: 200 OK {"study_summaries": []}
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optuna==5.0.0 optuna-dashboard==0.21.0
cat > "$folder/show.py" <<'END'
import sys
import warnings
from wsgiref.util import setup_testing_defaults

warnings.simplefilter("ignore")
import optuna
import optuna_dashboard

url = f"sqlite:///{sys.argv[1]}"
try:
    optuna_dashboard.wsgi(url)
    print("a URL of an empty database: pages")
except Exception as e:
    print(f"a URL of an empty database: {type(e).__name__}")
pages = optuna_dashboard.wsgi(optuna.storages.RDBStorage(url))
request = {"PATH_INFO": "/api/studies"}
setup_testing_defaults(request)
status = []
body = b"".join(pages(request, lambda code, headers, *more: status.append(code)))
print(f"the same by RDBStorage: {status[0]} {body.decode()}")
END
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder/empty.db" 2> "$folder/err")
echo "$seen"
expected='a URL of an empty database: StorageInternalError
the same by RDBStorage: 200 OK {"study_summaries": []}'
[ "$seen" = "$expected" ] || { echo "this has changed"; exit 1; }
