"""What an SVG may hold before it goes into a page: shapes and text, and nothing that acts or loads.

The site's content security policy forbids inline style, script and foreign sources; this makes sure
that no picture asks for them. It reads what our own renderer wrote, not files of strangers.
"""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree as ET

_SVG = "http://www.w3.org/2000/svg"
_ELEMENTS = frozenset(
    ["svg", "g", "defs", "clipPath", "path", "line", "rect", "circle", "text", "tspan"]
)
_GEOMETRY = frozenset(["d", "transform", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "dx"])
_PLAIN = frozenset(
    [
        *("width", "height", "dy", "points", "viewBox", "id", "opacity"),
        *("fill-opacity", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linecap"),
        *("stroke-linejoin", "stroke-miterlimit", "stroke-dashoffset", "font-size", "font-weight"),
        *("font-style", "font-family", "text-anchor", "dominant-baseline"),
    ]
)
_ROOT = frozenset(["class", "role", "aria-label", "xmlns", "version"])
_VALUE = re.compile(r"[\w\s.,#%()+-]*")
_COLOUR = re.compile(r"var\(--[a-z]+(?:-[0-9])?\)|none|transparent")
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
#: What Vega adds for assistive technology and for pointers; the picture is one image with a label.
_NOISE = re.compile(r"aria-.*|role|class|pointer-events|font-family")
_DEFAULTS = {
    ("opacity", "1"),
    ("transform", "translate(0,0)"),
    ("stroke-width", "1"),
    ("font-weight", "normal"),
}


class UnsafeSvgError(ValueError):
    """An SVG holds something that no page may get."""


def hardened(svg: str, *, label: str | None = None) -> str:
    """`svg` cleaned, checked, with ids of its own, and with `label` for those who can't see it.

    Without `label` it keeps the one it has; what is hardened already comes back as it is.

    Raises UnsafeSvgError for any element, attribute or value that is not on the list, and for
    what is no SVG. Equal `svg` but for the names of its ids gives equal text.
    """
    root = _parsed(svg)
    _clean(root)
    _flatten(root)
    _frame(root, label)
    for element in root.iter():
        _check(element, is_root=element is root)
    _own_ids(root)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def checked(svg: str) -> str:
    """`svg` as it is, if it is as `hardened` leaves pictures: for those that were hardened before.

    Raises UnsafeSvgError else.
    """
    root = _parsed(svg)
    for element in root.iter():
        _check(element, is_root=element is root)
    return svg


def _parsed(svg: str) -> ET.Element:
    if "<!" in svg or "<?" in svg:
        raise UnsafeSvgError("a declaration, comment or processing instruction")
    try:
        return ET.fromstring(svg)  # noqa: S314 - written by our renderer, and without a DTD
    except ET.ParseError as error:
        raise UnsafeSvgError(f"not well formed: {error}") from None


def _clean(root: ET.Element) -> None:
    """Drop what the renderer adds and the page does not need."""
    for parent in list(root.iter()):
        _style_to_attributes(parent)
        for child in [child for child in parent if _is_empty(child)]:
            parent.remove(child)
        for name, value in list(parent.items()):
            if (_NOISE.fullmatch(name) and parent is not root) or (name, value) in _DEFAULTS:
                del parent.attrib[name]
            elif name in _GEOMETRY:
                parent.set(name, _NUMBER.sub(_rounded, value))


def _is_empty(element: ET.Element) -> bool:
    """What shows nothing: frames of groups without a colour, groups of nothing."""
    if element.tag == f"{{{_SVG}}}g":
        return all(map(_is_empty, element))
    if element.get("opacity") == "0":
        return True
    frame = element.get("class") in ("background", "foreground")
    return frame and element.get("fill") is None and element.get("stroke") is None


def _flatten(parent: ET.Element) -> None:
    """Put the children of groups without attributes in the groups' place."""
    for place, child in reversed([*enumerate(parent)]):
        _flatten(child)
        if child.tag == f"{{{_SVG}}}g" and not child.attrib:
            parent[place : place + 1] = list(child)


def _rounded(number: re.Match[str]) -> str:
    """Hundredths of a pixel are enough, and the same on every machine."""
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _style_to_attributes(element: ET.Element) -> None:
    for rule in element.attrib.pop("style", "").split(";"):
        name, colon, value = rule.partition(":")
        if colon:
            element.set(name.strip(), value.strip())


def _frame(root: ET.Element, label: str | None) -> None:
    """The root: scaled by the page, one image to assistive technology."""
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", root.get("aria-label", "") if label is None else label)
    root.set("font-family", "system-ui, sans-serif")


def _check(element: ET.Element, *, is_root: bool) -> None:
    space, _, tag = element.tag[1:].partition("}")
    if space != _SVG or tag not in _ELEMENTS or (tag == "svg") != is_root:
        raise UnsafeSvgError(f"element {element.tag}")
    for name, value in element.items():
        if not _allowed(name, value, is_root=is_root):
            raise UnsafeSvgError(f"attribute {name}={value[:80]!r} of {tag}")


def _allowed(name: str, value: str, *, is_root: bool) -> bool:
    if name in ("fill", "stroke"):
        return _COLOUR.fullmatch(value) is not None
    if name == "clip-path":
        return _REFERENCE.fullmatch(value) is not None
    if is_root and name in _ROOT:
        return True
    known = name in _GEOMETRY or name in _PLAIN
    return known and _VALUE.fullmatch(value) is not None and "url" not in value


def _own_ids(root: ET.Element) -> None:
    """Name ids after the content, so that pictures on one page don't take each other's."""
    ids = [element for element in root.iter() if element.get("id") is not None]
    _rename(root, {str(element.get("id")): f"i{n}" for n, element in enumerate(ids)})
    digest = hashlib.sha256(ET.tostring(root)).hexdigest()[:12]
    _rename(root, {f"i{n}": f"c{digest}-{n}" for n in range(len(ids))})


def _rename(root: ET.Element, names: dict[str, str]) -> None:
    for element in root.iter():
        if (own := element.get("id")) is not None:
            element.set("id", names[own])
        if (clip := element.get("clip-path")) is not None:
            target = clip[len("url(#") : -1]
            if target not in names:
                raise UnsafeSvgError(f"a reference to #{target}, which is not there")
            element.set("clip-path", f"url(#{names[target]})")
