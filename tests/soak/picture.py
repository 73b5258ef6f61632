"""The run as a picture: panels over one axis of time, as SVG written by hand, for which no library is needed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, LEFT, RIGHT = 1000, 70, 150
HEIGHT, GAP, TOP = 130, 44, 56
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#475569")
INK, PALE = "#1e293b", "#cbd5e1"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, in seconds; `marks` are moments, drawn as upright lines, by name."""

    title: str
    lines: dict[str, Points] = field(default_factory=dict)
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bars: bool = False


def draw(title: str, panels: Sequence[Panel], seconds: float) -> str:
    """An SVG document."""
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 24, title, size=14, weight="bold"),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (HEIGHT + GAP), max(seconds, 1.0))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, seconds: float) -> Iterable[str]:
    highest = _nice(max((value for points in panel.lines.values() for _, value in points), default=1.0) or 1.0)
    right, bottom = WIDTH - RIGHT, top + HEIGHT

    def x(at: float) -> float:
        return LEFT + (right - LEFT) * min(max(at / seconds, 0.0), 1.0)

    def y(value: float) -> float:
        return bottom - HEIGHT * max(value, 0.0) / highest

    yield _text(LEFT, top - 6, panel.title, weight="bold")
    for share in (0.0, 0.5, 1.0):
        yield _line(LEFT, y(highest * share), right, y(highest * share), PALE)
        yield _text(LEFT - 6, y(highest * share) + 4, _number(highest * share), anchor="end")
    for at in _ticks(seconds):
        yield _line(x(at), bottom, x(at), bottom + 4, INK)
        yield _text(x(at), bottom + 15, f"{at / 60:g} min", anchor="middle")
    legend: list[tuple[str, str]] = []
    for name, moments in panel.marks.items():
        colour = COLOURS[(len(legend) + len(panel.lines)) % len(COLOURS)]
        legend.append((f"{name} ({len(moments)})", colour))
        yield from (_line(x(at), top, x(at), bottom, colour, dash="3 2") for at in moments)
    for name, points in panel.lines.items():
        colour = COLOURS[list(panel.lines).index(name) % len(COLOURS)]
        legend.append((name, colour))
        if panel.bars:
            yield from (_line(x(at), bottom, x(at), y(value), colour, width=3) for at, value in points if value)
        elif points:
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for row, (name, colour) in enumerate(legend):
        yield f'<rect x="{right + 12}" y="{top + row * 15}" width="10" height="10" fill="{colour}"/>'
        yield _text(right + 27, top + row * 15 + 9, name)


def _ticks(seconds: float) -> list[float]:
    step = next(step for step in (15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400) if seconds / step <= 12)
    return [float(at) for at in range(0, int(seconds) + 1, step)]


def _nice(value: float) -> float:
    """The next round number."""
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.1
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 6, 8, 10) if factor * power >= value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "", width: float = 1) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {places} stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
