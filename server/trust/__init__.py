"""What people who are read may count on: declared purposes, consent, a notice, a log of who had what read."""
