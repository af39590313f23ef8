"""From label rasters to polygons and centrelines.

    mask ─ trace (strips, rings) ─▶ shapes along pixel edges, whole over all seams
         ─ buildings ─▶ footprints     ─ roads ─▶ road polygons     ─ areas ─▶ any other class
    mask ─ centerlines ─▶ road network

`layers` chooses by the name of the class. Shapes and features are in pixel coordinates; where they
lie on the map is the business of `features`.
"""
