"""Report locked packages with known vulnerabilities: python envs/audit.py LOCKFILE...

Exits with 1 if there are any. Where the advisory service cannot be reached, says so and exits with 0.
"""

import json
import subprocess
import sys

PIP_AUDIT = "pip-audit==2.10.1"


def audit(lock: str) -> list[str]:
    """Say what was audited of a lock file, and return one line per package with known vulnerabilities."""
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", PIP_AUDIT]
    options = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([*command, *options, "--requirement", lock], capture_output=True, text=True, timeout=300)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{lock}: not audited, because pip-audit failed: {reason}")
        return []
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    print(f"{lock}: {len(packages) - len(skipped)} of {len(packages)} packages audited")
    if skipped:
        print(f"the advisory service gave no answer for {len(skipped)} packages; the first: {skipped[0]}")
    return [
        f"{package['name']} {package['version']}: {', '.join(found['id'] for found in package['vulns'])}"
        for package in packages
        if package.get("vulns")
    ]


def main() -> int:
    """Audit every lock file named on the command line."""
    vulnerable = [line for lock in sys.argv[1:] for line in audit(lock)]
    print("\n".join(vulnerable))
    return int(bool(vulnerable))


if __name__ == "__main__":
    raise SystemExit(main())
