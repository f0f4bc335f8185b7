"""Compares the vendored files of the dashboard with their npm packages, as vendor/VENDOR.toml names them."""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import tarfile
import tomllib

FOLDER = pathlib.Path(__file__).parents[2] / "src/control/dashboard/assets/vendor"


def fetched(package: str, version: str, folder: str) -> tarfile.TarFile:
    """Returns the package, fetched with npm."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True, capture_output=True, text=True
    )
    return tarfile.open(pathlib.Path(folder) / packed.stdout.strip().splitlines()[-1])


def main() -> int:
    entries = tomllib.loads((FOLDER / "VENDOR.toml").read_text())["file"]
    faults = []
    for entry in entries:
        here = (FOLDER / entry["file"]).read_bytes()
        if hashlib.sha256(here).hexdigest() != entry["sha256"]:
            faults.append(f"{entry['file']} is not the file of VENDOR.toml")
        with tempfile.TemporaryDirectory() as folder:
            member = fetched(entry["package"], entry["version"], folder).extractfile(f"package/{entry['origin']}")
            theirs = member.read()
        if hashlib.sha256(theirs).hexdigest() != entry.get("origin_sha256", entry["sha256"]):
            faults.append(f"{entry['origin']} of {entry['package']} {entry['version']} has another digest")
        if "change" in entry:
            theirs = subprocess.run(["sed", entry["change"]], input=theirs, check=True, capture_output=True).stdout
        if theirs != here:
            faults.append(f"{entry['file']} differs from {entry['origin']} of {entry['package']} {entry['version']}")
    print("\n".join(faults) or f"{len(entries)} files are as published")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
