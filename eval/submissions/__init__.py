"""Files of answers in the formats that challenges take: ABAW's five tasks, and MER's closed labels.

``emollama eval submit`` writes one from the kept readings of a face model; every listed frame gets a row.
"""
