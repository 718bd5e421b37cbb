"""Settings: gin files, command-line flags, and the checks of what users set."""
