"""The command line: dispatch of verbs, what a verb sets up, what it prints."""
