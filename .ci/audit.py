"""Known vulnerabilities of what is installed, by pip-audit: one that was found fails, a service that can't be asked is told.

    python .ci/audit.py
"""

import json
import subprocess
import sys
from collections.abc import Iterable

# Advisory -> why it is no reason to fail here. What stands here is looked at again with every change of locks/.
EXCEPTIONS: dict[str, str] = {}
SERVICES = ("pypi", "osv")
SECONDS = 60


def ask(service: str) -> list[dict[str, object]]:
    """What pip-audit says of each installed package; nothing if the service doesn't answer."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json", "--progress-spinner", "off",
               "--vulnerability-service", service]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False).stdout
        return json.loads(said)["dependencies"]  # type: ignore[no-any-return]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return []


def judge(packages: Iterable[dict[str, object]]) -> tuple[list[str], int]:
    """A line for each vulnerability without an exception, and how many packages could be looked up."""
    found, known = [], 0
    for package in packages:
        known += "vulns" in package
        for one in package.get("vulns", ()):  # type: ignore[attr-defined]
            if not {one["id"], *one.get("aliases", ())} & EXCEPTIONS.keys():
                remedy = f"fixed in {', '.join(one['fix_versions'])}" if one.get("fix_versions") else "no release fixes it"
                found.append(f"{package['name']} {package['version']}: {one['id']}, {remedy}")
    return found, known


def main() -> int:
    for service in SERVICES:
        packages = ask(service)
        found, known = judge(packages)
        if known:
            print("\n".join(found) or f"pip-audit: no known vulnerability in {known} packages of {len(packages)}")
            return bool(found)
    print("pip-audit: no advisory service answered, so nothing is known of vulnerabilities", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
