"""What a chart may hold before it goes into the page of curves: shapes and text, nothing else.

The page's content security policy forbids style attributes, scripts and foreign sources; this makes
sure that no picture asks for them.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from markupsafe import Markup

_SVG = "http://www.w3.org/2000/svg"
_ELEMENTS = frozenset(
    ["svg", "g", "defs", "clipPath", "path", "line", "rect", "circle", "text", "tspan"]
)
_GEOMETRY = frozenset(["d", "transform", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "dx"])
_PLAIN = frozenset(
    [
        *("width", "height", "dy", "viewBox", "id", "opacity", "fill-opacity", "stroke-opacity"),
        *("stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin"),
        *("stroke-miterlimit", "stroke-dashoffset", "font-size", "font-weight", "font-style"),
        *("font-family", "text-anchor", "dominant-baseline"),
    ]
)
_ROOT = frozenset(["class", "role", "aria-label"])
#: What Vega adds for pointers and assistive technology: the picture is one image with a label.
_NOISE = re.compile(r"aria-.*|role|class|pointer-events|font-family|version")
_VALUE = re.compile(r"[\w\s.,#%()+-]*")
_COLOUR = re.compile(r"var\(--[a-z]+(?:-[0-9])?\)|none|transparent")
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class UnsafeSvgError(ValueError):
    """An SVG holds something that no page may get."""


def image(svg: str, label: str) -> Markup:
    """`svg` of our renderer as one image with `label`, for a template.

    Its ids are named after its content. Raises `UnsafeSvgError` for an element, attribute or value
    that is not on the list.
    """
    from markupsafe import Markup

    root = _parsed(svg)
    for element in root.iter():
        _clean(element)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-label": label,
        "font-family": "system-ui, sans-serif",
    }
    for element in root.iter():
        _check(element, is_root=element is root)
    _name_ids(root, hashlib.sha256(svg.encode()).hexdigest()[:8])
    ET.register_namespace("", _SVG)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - checked above


def _parsed(svg: str) -> ET.Element:
    if "<!" in svg or "<?" in svg:
        raise UnsafeSvgError("a declaration, comment or processing instruction")
    try:
        return ET.fromstring(svg)  # noqa: S314 - written by our renderer, and without a DTD
    except ET.ParseError as error:
        raise UnsafeSvgError(f"not well formed: {error}") from None


def _clean(element: ET.Element) -> None:
    for child in [child for child in element if _is_blank(child)]:
        element.remove(child)
    for rule in element.attrib.pop("style", "").split(";"):
        name, colon, value = rule.partition(":")
        if colon:
            element.set(name.strip(), value.strip())
    for name, value in list(element.items()):
        if _NOISE.fullmatch(name):
            del element.attrib[name]
        elif name in _GEOMETRY:
            element.set(name, _NUMBER.sub(lambda found: f"{round(float(found[0]), 2):g}", value))


def _is_blank(element: ET.Element) -> bool:
    if element.get("opacity") == "0":
        return True
    frame = element.get("class") in ("background", "foreground")
    return frame and element.get("fill") is None and element.get("stroke") is None


def _check(element: ET.Element, *, is_root: bool) -> None:
    space, _, tag = element.tag[1:].partition("}")
    if space != _SVG or tag not in _ELEMENTS or (tag == "svg") != is_root:
        raise UnsafeSvgError(f"element {element.tag}")
    for name, value in element.items():
        if not _is_allowed(name, value, is_root=is_root):
            raise UnsafeSvgError(f"attribute {name}={value[:80]!r} of {tag}")


def _is_allowed(name: str, value: str, *, is_root: bool) -> bool:
    if name in ("fill", "stroke"):
        return _COLOUR.fullmatch(value) is not None
    if name == "clip-path":
        return _REFERENCE.fullmatch(value) is not None
    if is_root and name in _ROOT:
        return True
    return (name in _GEOMETRY or name in _PLAIN) and _VALUE.fullmatch(value) is not None


def _name_ids(root: ET.Element, name: str) -> None:
    """Ids of its own for each picture of a page."""
    for element in root.iter():
        if (own := element.get("id")) is not None:
            element.set("id", f"c{name}-{own}")
        if (clip := element.get("clip-path")) is not None:
            element.set("clip-path", _REFERENCE.sub(rf"url(#c{name}-\1)", clip))
