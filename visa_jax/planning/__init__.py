"""What a run would need on machines that are not there: compiled ahead of time, counted, set against published rates.

``topology`` the slice and its chips; ``programs`` compiles; ``hlo`` reads what was compiled; ``counts`` is the same
from the sizes alone; ``roofline`` turns both into seconds.
"""
