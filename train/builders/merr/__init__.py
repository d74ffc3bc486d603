"""Instruction data from clips, in the manner of MERR: peak frame, readings to phrases, a description, an explanation.

The idea is Emotion-LLaMA's (Cheng et al., NeurIPS 2024, the MERR data set): from a labelled or unlabelled clip to a
coarse description of what is seen and heard, and from that to a fine explanation of the emotion. The wording, the rules
file and the checks are this project's own.
"""
