"""
Firmware known by name: catalogues, what is added to them, and the search for a measurement.

`known` reads catalogues, `made` makes an entry of a file, `search` finds what was launched where
only its measurement is known.
"""
