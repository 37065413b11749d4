"""Make an account with MLflow, or let one do more; MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD are the administrator's.

    python infra/accounts.py anna            anna may look at everything
    python infra/accounts.py anna --edit     and record runs, register models and move aliases
"""

import argparse
import os
import secrets
import sys

import httpx

from meddiff.errors import MeddiffError


def make_account(url: str, admin: tuple[str, str], name: str, password: str, edit: bool) -> bool:
    """Whether the account is new; one that is there keeps its password.

    Raises:
        MeddiffError: MLflow refuses or doesn't answer.
    """
    new = _ask(url, admin, "2.0/mlflow/users/create", {"username": name, "password": password})
    if edit:
        for kind in ("experiment", "registered_model"):
            _ask(url, admin, "3.0/mlflow/users/permissions/grant",
                 {"username": name, "resource_type": kind, "resource_id": "*", "permission": "EDIT"})
    return new


def _ask(url: str, admin: tuple[str, str], path: str, given: dict[str, str]) -> bool:
    try:
        answer = httpx.post(f"{url}/api/{path}", auth=admin, json=given, timeout=60)
    except httpx.HTTPError as e:
        raise MeddiffError(url, f"MLflow must answer ({e})", "Start it, or correct MLFLOW_TRACKING_URI") from e
    if answer.is_error and "RESOURCE_ALREADY_EXISTS" not in answer.text:
        raise MeddiffError(url, f"MLflow must do it ({answer.status_code} {answer.text[:200]})",
                           "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to the administrator's")
    return not answer.is_error


def main() -> int:
    """Exit code 2 and one line where something has to be mended. A password is taken from MLFLOW_NAME_PASSWORD, else made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--edit", action="store_true", help="may record runs, register models and move aliases")
    given = parser.parse_args()
    known = os.environ.get(f"MLFLOW_{given.name.upper()}_PASSWORD")
    password = known or secrets.token_urlsafe(18)
    try:
        url, *admin = (os.environ[f"MLFLOW_TRACKING_{name}"] for name in ("URI", "USERNAME", "PASSWORD"))
        new = make_account(url.rstrip("/"), (admin[0], admin[1]), given.name, password, given.edit)
    except KeyError as e:
        print(f"meddiff: {e.args[0]} must be set", file=sys.stderr)
        return 2
    except MeddiffError as e:
        print(f"meddiff: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    told = f" with the password {password}" if new and not known else ""
    print(f"{given.name}: {'made' + told if new else 'there already'}{', may edit' if given.edit else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
