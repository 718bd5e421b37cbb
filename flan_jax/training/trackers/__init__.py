"""Trackers of experiments (TRACKER): the numbers of `metrics.jsonl` in TensorBoard, wandb, trackio.

`tracking` decides what is sent and when; each other file opens one tracker. To add one, write a
file with a function `open_tracker` and list it in `registry`; a module of your own needs neither
(`module_tracker`).
"""
