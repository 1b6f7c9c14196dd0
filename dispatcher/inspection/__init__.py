"""Answers people's questions and changes nothing."""
