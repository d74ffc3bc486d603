"""Self-training: a classifier labels what is unlabelled, the surest labels join the training clips, and so on.

`selection` chooses pseudo-labels by thresholds for each class and in balance, `folds` keeps validation folds clean,
`rounds` runs it, `report` says what each round did.
"""
