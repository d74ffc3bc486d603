"""Reports that take more than a kept result: videos, which need the clip, and summaries of many analyses."""
