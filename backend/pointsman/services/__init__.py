"""Seed 004's services over a language model: tasks and summaries of mails, titles of conversations."""
