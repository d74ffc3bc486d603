"""Chat about clips: what a conversation holds, where its clips come from, what is kept of them, and the answers."""
