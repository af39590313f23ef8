"""From label rasters to polygons and centrelines."""
