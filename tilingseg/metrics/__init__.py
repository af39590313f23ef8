"""How good masks, footprints and road networks are, against truth.

`pixels` compares masks window by window, `polygons` footprints, `roads` networks: they take arrays
and geometries, name their units and read no file. `vector_files` reads two files for them.
"""
