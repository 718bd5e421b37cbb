"""Dialogues and chat templates: what a chat model reads, and which of its tokens are trained."""
