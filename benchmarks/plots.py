"""Draws docs/performance.md's figures from benchmarks/results/*.json; a test checks that they are up to date.

python -m benchmarks.plots
"""

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OUT = Path(__file__).parent.parent / "docs" / "performance"
_WIDTH, _LABELS, _ROW, _VALUES = 860, 330, 22, 90
_STYLE = """
svg { background: var(--page, #fff); font: 12px system-ui, sans-serif; }
text { fill: #23262b; } .soft { fill: #656a72; } .ours { fill: #2a78d6; } .other { fill: #a9b1bd; }
@media (prefers-color-scheme: dark) {
  svg { background: var(--page, #16181c); } text { fill: #e8e9eb; } .soft { fill: #a5abb5; }
  .ours { fill: #5ea2f0; } .other { fill: #596270; }
}
"""
Panel = tuple[str, Mapping[str, float], str]
"""What is measured, its values by name (ours begin with "stablerep"), and how a value is written."""


def bars(title: str, panels: list[Panel], note: str) -> str:
    """An SVG document: a bar a value, a panel below the other, each with a scale of its own from 0."""
    parts = [f'<text x="8" y="22" font-size="15" font-weight="600">{escape(title)}</text>']
    y = 34
    for name, values, form in panels:
        y += 20
        parts.append(f'<text x="8" y="{y}" class="soft">{escape(name)}</text>')
        y += 8
        most = max(values.values())
        for label, value in values.items():
            ours = label.startswith("stablerep")
            width = max(1.0, (_WIDTH - _LABELS - _VALUES) * value / most)
            end = _LABELS + width + 6
            weight = ' font-weight="600"' if ours else ""
            kind = "ours" if ours else "other"
            parts += [
                f'<text x="{_LABELS - 10}" y="{y + 14}" text-anchor="end"{weight}>{escape(label)}</text>',
                f'<rect class="{kind}" x="{_LABELS}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 7}"/>',
                f'<text x="{end:.1f}" y="{y + 14}"{weight}>{escape(form.format(value))}</text>',
            ]
            y += _ROW
    parts.append(f'<text x="8" y="{y + 24}" class="soft">{escape(note)}</text>')
    height = y + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}"><style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def figures() -> Iterator[tuple[str, str]]:
    """File names and contents of all figures whose results are there."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    }
    yield "generation.svg", _generation(found["generation"])
    yield "input.svg", _input(found["input"])
    yield "loss.svg", _loss(found["loss"])
    yield "opening.svg", _opening(found["opening"])
    yield "samplers.svg", _samplers(found["spread"])
    for name, result in found.items():
        if name.startswith("gpu-") and "sampling" in result["parts"]:
            yield f"{name}.svg", _sampling(result)


def _generation(result: Mapping[str, Any]) -> str:
    panels: list[Panel] = []
    for name, values in result.items():
        if isinstance(values, dict) and "stablerep" in values:
            shown = {way: values[way] for way in ("stablerep", "diffusers")}
            panels.append((name, shown, "{:,.1f}"))
    return bars("Generation on a CPU", panels, _note(result))


def _input(result: Mapping[str, Any]) -> str:
    alone = result["one thread, images or views a second"]
    served = result["S3 on two cores, images or views a second"]

    def named(values: Mapping[str, float], kind: str) -> dict[str, float]:
        return {name.split(": ")[1]: value for name, value in values.items() if name.startswith(kind)}

    panels: list[Panel] = [
        ("decoded from memory, one thread: images a second", named(alone, "decode"), "{:,.0f}"),
        ("augmented, one thread: views a second", named(alone, "augmented"), "{:,.0f}"),
        ("decoded from MinIO, two cores: images a second", named(served, "decoded"), "{:,.0f}"),
        ("augmented from MinIO, two cores: views a second", named(served, "augmented"), "{:,.0f}"),
    ]
    return bars("Training input on a CPU", panels, _note(result))


def _loss(result: Mapping[str, Any]) -> str:
    ways = result["rows"]["8256"]
    panels: list[Panel] = [
        ("seconds", {name: way["seconds"] for name, way in ways.items()}, "{:.1f} s"),
        ("memory", {name: way["mib"] for name, way in ways.items()}, "{:,.0f} MiB"),
    ]
    return bars("The loss, forward and backward, of 8,256 rows", panels, _note(result))


def _opening(result: Mapping[str, Any]) -> str:
    before, now = result["indexes alone"], result["manifest, local folder"]
    s3 = result["manifest, MinIO"]
    scale = now["groups"] / before["groups"]
    indexes = "from its index files (measured on 64,000)"
    panels: list[Panel] = [
        (
            "seconds until the first batch is known",
            {
                indexes: before["seconds"] * scale,
                "stablerep, manifest in a folder": now["seconds"],
                "stablerep, manifest in MinIO, first": s3["first process of a machine"]["seconds"],
                "stablerep, manifest in MinIO, next": s3["the next"]["seconds"],
            },
            "{:,.1f} s",
        ),
        (
            "most memory of a process's own",
            {
                "stablerep, manifest in a folder": now["most_private_mb"],
                "stablerep, manifest in MinIO, first": s3["first process of a machine"]["most_private_mb"],
                "stablerep, manifest in MinIO, next": s3["the next"]["most_private_mb"],
            },
            "{:,.0f} MB",
        ),
    ]
    return bars("Opening 10 million captions of ten images", panels, _note(result))


def _samplers(result: Mapping[str, Any]) -> str:
    rows = result["samplers"]
    scores = {name: 100 * sum(row["few_labels"]) / len(row["few_labels"]) for name, row in rows.items()}
    panels: list[Panel] = [
        ("accuracy of a linear probe, 10 labels a class, %", scores, "{:.1f}"),
        ("spread of a caption's images, levels of 256", {n: r["pixels"] for n, r in rows.items()}, "{:.1f}"),
        ("the same in features, 1 - cosine", {n: r["features"] for n, r in rows.items()}, "{:.3f}"),
    ]
    return bars("Other samplers, the tiny pipeline", panels, _note(result))


def _sampling(result: Mapping[str, Any]) -> str:
    figures = result["parts"]["sampling"]
    names = {
        "diffusers_images_per_second": "diffusers, PNG",
        "stablerep_images_per_second": "stablerep, not compiled",
        "compiled_images_per_second": "stablerep",
        "fast_compiled_images_per_second": "stablerep, sd15-fast",
    }
    values = {shown: figures[name] for name, shown in names.items() if name in figures}
    return bars("Sampling, images a second", [("512 px, batches of 16", values, "{:.2f}")], _note(result))


def _note(result: Mapping[str, Any]) -> str:
    return f"{result.get('hardware') or result.get('card', '')}, {result['date'][:10]}; {result['command']}"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, content in figures():
        (OUT / name).write_text(content, encoding="utf-8")
        print(OUT / name)


if __name__ == "__main__":
    main()
