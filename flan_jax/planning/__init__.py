"""How a model lies on a slice of accelerators, told before there is one: hardware, compiled
programs, estimates.
"""
