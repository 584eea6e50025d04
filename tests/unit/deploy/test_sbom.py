"""The bill of materials: SPDX documents whose identifiers are unique and whose relations are complete."""

import json
import re
from typing import Any

from scripts.sbom import chart_document, image_document

PACKAGES = [
    ["pypi", "Torch", "2.15.0+cu1", "BSD-3-Clause", "https://pytorch.org"],
    ["pypi", "nvidia-x", "1", "LicenseRef-NVIDIA-Proprietary", "not an address"],
    ["deb", "libc6", "2.36-9+deb12u10", "", ""],
]


def check(document: dict[str, Any], parts: int) -> None:
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(ids) == len(set(ids)) == parts + 1
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each) for each in ids)
    described, *others = document["relationships"]
    assert (described["relationshipType"], described["relatedSpdxElement"]) == ("DESCRIBES", ids[0])
    assert [each["relatedSpdxElement"] for each in others] == ids[1:]
    assert {each["spdxElementId"] for each in others} == {ids[0]}
    json.dumps(document)


def test_an_image_contains_its_packages() -> None:
    document = image_document("stablerep-trainer:local", "sha256:" + "ab" * 32, PACKAGES)
    check(document, 3)
    torch, nvidia, libc = document["packages"][1:]
    assert torch["externalRefs"][0]["referenceLocator"] == "pkg:pypi/torch@2.15.0+cu1"
    assert libc["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libc6@2.36-9+deb12u10"
    assert (torch["licenseDeclared"], libc["licenseDeclared"]) == ("BSD-3-Clause", "NOASSERTION")
    assert "homepage" not in nvidia
    (licence,) = document["hasExtractedLicensingInfos"]
    assert licence["licenseId"] == "LicenseRef-NVIDIA-Proprietary"


def test_the_chart_depends_on_the_images_of_its_values() -> None:
    document = chart_document()
    check(document, 5)
    assert {each["name"] for each in document["packages"]} >= {"stablerep", "stablerep-trainer", "redis"}
