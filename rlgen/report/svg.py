"""A small inline-SVG drawing surface: text stays text, colours follow the page's light or dark scheme.

Panels are drawn at about a phone's width, so that a page can set several side by side or one under another without
shrinking their labels. Colours are CSS variables; `standalone` puts their light values in, for a file of its own.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence

LIGHT = {
    "ink": "#1b1f24",
    "soft": "#59636e",
    "grid": "#e3e7eb",
    "paper": "#ffffff",
    "panel": "#f6f7f9",
    "band": "#c9cfd6",
    "good": "#00664b",
    "bad": "#a63d00",
    "m0": "#7b8088",
    "m1": "#d55e00",
    "m2": "#0072b2",
    "m3": "#009e73",
    "m4": "#b25b8f",
    "m5": "#b07d00",
    "m6": "#3a9ad0",
}
"""The light scheme. Model colours are Okabe and Ito's (colour-blind safe), the base is grey."""

DARK = {
    "ink": "#e6e9ed",
    "soft": "#9aa5b1",
    "grid": "#2c333b",
    "paper": "#14181d",
    "panel": "#1b2027",
    "band": "#465059",
    "good": "#4cc9a0",
    "bad": "#ff9a5c",
    "m0": "#a3aab3",
    "m1": "#f08437",
    "m2": "#4aa8e0",
    "m3": "#2fc79b",
    "m4": "#d987b8",
    "m5": "#e0b040",
    "m6": "#8ccbf0",
}
"""The dark scheme."""

Scale = Callable[[float], float]
Point = tuple[float, float]


def colour(name: str) -> str:
    """A scheme's colour as CSS."""
    return f"var(--{name})"


def standalone(svg: str) -> str:
    """The SVG with the light scheme's colours in place of variables, readable outside the page."""
    svg = re.sub(r"var\(--(\w+)\)", lambda match: LIGHT[match[1]], svg)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)


def linear(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    """Map a domain to pixels, linearly."""
    (low, high), (start, end) = domain, target
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def log10(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    """Map a positive domain to pixels, logarithmically; what lies below it is drawn at its lower end."""
    inner = linear((math.log10(domain[0]), math.log10(domain[1])), target)
    return lambda value: inner(math.log10(max(value, domain[0])))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], about `count` of them."""
    raw = (high - low or 1.0) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if raw <= m * power * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**exponent for exponent in range(first, last + 1)]


class Canvas:
    """One figure panel; y grows downwards, units are pixels at natural size."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height = width, height
        self._label = label
        self._parts: list[str] = []

    def add(self, tag: str, content: str | None = None, title: str | None = None, /, **attributes: object) -> None:
        """One element; `content` and `title` (shown on hover) are escaped, `_` in attribute names becomes `-`."""
        pairs = "".join(f' {k.replace("_", "-")}="{_shown(v)}"' for k, v in attributes.items() if v is not None)
        inner = f"<title>{html.escape(title)}</title>" if title else ""
        inner += html.escape(content) if content else ""
        self._parts.append(f"<{tag}{pairs}>{inner}</{tag}>" if inner else f"<{tag}{pairs}/>")

    def line(self, start: Point, end: Point, stroke: str = "grid", width: float = 1, dash: str | None = None) -> None:
        """A straight line."""
        style = {"stroke": colour(stroke), "stroke_width": width, "stroke_dasharray": dash}
        self.add("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], **style)

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, title: str | None = None, **more: object
    ) -> None:
        """A rectangle; SVG attributes may be added."""
        size = {"x": x, "y": y, "width": max(width, 0), "height": max(height, 0)}
        self.add("rect", None, title, **size, fill=colour(fill), **more)

    def text(self, at: Point, content: str, size: float = 11, fill: str = "soft", **more: object) -> None:
        """A line of text; `text_anchor` and other SVG attributes may be given."""
        self.add("text", content, x=at[0], y=at[1], font_size=size, fill=colour(fill), **more)

    def path(self, points: Iterable[Point], stroke: str, width: float = 1.5, **more: object) -> None:
        """A polyline."""
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.add("path", d=d, fill="none", stroke=colour(stroke), stroke_width=width, **more)

    def dots(self, points: Iterable[Point], fill: str, size: float = 4, **more: object) -> None:
        """Many round dots as one path, so that tens of thousands stay a small file."""
        d = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        if d:
            self.add("path", d=d, fill="none", stroke=colour(fill), stroke_width=size, stroke_linecap="round", **more)

    def svg(self, zoom: float = 1.0) -> str:
        """The element, to be put into a page as it is, shown at `zoom` times its natural size where there is room."""
        head = f'<svg viewBox="0 0 {_shown(self.width)} {_shown(self.height)}" width="{_shown(self.width * zoom)}"'
        return f'{head} role="img" aria-label="{html.escape(self._label)}">{"".join(self._parts)}</svg>'


class Plot(Canvas):
    """A canvas with axes: `x` and `y` map data to pixels."""

    def __init__(
        self,
        size: tuple[float, float],
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        margin: tuple[float, float, float, float] = (14, 10, 36, 44),
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        """`margin` is top, right, bottom, left, in pixels."""
        super().__init__(*size, label)
        top, right, bottom, left = margin
        self.left, self.right, self.top, self.bottom = left, size[0] - right, top, size[1] - bottom
        self.x = (log10 if log_x else linear)(x, (self.left, self.right))
        self.y = (log10 if log_y else linear)(y, (self.bottom, self.top))

    def y_axis(self, values: Sequence[float], form: Callable[[float], str], label: str = "") -> None:
        """Horizontal grid lines with their values, and the axis' name upright beside them."""
        for value in values:
            y = self.y(value)
            self.line((self.left, y), (self.right, y))
            self.text((self.left - 6, y + 3.5), form(value), text_anchor="end")
        if label:
            middle = (self.top + self.bottom) / 2
            self.text((11, middle), label, text_anchor="middle", transform=f"rotate(-90 11 {middle:.1f})")

    def x_axis(
        self, values: Sequence[float], form: Callable[[float], str], label: str = "", grid: bool = False
    ) -> None:
        """Values under the panel, with the axis' name; `grid` draws vertical lines as well."""
        for value in values:
            x = self.x(value)
            self.line((x, self.top if grid else self.bottom), (x, self.bottom + (0 if grid else 4)))
            self.text((x, self.bottom + 15), form(value), text_anchor="middle")
        if not grid:
            self.line((self.left, self.bottom), (self.right, self.bottom), "soft")
        if label:
            self.text(((self.left + self.right) / 2, self.height - 4), label, text_anchor="middle")


def _shown(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{float(value):.2f}".rstrip("0").rstrip(".")
    return html.escape(str(value))
