"""Line plots as SVG, without a library."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 130, 30, 45
COLOURS = ["#0b6e4f", "#c1440e", "#3b5b92", "#8a6d3b", "#6b4c9a"]


def nice(most):
    """The end of a scale that begins at 0, and its step."""
    power = 10 ** math.floor(math.log10(most))
    step = next(factor * power for factor in (0.2, 0.25, 0.5, 1, 2) if most / (factor * power) <= 6)
    return math.ceil(most * 1.05 / step) * step, step


def line_plot(title, x_name, y_name, lines):
    """An SVG of `lines`, {name: [(x, y), ...]}, over a logarithmic x."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    end, step = nice(max(y for points in lines.values() for _, y in points))
    low, high = math.log10(xs[0]), math.log10(xs[-1])

    def place(x, y):
        across = (math.log10(x) - low) / ((high - low) or 1)
        up = y / end * (HEIGHT - TOP - BOTTOM)
        return (LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>']
    tick = 0.0
    while tick <= end + step / 2:
        _, y = place(xs[0], tick)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" '
                   'stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        tick += step
    for x in xs:
        across, _ = place(x, 0)
        out.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                   f'text-anchor="middle">{x:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
    out.append(f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" '
               f'text-anchor="middle">{escape(y_name)}</text>')
    for n, (name, points) in enumerate(lines.items()):
        colour = COLOURS[n % len(COLOURS)]
        places = [place(x, y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
        out.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{TOP + 18 * n}" width="12" height="12" '
                   f'fill="{colour}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 32}" y="{TOP + 10 + 18 * n}">{escape(name)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
