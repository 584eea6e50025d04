"""Groups of images as one self-contained HTML page, a row a caption (`stablerep gallery`, the report)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from stablerep.shards import Group

STYLE = """
:root { --ink:#1c2330; --soft:#5b6675; --paper:#fbfbf9; --card:#ffffff; --line:#e3e5e0; --accent:#2f6fde; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e8eaee; --soft:#9aa5b4; --paper:#14171c; --card:#1d2128; --line:#2d333d; --accent:#6ea3ff; }
}
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink); font:16px/1.55 system-ui, sans-serif; }
main { max-width:1120px; margin:0 auto; padding:32px 20px 64px; }
h1 { font-size:30px; line-height:1.2; margin:0 0 8px; } h2 { font-size:20px; margin:40px 0 10px; }
p { max-width:76ch; } .soft { color:var(--soft); font-size:14px; } code { font-size:.92em; }
.groups { display:grid; grid-template-columns:repeat(auto-fill, minmax(340px, 1fr)); gap:14px; }
.group { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:12px; }
.group figcaption { font-size:14px; margin-bottom:8px; min-height:2.9em; }
.strip { display:flex; gap:4px; flex-wrap:wrap; align-items:center; }
.strip img { width:38px; height:38px; border-radius:4px; object-fit:cover; background:#000; }
.strip.large img { width:auto; height:144px; }
.strip .sep { font-size:11px; color:var(--soft); writing-mode:vertical-rl; transform:rotate(180deg); }
figure { margin:0; }
"""


def data_url(image: bytes, kind: str = "jpeg") -> str:
    """An encoded image as a URL that a page can carry inside itself."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def group_figure(group: Group, beside: Sequence[bytes] = (), *, large: bool = False) -> str:
    """One group as HTML: its caption, its images, and optionally real photographs (PNG) beside them."""
    synthetic = "".join(f'<img alt="" src="{data_url(image)}">' for image in group.encoded)
    real = "".join(f'<img alt="" src="{data_url(image, "png")}">' for image in beside)
    separator = '<span class="sep">real</span>' if real else ""
    return (
        f'<figure class="group"><figcaption>{escape(group.caption)}</figcaption>'
        f'<div class="strip{" large" if large else ""}">{synthetic}{separator}{real}</div></figure>'
    )


def gallery_page(title: str, groups: Sequence[Group], note: str = "") -> str:
    """A whole page of groups."""
    large = bool(groups) and len(groups[0].encoded[0]) > 6000
    figures = "".join(group_figure(g, large=large) for g in groups)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><main><h1>{escape(title)}</h1><p class="soft">{escape(note)}</p>'
        f'<div class="groups">{figures}</div></main></body></html>\n'
    )
