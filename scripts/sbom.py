"""Writes what images and chart are made of, as SPDX 2.3 documents: `make sbom`, into sbom/.

    python scripts/sbom.py [--out sbom] [NAME=IMAGE ...]

Of each image (default: stablerep-gateway:local and the two others, those that the Docker engine has): its
Debian and Python packages with version and licence, as they are installed in it. Of the chart: itself and the
images that its values name. Nothing is signed or published.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy/helm/stablerep"
OURS = ("gateway", "generator", "trainer")
# Runs in the image, with the Python that it has.
_LIST = """
import importlib.metadata as m, json, subprocess
found = []
for d in m.distributions():
    i = d.metadata
    found.append(["pypi", d.name, d.version, i.get("License-Expression") or "", i.get("Home-page") or ""])
query = ["dpkg-query", "-W", "-f", "${Package}\\t${Version}\\n"]
try:
    lines = subprocess.run(query, capture_output=True, text=True).stdout
except FileNotFoundError:
    lines = ""
found += [["deb", *line.split("\\t"), "", ""] for line in lines.splitlines()]
print(json.dumps(found))
"""


def main() -> int:
    """Exit status: 0 when every document is written, 1 when no image is there."""
    parser = argparse.ArgumentParser(
        prog="python scripts/sbom.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", metavar="NAME=IMAGE")
    parser.add_argument("--out", type=Path, default=ROOT / "sbom")
    arguments = parser.parse_args()
    named = [tuple(word.split("=", 1)) for word in arguments.images]
    images = dict(named) if named else {name: f"stablerep-{name}:local" for name in OURS}
    arguments.out.mkdir(parents=True, exist_ok=True)
    _write(arguments.out / "chart.spdx.json", chart_document())
    missing = []
    for name, image in images.items():
        listed = packages_of(image)
        if listed is None:
            missing.append(image)
        else:
            _write(arguments.out / f"{name}.spdx.json", image_document(image, *listed))
    if missing:
        print(f"not in the Docker engine: {', '.join(missing)}; docs/deploy.md says how to build them")
    return int(len(missing) == len(images))


def packages_of(image: str) -> tuple[str, list[list[str]]] | None:
    """The image's digest; kind, name, version, licence and address of each package. None: no such image."""
    inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    found = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return None
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint", "python", image, "-c", _LIST]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    packages: list[list[str]] = json.loads(printed)
    return found.stdout.strip(), sorted(packages)


def image_document(image: str, digest: str, packages: Iterable[list[str]]) -> dict[str, Any]:
    """What an image is made of."""
    root = _package("image", image, digest.partition(":")[2][:12])
    root["primaryPackagePurpose"] = "CONTAINER"
    root["checksums"] = [{"algorithm": "SHA256", "checksumValue": digest.partition(":")[2]}]
    parts = [_package(*package) for package in packages]
    return _document(image, root, parts, "CONTAINS")


def chart_document() -> dict[str, Any]:
    """The chart and the images that its values name."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    root = _package("helm", chart["name"], chart["version"], "Apache-2.0")
    images = []
    for component in (*OURS, "redis", "minio"):
        image = values[component]["image"]
        images.append(_package("oci", image["repository"], image["tag"] or chart["appVersion"]))
    return _document(f"chart-{chart['name']}-{chart['version']}", root, images, "DEPENDS_ON")


def _document(name: str, root: dict[str, Any], parts: list[dict[str, Any]], relation: str) -> dict[str, Any]:
    content = hashlib.sha256(json.dumps([root, parts], sort_keys=True).encode()).hexdigest()
    of_root = [
        {"spdxElementId": root["SPDXID"], "relationshipType": relation, "relatedSpdxElement": part["SPDXID"]}
        for part in parts
    ]
    described = {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": root["SPDXID"],
    }
    others = {found for part in parts for found in re.findall(r"LicenseRef-[\w.-]+", part["licenseDeclared"])}
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{_id_part(name)}-{content[:32]}",
        "creationInfo": {
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: stablerep-sbom"],
        },
        "packages": [root, *parts],
        "hasExtractedLicensingInfos": [
            {"licenseId": each, "extractedText": f"{each}: the text is in the package"}
            for each in sorted(others)
        ],
        "relationships": [described, *of_root],
    }


def _package(kind: str, name: str, version: str, licence: str = "", home: str = "") -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{kind}-{_id_part(name)}-{_id_part(version)}",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "supplier": "NOASSERTION",
    }
    if home.startswith(("http://", "https://")):
        package["homepage"] = home
    if kind in ("pypi", "deb"):
        where = f"pkg:{kind}/{'debian/' if kind == 'deb' else ''}{name.lower()}@{version}"
        package["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": where,
            }
        ]
    return package


def _id_part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {len(document['packages']):,} packages")


if __name__ == "__main__":
    sys.exit(main())
