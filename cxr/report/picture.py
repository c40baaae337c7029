"""Pictures inside the page: a run's PNG made smaller, and line charts drawn as SVG."""

import base64
import io
from collections.abc import Mapping, Sequence

from markupsafe import escape
from PIL import Image

from cxr.report.blocks import Picture, Source, source
from cxr.report.records import Record

WIDEST = 1800  # pixels: twice what the page's column shows
_COLOURS = 256
_STYLES = ("", "6 4", "2 3")  # strokes differ by more than colour


def picture(record: Record, name: str, *, caption: str, alt: str) -> Picture | None:
    """A run's PNG as a picture of the page; None where the run does not have it.

    It is brought to 256 colours and 1,800 pixels of width at most; the run keeps the original.
    """
    if name not in record.pictures:
        return None
    with Image.open(io.BytesIO(record.pictures[name])) as opened:
        image = opened.convert("RGBA")
    card = Image.new("RGB", image.size, "white")
    card.paste(image, mask=image.getchannel("A"))
    if card.width > WIDEST:
        card = card.resize((WIDEST, round(card.height * WIDEST / card.width)), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    card.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
    return Picture(
        caption=caption, alt=alt, source=source(record, name), uri=uri, width=card.width, height=card.height
    )


def curves(lines: Mapping[str, Sequence[tuple[int, float]]], *, caption: str, alt: str, given: Source) -> Picture:
    """Line chart over epochs; `lines` maps a name to its (epoch, value) pairs."""
    width, height, left, right, top, bottom = 560, 240, 52, 12, 34, 34
    points = [pair for line in lines.values() for pair in line]
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    high = high if high > low else low + 1

    def x(step: int) -> float:
        return left + (width - left - right) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}">']
    for value in (low, (low + high) / 2, high):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for step in sorted({first, round((first + last) / 2), last}):
        parts.append(f'<text x="{x(step):.1f}" y="{height - 14}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 1}" text-anchor="middle">epoch</text>')
    at = left
    for place, (name, line) in enumerate(lines.items()):
        dash = f' stroke-dasharray="{_STYLES[place % 3]}"' if _STYLES[place % 3] else ""
        way = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line)
        parts.append(f'<polyline class="line{place % 3}" points="{way}"{dash}/>')
        if len(line) <= 30:
            parts += [f'<circle class="dot{place % 3}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>'
                      for step, value in line]  # fmt: skip
        parts.append(f'<line class="line{place % 3}" x1="{at}" x2="{at + 24}" y1="12" y2="12"{dash}/>')
        parts.append(f'<text x="{at + 30}" y="16">{escape(name)}</text>')
        at += 60 + 7 * len(name)
    return Picture(caption=caption, alt=alt, source=given, svg="".join([*parts, "</svg>"]))
