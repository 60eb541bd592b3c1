"""What a report's page is made of: its style, tables, plots as SVG within the text, pictures.

The page has no outside resource and no script. Plots take their colours from the style sheet, so
they follow the reader's light or dark scheme; on paper the page is light and dense."""

import base64
import io
import re
from html import escape
from typing import List, Sequence

from matplotlib.backends.backend_svg import RendererSVG
from PIL import Image

from run_files import (BLUE, GREEN, GREY, GRID, INK, ORANGE, PAPER, PURPLE, RED, SKY, YELLOW,
                       plt)  # fmt: skip

# The same hues, lighter on dark paper.
COLOURS = {
    "blue": (BLUE, "#4FA9E2"), "orange": (ORANGE, "#F0B440"), "green": (GREEN, "#2FBF95"),
    "red": (RED, "#F5803E"), "purple": (PURPLE, "#DDA0C3"), "sky": (SKY, "#3C88B8"),
    "yellow": (YELLOW, "#D8CB3C"), "grey": (GREY, "#9C9CA4"), "ink": (INK, "#E7E7EA"),
    "grid": (GRID, "#4A4A52"), "paper": (PAPER, "#17181B"), "soft": ("#F4F5F7", "#202226"),
    "line": ("#DCDDE1", "#393B42"), "quiet": ("#5C5E66", "#A4A6AE")}  # fmt: skip

STYLE = """
:root { color-scheme: light dark; LIGHT }
@media screen and (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
       color: var(--ink); background: var(--paper); max-width: 1180px; margin: 0 auto;
       padding: 1.5em 20px 4em; overflow-wrap: break-word; }
h1 { font-size: 1.55em; line-height: 1.25; margin: .2em 0; }
h2 { font-size: 1.25em; margin: 2em 0 .6em; padding-bottom: .2em;
     border-bottom: 1px solid var(--line); }
h3 { font-size: 1.02em; margin: 1.4em 0 .4em; }
p { max-width: 75ch; margin: .5em 0; } .quiet { color: var(--quiet); }
.facts { display: flex; flex-wrap: wrap; gap: .3em 1.2em; color: var(--quiet); margin: .3em 0 1em; }
.findings { list-style: none; margin: 0; padding: 0; display: grid; gap: .45em; }
.findings li { display: grid; grid-template-columns: 6.6em 1fr; gap: .8em; padding: .5em .8em;
               background: var(--soft); border-left: 4px solid var(--grey);
               border-radius: 0 6px 6px 0; }
.findings b { font-weight: 600; font-size: .86em; padding-top: .1em; }
.findings .bad { border-color: var(--red); } .findings .good { border-color: var(--green); }
.findings .watch { border-color: var(--orange); } .findings .fact { border-color: var(--blue); }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; margin: .4em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .22em .7em; text-align: right; border-bottom: 1px solid var(--line);
         white-space: nowrap; vertical-align: top; }
th { border-bottom: 1px solid var(--grey); font-weight: 600; vertical-align: bottom;
     white-space: normal; max-width: 9.5em; }
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: normal;
                                 min-width: 9em; }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
td i { font-style: normal; color: var(--quiet); font-size: .92em; }
.row { display: flex; flex-wrap: wrap; gap: 1em 1.6em; align-items: flex-start; }
.row > * { flex: 1 1 330px; min-width: 0; } .row > .big { flex: 2 1 520px; }
.row > .list { flex-basis: 400px; }
figure { margin: .4em 0; } figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif !important; }
.matrix { overflow-x: auto; } .dense td:first-child { min-width: 8em; }
.dense th + th, .dense td + td { padding-left: .45em; padding-right: .45em; }
.dense { font-size: .92em; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 12px; }
.gallery figure { margin: 0; font-size: .8em; line-height: 1.35; }
.gallery .frame { aspect-ratio: 1; background: var(--soft); border-radius: 6px; overflow: hidden;
                  display: grid; place-items: center; color: var(--quiet); padding: 0; }
.gallery img { width: 100%; height: 100%; object-fit: contain; display: block; }
.gallery .wrong { color: var(--red); } .gallery .right { color: var(--blue); }
pre { background: var(--soft); padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere;
      border-radius: 6px; }
details { margin: 1em 0; } summary { cursor: pointer; font-weight: 600; font-size: 1.1em; }
@media (max-width: 600px) {
  body { padding: 1em 15px 3em; font-size: 14.5px; } h1 { font-size: 1.3em; }
  .findings li { grid-template-columns: 1fr; gap: 0; }
  th, td { padding: .22em .5em; } .measures .text { display: none; }
  .dense td:first-child { min-width: 9em; } .gallery { gap: 8px;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
  .matrix svg { min-width: var(--least, 0); }
}
@page { size: A4; margin: 12mm 11mm; }
@media print {
  body { font-size: 8.4pt; line-height: 1.32; max-width: none; padding: 0; }
  .screen, details { display: none; }
  h1 { font-size: 14pt; margin-top: 0; } h2 { font-size: 11pt; margin: 1em 0 .3em; }
  h3 { margin: .6em 0 .2em; } .facts { margin-bottom: .4em; }
  h2, h3 { break-after: avoid; } figure, .findings li, tr { break-inside: avoid; }
  .findings { gap: 2px; } .findings li { padding: 1.5px 6px; grid-template-columns: 6.2em 1fr; }
  th, td { padding: .06em .45em; } .wide, .matrix { overflow: visible; }
  .row { display: flex; gap: .3em 1em; } .row > * { flex: 1 1 0; max-width: 50%; }
  .row.three > * { max-width: 33%; } .row > .big { flex: 1.5 1 0; max-width: 66%; }
  p { max-width: none; } .row { break-inside: avoid; } .row > * { break-inside: avoid; }
  .row svg { max-height: 80mm; } .row.curves svg { max-height: 56mm; }
  .row.three svg { max-height: 46mm; } .matrix svg { max-height: 84mm; }
  .dense td:first-child { min-width: 9em; }
  .dense td:first-child, .dense td { white-space: nowrap; }
  .dense table { font-size: 7pt; line-height: 1.2; }
  .gallery { grid-template-columns: repeat(10, 1fr); gap: 4px; } .gallery figure { font-size: 6pt; }
  .gallery > :nth-child(n+11) { display: none; }
}
"""  # fmt: skip


def style() -> str:
    def variables(which: int) -> str:
        return " ".join(f"--{name}: {pair[which]};" for name, pair in COLOURS.items())
    return STYLE.replace("LIGHT", variables(0)).replace("DARK", variables(1))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "",
          text_from: int = 99, kind: str = "") -> str:
    """Cells are texts; in one, what stands in brackets behind a number is quieter. Columns from
    `text_from` on are words."""
    def cell(tag: str, i: int, value) -> str:
        text = escape(str(value))
        if tag == "td" and i < text_from:
            text = re.sub(r"(?<=\d) (\[[^\]]*\])$", r" <i>\1</i>", text)
        return f"<{tag}{' class=text' if i >= text_from else ''}>{text}</{tag}>"

    def line(tag: str, values) -> str:
        return f"<tr>{''.join(cell(tag, i, value) for i, value in enumerate(values))}</tr>"
    title = f"<p class=quiet>{escape(caption)}</p>" if caption else ""
    return (f'{title}<div class="wide {kind}"><table><thead>{line("th", head)}</thead><tbody>'
            f"{''.join(line('td', row) for row in rows)}</tbody></table></div>")


def svg_of(figure) -> str:
    """The figure as SVG for the page: text as text, colours as the style sheet's variables."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        out = io.StringIO()
        # savefig would find this too, but it would draw the figure once more for it.
        figure.set_dpi(72)
        used = figure.get_tightbbox(RendererSVG(*figure.bbox.size, io.StringIO())).padded(
            plt.rcParams["savefig.pad_inches"])
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None},
                       bbox_inches=used)
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", text)  # nothing refers to them
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for name, (light, _) in COLOURS.items():
        text = re.sub(light, f"var(--{name})", text, flags=re.IGNORECASE)
    return re.sub(r"\n\s*", "\n", text)


def plot(figure, alt: str, kind: str = "") -> str:
    """`kind` is a class of the style sheet."""
    if figure is None:
        return ""
    width = figure.get_figwidth()
    svg = svg_of(figure).replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    least = f' style="--least: {round(62 * width)}px"' if kind == "matrix" else ""
    return f'<figure class="{kind}"{least}>{svg}</figure>'


def row(parts: List[str], kind: str = "") -> str:
    shown = [part for part in parts if part]
    return f'<div class="row {kind}">{"".join(shown)}</div>' if shown else ""


def picture(image: Image.Image, alt: str) -> str:
    """As JPEG within the page; small pictures, whose pixels one should see, as PNG."""
    data, kind = io.BytesIO(), "png" if max(image.size) <= 64 else "jpeg"
    image.save(data, format=kind, **({"quality": 82} if kind == "jpeg" else {}))
    text = base64.b64encode(data.getvalue()).decode()
    pixels = ' style="image-rendering: pixelated"' if kind == "png" else ""
    return f'<img alt="{escape(alt)}"{pixels} src="data:image/{kind};base64,{text}">'


def page(title: str, body: str) -> str:
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style()}</style></head>"
            f"<body>{body}</body></html>\n")
