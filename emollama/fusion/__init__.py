"""Fusion beside the LLM: utterance vectors of any encoders and a small classifier with attention over them.

An utterance vector is one vector for a clip and a modality (MERBench's ``-UTT`` features). `utterances` keeps tables of
them, `classifier` tells emotions from them whatever is absent, `cues` and `emollama.encoders.prompted_text` make the
vector of the words, and `composed` makes clips of public single-modality sets.
"""
