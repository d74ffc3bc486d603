"""Many clips, one folder of answers: ``emollama batch MANIFEST --out DIR`` (docs/batch.md).

`sources` reads what is to be labelled, `labelling` answers one clip, `workers` runs it in processes or here,
`ray_workers` on a cluster, `folder` keeps what is done in a way that no kill can hurt, and `run` ties them together.
"""
