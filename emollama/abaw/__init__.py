"""From kept readings of faces and sound to the answers of ABAW's five tasks: heads, what was tuned, decisions.

``expr``, ``va`` and ``au`` have an answer for every frame, ``ce`` a compound expression for every frame by way of the
head of ``expr``, ``emi`` six intensities for every clip. Training (`train.abaw`) and submissions (`eval.submissions`)
decide by this code, so that what was tuned is what is answered.
"""

TASKS = ("expr", "va", "au", "ce", "emi")
