"""HSEmotion's face models trained on AffectNet: its pictures, losses and figures."""
