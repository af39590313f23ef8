"""A QGIS style beside the vectors: the colour of the class, outline and a light fill.

QGIS applies `<name>.qml` by itself when it opens `<name>.geojson` or any other format beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tilingseg.features.layer import Layer

_FILL_ALPHA = 70
"""Opacity of polygons, 0…255: the scene stays visible."""
_WIDTH_MM = 0.4


def qgis_style(layer: Layer) -> str:
    """Return the text of a .qml file.

    Args:
        layer: colour and geometry type.
    """
    opaque = ",".join(map(str, (*layer.color, 255)))
    if layer.geometry_type != "LineString":
        kind, symbol_layer = "fill", "SimpleFill"
        light = ",".join(map(str, (*layer.color, _FILL_ALPHA)))
        properties = {
            "color": light,
            "style": "solid",
            "outline_color": opaque,
            "outline_style": "solid",
            "outline_width": str(_WIDTH_MM),
            "outline_width_unit": "MM",
        }
    else:
        kind, symbol_layer = "line", "SimpleLine"
        properties = {
            "line_color": opaque,
            "line_style": "solid",
            "line_width": str(2 * _WIDTH_MM),
            "line_width_unit": "MM",
        }
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(root, "renderer-v2", type="singleSymbol")
    symbols = ElementTree.SubElement(renderer, "symbols")
    symbol = ElementTree.SubElement(symbols, "symbol", type=kind, name="0", alpha="1")
    drawn = ElementTree.SubElement(symbol, "layer", {"class": symbol_layer, "enabled": "1"})
    options = ElementTree.SubElement(drawn, "Option", type="Map")
    for name, value in properties.items():
        ElementTree.SubElement(options, "Option", type="QString", name=name, value=value)
        ElementTree.SubElement(drawn, "prop", k=name, v=value)  # QGIS before 3.26 reads these
    ElementTree.indent(root)
    header = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return header + ElementTree.tostring(root, encoding="unicode") + "\n"
